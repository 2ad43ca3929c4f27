"""A daemon that is stopped, slowed and killed at random moments, and comes back, while programs connect and read.

Nobody waits longer than a bound for anything, no byte is wrong, nobody hangs or ends; what cannot go by berth meanwhile goes by
the kernel. When the daemon is back to stay, programs that begin then meet by berth again.
"""

import os
import random
import signal
import time

import harness

PYTHON = "/usr/bin/python3"

# Echoes to as many as come; a thread for each, which blocks.
SERVER = """
import socket, sys, threading
l = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=300)
def serve(s):
    try:
        while data := s.recv(65536):
            s.sendall(data)
    except OSError as e:
        print("a session ended:", repr(e), flush=True)
    s.close()
while True:
    threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""

# Holds two connections (one of them to a server of its own, which it leaves for another one now and then) and makes new ones,
# each in a way of its own, until it is told to end. Whatever takes longer than the bound is said, with its name.
CLIENT = """
import hashlib, os, random, select, socket, sys, threading, time
from slowness import slow
port, nobody, seed, bound = *map(int, sys.argv[1:4]), slow(float(sys.argv[4]))
chance = random.Random(seed)
worst = {}
def timed(what, call, *args):
    begin = time.monotonic()
    result = call(*args)
    took = time.monotonic() - begin
    worst[what] = max(worst.get(what, 0), took)
    assert took < bound, f"{what} took {took:.2f} s"
    return result
def read_blocking(s, n):
    return s.recv(n)
def read_select(s, n):
    assert select.select([s], [], [], bound)[0], "select"
    return s.recv(n)
def read_poll(s, n):
    p = select.poll()
    p.register(s, select.POLLIN)
    assert p.poll(bound * 1000), "poll"
    return s.recv(n)
def read_epoll(s, n):
    with select.epoll() as e:
        e.register(s, select.EPOLLIN | select.EPOLLET)
        assert e.poll(bound), "epoll"
        return s.recv(n)
ways = {"read": read_blocking, "select": read_select, "poll": read_poll, "epoll": read_epoll}
def check(s):
    name = chance.choice(list(ways))
    data = hashlib.sha256(b"%d" % chance.getrandbits(64)).digest() * chance.choice((1, 20, 1500))
    timed("write", s.sendall, data)
    got = b""
    while len(got) < len(data):
        part = timed(name, ways[name], s, len(data) - len(got))
        assert part, f"the end after {len(got)} of {len(data)} bytes"
        got += part
    assert got == data, "wrong bytes"
def connect():
    if chance.random() < 0.5:
        s = timed("connect", socket.create_connection, ("127.0.0.1", port), bound)
    else:
        s = socket.socket()
        s.setblocking(False)
        try:
            timed("connect without blocking", s.connect, ("127.0.0.1", port))
        except BlockingIOError:
            pass
        assert timed("being connected", select.select, [], [s], [], bound)[1], "connect"
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    s.settimeout(bound * 2) # what takes longer than the bound is told by its name
    return s
def own_server():
    l = timed("listen", socket.create_server, ("127.0.0.1", 0))
    def serve():
        s = l.accept()[0]
        while data := s.recv(65536):
            s.sendall(data)
    threading.Thread(target=serve, daemon=True).start()
    s = timed("connect to itself", socket.create_connection, l.getsockname(), bound)
    s.settimeout(bound * 2)
    return s
kept = [connect(), own_server()]
rounds = 0
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for s in kept:
        check(s)
    s = connect()
    for _ in range(chance.randrange(3)):
        check(s)
    s.close()
    if chance.random() < 0.2:
        kept.pop().close()
        kept.append(own_server())
    if chance.random() < 0.2:
        try:
            timed("being refused", socket.create_connection, ("127.0.0.1", nobody), bound)
            raise SystemExit("somebody listens where nobody does")
        except ConnectionRefusedError:
            pass
    rounds += 1
    time.sleep(chance.random() * 0.02)
for s in kept:
    check(s)
print("done", rounds, {k: round(v, 2) for k, v in worst.items()}, flush=True)
"""

ONE = """
import socket, sys
from slowness import slow
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(10))
s.sendall(b"hello")
assert s.recv(10) == b"hello"
print("good", flush=True)
sys.stdin.readline()
"""


@harness.needs_preload
class Unsteady(harness.TestCase):
    limit = harness.pick(120, 900)
    bound = 1.5  # seconds, for any call: a stopped daemon costs a process one short wait

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("BERTH_TEST_SEED", harness.pick("1", str(time.time_ns() % 1_000_000))))
        self.chance = random.Random(self.seed)
        self.nobody = self.free_port()

    def clients(self, port, n, **more):
        """more: for those that begin without a daemon, since `berth run` would start one."""
        start = self.start if more else self.start_under
        some = [start(PYTHON, "-c", CLIENT, port, self.nobody, self.chance.randrange(1 << 30), self.bound, stdin=-1, **more)
                for _ in range(n)]
        for client in some:
            self.wait_until(lambda c=client: "begun" in c.out or not c.running(), f"a client's start\n{client!r}")
        return some

    def still_running(self, programs, what):
        for program in programs:
            self.assertTrue(program.running(), f"seed {self.seed}, {what}: {program!r}\nthe server: {programs[0].out}")

    def tell_to_end(self, clients):
        for client in clients:
            client.process.stdin.write(b"\n")
            client.process.stdin.close()
        for client in clients:
            self.assertEqual(client.wait(30), 0, f"seed {self.seed}: {client!r}")
            self.assertIn("done", client.out)
            self.assertGreater(int(client.out.split("done ")[1].split()[0]), 5, repr(client))

    def meet_again(self):
        """Those that begin now, with a daemon that is well, meet by berth."""
        port = self.free_port()
        server = self.start_under(PYTHON, "-c", SERVER, port)
        self.wait_listening(port, server)
        before = len(self.show("sessions"))
        one = self.start_under(PYTHON, "-c", ONE, port, stdin=-1)
        self.wait_until(lambda: "good" in one.out or not one.running(), f"an answer\n{one!r}")
        self.assertTrue(one.running(), repr(one))
        self.wait_until(lambda: len(self.show("sessions")) > before, "a session of programs that began afterwards")
        one.process.stdin.close()
        self.assertEqual(one.wait(), 0, repr(one))

    def stop_for_a_while(self, daemon, seconds=None):
        daemon.kill(signal.SIGSTOP)
        time.sleep(seconds or self.chance.choice((0.01, 0.1, 0.5)))
        daemon.kill(signal.SIGCONT)

    def slow_down(self, daemon):
        """It runs a tenth of the time."""
        for _ in range(30):
            daemon.kill(signal.SIGSTOP)
            time.sleep(self.chance.random() * 0.04)
            daemon.kill(signal.SIGCONT)
            time.sleep(self.chance.random() * 0.004)

    def test_stopped_and_slowed(self):
        daemon = self.daemon()
        port = self.free_port()
        server = self.start_under(PYTHON, "-c", SERVER, port)
        self.wait_listening(port, server)
        clients = self.clients(port, 3)
        self.stop_for_a_while(daemon, harness.pick(2, 4))  # longer than anybody may wait
        self.still_running([server, *clients], "while the daemon was stopped")
        end = time.monotonic() + harness.pick(4, 120)
        while time.monotonic() < end:
            self.chance.choice((self.stop_for_a_while, self.slow_down))(daemon)
            time.sleep(self.chance.random() * 0.3)
            self.still_running([server, *clients], "while the daemon was stopped and slowed")
            if self.chance.random() < 0.3:  # somebody begins while the daemon stands still
                daemon.kill(signal.SIGSTOP)
                late = self.start_under(PYTHON, "-c", ONE, port, stdin=-1)
                self.wait_until(lambda p=late: "good" in p.out or not p.running(), f"one who began meanwhile\n{late!r}", 4)
                daemon.kill(signal.SIGCONT)
                late.process.stdin.close()
                self.assertEqual(late.wait(), 0, f"seed {self.seed}: {late!r}")
        self.assertTrue(daemon.running(), repr(daemon))
        self.meet_again()
        self.tell_to_end(clients)
        self.assertEqual(server.out, "", repr(server))
        self.wait_until(lambda: not self.show("sessions"), "the last sessions to go")

    def test_killed(self):
        port = self.free_port()
        daemon = self.daemon()
        server = self.start_under(PYTHON, "-c", SERVER, port)
        self.wait_listening(port, server)
        clients = self.clients(port, 2)
        for turn in range(harness.pick(3, 20)):
            time.sleep(self.chance.random())
            if self.chance.random() < 0.5:  # it dies as it stands
                daemon.kill(signal.SIGSTOP)
                time.sleep(self.chance.random() * 0.5)
            daemon.kill(signal.SIGKILL)
            daemon.wait()
            time.sleep(self.chance.random())  # nobody is there: what is new goes to the kernel
            self.still_running([server, *clients], f"after death {turn}")
            clients += self.clients(port, 1, env={"LD_PRELOAD": harness.SHIM})
            daemon = self.daemon()
            clients += self.clients(port, 1)
            self.meet_again()
            self.still_running([server, *clients], f"with daemon {turn + 2}")
            if len(clients) > 6:
                self.tell_to_end(clients[:4])
                del clients[:4]
        self.tell_to_end(clients)
        self.assertEqual(server.out, "", repr(server))


if __name__ == "__main__":
    harness.main()
