"""Connections that go from one program to the next: while bytes flow, with programs killed on the way, and to programs that
know nothing of berth."""

import os

import harness

MOVES = os.path.join(harness.BUILD, "tests", "stress", "moves")
HOME = os.path.join(harness.BUILD, "tests", "stress", "home")
PYTHON = "/usr/bin/python3"
DELAYS = os.path.exists(os.path.join(harness.BUILD, "tests", "stress", "delays"))

# Accepts a connection and sends it to a program of its own choice, which answers; the client is told what it says, and how
# many bytes came. argv: what starts the receiver.
SENDER = """
import array, os, socket, subprocess, sys
from slowness import slow
listener = socket.create_server(("127.0.0.1", 0))
client = os.fork()
if client == 0:
    sum = 0
    with socket.create_connection(listener.getsockname()) as s:
        s.settimeout(slow(20))
        s.sendall(b"q" * 100000)
        s.shutdown(socket.SHUT_WR)
        print("answer:", s.makefile("rb").read().decode(), flush=True)
    os._exit(0)
s, _ = listener.accept()
s.recv(1)
ours, theirs = socket.socketpair()
os.set_inheritable(theirs.fileno(), True)
receiver = subprocess.Popen(sys.argv[1:] + [str(theirs.fileno())], pass_fds=[theirs.fileno()])
theirs.close()
ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
s.close()
receiver.wait()
os.waitpid(client, 0)
"""

# A program is executed with one connection under two numbers and with another one, as it was before. argv: this text.
NUMBERS = """
import os, socket, sys
from slowness import slow
if len(sys.argv) > 2:
    a, b, other = (socket.socket(fileno=int(n)) for n in sys.argv[2:])
    for s in a, b, other:
        s.settimeout(slow(10))
    print(a.recv(3), b.recv(3), other.recv(3), flush=True)
    a.send(b"A")
    b.send(b"B")
    other.send(b"O")
    a.close()
    b.send(b"C")
    print(b.recv(3), flush=True)
    b.shutdown(socket.SHUT_WR)
    print(other.recv(3), flush=True)
    sys.exit()
listener = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    first, second = (socket.create_connection(listener.getsockname()) for _ in range(2))
    for s in first, second:
        s.send(b"x")
        assert s.recv(1) == b"y"
    fds = [first.fileno(), os.dup(first.fileno()), second.fileno()]
    for fd in fds:
        os.set_inheritable(fd, True)
    listener.close()
    try:
        os.execv("/nowhere", ["nowhere"])
    except FileNotFoundError:
        os.write(fds[1], b"z")
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], sys.argv[1], *map(str, fds)])

def until(s, n):
    got = b""
    while len(got) < n and (more := s.recv(n - len(got))):
        got += more
    return got

first, second = (listener.accept()[0] for _ in range(2))
listener.close()
for s in first, second:
    s.settimeout(slow(20))
    assert s.recv(1) == b"x"
    s.send(b"y")
assert first.recv(1) == b"z"
first.send(b"123456")
second.send(b"abc")
print(until(first, 3), until(second, 1), flush=True)
first.send(b"789")
print(until(first, 1), flush=True)
sys.stdin.readline()
second.send(b"end")
print(until(second, 1), os.wait()[1], flush=True)
"""

# The daemon is stopped while the connection goes. argv: the daemon's pid, the receiver.
SLOW = """
import array, os, signal, socket, subprocess, sys, time
from slowness import slow
listener = socket.create_server(("127.0.0.1", 0))
ours, theirs = socket.socketpair()
os.set_inheritable(theirs.fileno(), True)
receiver = subprocess.Popen([sys.argv[2], str(theirs.fileno())], pass_fds=[theirs.fileno()])
theirs.close()
client = socket.create_connection(listener.getsockname())
client.settimeout(slow(20))
s, _ = listener.accept()
client.sendall(b"q" * 1000)
os.kill(int(sys.argv[1]), signal.SIGSTOP)
ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
s.close()
time.sleep(0.5)
os.kill(int(sys.argv[1]), signal.SIGCONT)
client.sendall(b"q" * 1000)
client.shutdown(socket.SHUT_WR)
print("answer:", client.makefile("rb").read().decode(), flush=True)
receiver.wait()
"""

RECEIVER = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    char byte, space[CMSG_SPACE(sizeof(int))], buf[4096];
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    int fd;
    long sum = 0, n;
    if (recvmsg(atoi(argv[1]), &m, 0) != 1)
        return 1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    while ((n = read(fd, buf, sizeof buf)) > 0)
        sum += n;
    n = snprintf(buf, sizeof buf, "%ld bytes", sum);
    return write(fd, buf, (size_t)n) != n;
}
"""

# Each request is answered by a worker to which the first process has sent the connection.
CLUSTER = """
const cluster = require('cluster'), net = require('net');
cluster.schedulingPolicy = cluster.POLICY;
if (cluster.isPrimary) {
    let up = 0, left = 60, wrong = 0;
    const seen = new Set();
    for (let i = 0; i < 3; i++)
        cluster.fork();
    cluster.on('listening', (worker, at) => {
        if (++up < 3)
            return;
        const one = () => {
            const c = net.connect(at.port, '127.0.0.1');
            let said = '';
            c.on('data', d => said += d);
            c.on('error', e => { wrong++; console.log(String(e)); });
            c.on('close', () => {
                wrong += said.slice(0, 5) != 'hello';
                seen.add(said);
                if (--left)
                    return one();
                console.log('wrong:', wrong, 'workers:', seen.size);
                process.exit(0);
            });
            c.write('hello');
        };
        one();
    });
} else {
    net.createServer(s => s.on('data', d => s.end(d + ' of ' + process.pid))).listen(PORT);
}
"""


class ByLibberth(harness.TestCase):
    limit = harness.pick(200, 600)

    def moves(self, *args, env=None, program=MOVES):
        self.daemon()
        env = {"TSAN_OPTIONS": os.environ.get("TSAN_OPTIONS", "") + ":die_after_fork=0",
               "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0", **(env or {})}
        done = self.run_program(program, *args, env=env, seconds=120)
        self.assertEqual(done.code, 0, repr(done))
        self.assertIn(": passed", done.out)
        return done.out

    def test_no_byte_is_lost_on_the_way(self):
        for seed in harness.pick((1,), range(1, 9)):
            self.moves(str(seed), "50" if harness.SANITIZER else "150")

    def test_programs_are_killed_on_the_way(self):
        for seed in harness.pick((1,), range(1, 9)):
            self.moves(str(seed), "50" if harness.SANITIZER else "150", "kill")

    def test_children_take_home_what_their_parents_met(self):
        for seed in harness.pick((1,), range(1, 9)):
            out = self.moves(str(seed), "50" if harness.SANITIZER else "150", program=HOME)
            if not harness.SANITIZER: # else they may never sleep
                self.assertNotIn("moved: 0 and 0", out)

    def test_children_are_killed_on_the_way_home(self):
        for seed in harness.pick((1,), range(1, 9)):
            self.moves(str(seed), "50" if harness.SANITIZER else "150", "kill", program=HOME)


class Delayed(ByLibberth):
    """The same with delays at each atomic operation."""

    def moves(self, *args, env=None, program=MOVES):
        for permille in (250, 20):
            out = super().moves(*args, env={"BERTH_DELAYS": str(permille), "BERTH_DELAY_SEED": str(permille), "BERTH_FAULTS": "1"},
                                program=program)
        return out

    def daemon(self, *args, **more):
        return super().daemon(*args, **more) if not self.daemon_answers() else None


if not DELAYS:
    del Delayed  # it needs a build with -Dberth_delays=true: make check-delays


@harness.needs_preload
class ByPrograms(harness.TestCase):
    def receiver(self, *flags):
        source = self.file("receiver.c", RECEIVER)
        program = os.path.join(self.scratch, "receiver")
        compiler = self.run_program("/usr/bin/gcc", "-O1", *flags, "-o", program, source)
        self.assertEqual(compiler.code, 0, repr(compiler))
        return program

    def send_to(self, *receiver):
        self.daemon()
        done = self.run_under(PYTHON, "-c", SENDER, *receiver)
        self.assertEqual(done.code, 0, repr(done))
        self.assertIn("answer: 99999 bytes", done.out)

    def test_to_a_program_under_berth(self):
        self.send_to(self.receiver())

    def test_to_one_that_wants_none_of_it(self):
        self.send_to("/usr/bin/env", "BERTH_OFF=1", self.receiver())

    def test_to_one_without_the_library(self):
        self.send_to("/usr/bin/env", "-u", "LD_PRELOAD", self.receiver())

    def test_to_a_static_program(self):
        self.send_to(self.receiver("-static"))

    @harness.needs_preload_into_python
    def test_under_two_numbers(self):
        self.daemon()
        kernel = self.start(PYTHON, "-c", NUMBERS, NUMBERS, stdin=-1)
        berth = self.start_under(PYTHON, "-c", NUMBERS, NUMBERS, stdin=-1)
        self.wait_until(lambda: "b'ABC'" in berth.out, f"what was written under both numbers: {berth!r}")
        self.assertEqual((len(self.show("workers")), len(self.show("sessions"))), (2, 2), "a relay carries them")
        for program in kernel, berth:
            program.process.stdin.close()
            self.assertEqual(program.wait(30), 0, repr(program))
        self.assertEqual(berth.out, kernel.out)

    def test_while_the_daemon_stands_still(self):
        daemon = self.daemon()
        done = self.run_under(PYTHON, "-c", SLOW, daemon.pid, self.receiver())
        self.assertEqual(done.code, 0, repr(done))
        self.assertIn("answer: 2000 bytes", done.out)

    @harness.needs("node")
    def test_node_hands_connections_to_its_cluster(self):
        self.cluster("SCHED_RR", "wrong: 0 workers: 3")

    @harness.needs("node")
    def test_the_workers_of_nodes_cluster_accept_themselves(self):
        self.cluster("SCHED_NONE", "wrong: 0 workers: ")

    def cluster(self, policy, says):
        self.daemon()
        script = self.file("cluster.js", CLUSTER.replace("PORT", str(self.free_port())).replace("POLICY", policy))
        done = self.run_under("node", script, seconds=60)
        self.assertEqual(done.code, 0, repr(done))
        self.assertIn(says, done.out)


if __name__ == "__main__":
    harness.main()
