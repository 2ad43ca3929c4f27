"""Forking servers: many children at once, and children that end while nobody of the family is awake."""

import os
import signal
import time

import harness

PYTHON = "/usr/bin/python3"

# A child for each connection, which sends back what comes. The parent closes its copy and forgets its children.
FORKING = """
import os, signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
l = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=300)
idle, held = os.pipe()
for i in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0):  # who do nothing, until their elder brother is killed
    if os.fork() == 0:
        l.close()
        if i:
            os.read(idle, 1)
        else:
            print("eldest", os.getpid(), flush=True)
            signal.pause()
        os._exit(0)
    if i == 0:
        os.close(held)
while True:
    c = l.accept()[0]
    if os.fork() == 0:
        l.close()
        try:
            while data := c.recv(65536):
                c.sendall(data)
        except OSError as e:
            print(repr(e), flush=True)
        os._exit(0)
    c.close()
"""

# So many connections at once. Each sends its own bytes and gets them back, three times over, while all others are open.
MANY = """
import hashlib, socket, sys
from slowness import slow
from streams import exact
port, count = int(sys.argv[1]), int(sys.argv[2])
def block(i, turn):
    return hashlib.sha256(b"%d %d" % (i, turn)).digest() * 100
open_ones = []
for i in range(count):
    s = socket.create_connection(("127.0.0.1", port), timeout=slow(20))
    s.sendall(block(i, 0))
    open_ones.append(s)
for turn in range(3):
    for i, s in enumerate(open_ones):
        if turn:
            s.sendall(block(i, turn))
    for i, s in enumerate(open_ones):
        assert exact(s, 3200) == block(i, turn), (i, turn)
print("open", flush=True)
sys.stdin.readline()
for s in open_ones:
    s.shutdown(socket.SHUT_WR)
for s in open_ones:
    assert s.recv(1) == b""
print("done", flush=True)
"""

# Is each connection served, or does it end?
BEYOND = """
import socket, sys
from slowness import slow
port, count = int(sys.argv[1]), int(sys.argv[2])
open_ones, served, ended = [], 0, 0
for i in range(count):
    s = socket.create_connection(("127.0.0.1", port), timeout=slow(20))
    try:
        s.sendall(b"%d" % i)
        got = s.recv(100)
    except (ConnectionResetError, BrokenPipeError):
        got = b""
    assert got in (b"", b"%d" % i), got
    served += got != b""
    ended += got == b""
    open_ones.append(s)
print("served", served, "ended", ended, flush=True)
sys.stdin.readline()
"""

# Both ends are in families, and the caller's moves into an outbox of its own: which of those that accepted only the one
# hears that is at work. Then the other one, asleep since before, ends the connection (ends), or goes on with it (goes-on).
UNHEARD = """
import os, signal, socket, sys, time
from slowness import slow
port, how = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
over, held = os.pipe()
l = socket.create_server(("127.0.0.1", port))
def crowd():
    for i in range(8):
        if os.fork() == 0:
            os.close(held)
            os.read(over, 1)
            os._exit(0)
if os.fork() == 0:
    crowd()
    for turn in range(3):
        s = socket.create_connection(("127.0.0.1", port), timeout=slow(20))
        if (worker := os.fork()) == 0:
            for i in range(150):
                s.sendall(b"%3d" % i)
                assert s.recv(3) == b"%3d" % i
                time.sleep(0.001)
            s.sendall(b"off")
            assert s.recv(100) == b"other" if how == "goes-on" else True
            s.shutdown(socket.SHUT_WR)
            try:
                print(turn, s.recv(100), flush=True)
            except OSError as e:
                print(turn, repr(e), flush=True)
            os._exit(0)
        s.close()
        try:
            os.waitpid(worker, 0)
        except ChildProcessError:
            pass
    os._exit(0)
crowd()
for turn in range(3):
    c = l.accept()[0]
    if os.fork() == 0:
        busy, done = os.pipe()
        if os.fork() == 0:
            while (got := c.recv(3)) != b"off":
                time.sleep(0.001)  # so the caller sleeps, too
                c.sendall(got)
            if how == "ends":
                assert c.recv(3) == b""
            os.write(done, b".")
            time.sleep(0.3)
            os._exit(0)
        os.read(busy, 1)
        if how == "goes-on":
            c.sendall(b"other")
            assert c.recv(3) == b""
        else:
            time.sleep(0.6)
        os._exit(0)
    c.close()
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    pass
"""

# The child answers and ends without closing anything; the parent sleeps meanwhile, and long after.
ENDS = """
import ctypes, os, socket, sys, threading, time
how = sys.argv[2]
l = socket.create_server(("127.0.0.1", int(sys.argv[1])))
until, held = os.pipe()
sleeper = os.fork()
if sleeper == 0:
    l.close()
    os.close(held)
    os.read(until, 1)
    os._exit(0)
while True:
    c = l.accept()[0]
    pid = os.fork()
    if pid == 0:
        got = c.recv(100)
        c.sendall(got * 2)
        if how == "exit":
            sys.exit(0)
        if how == "quick_exit":
            ctypes.CDLL(None).quick_exit(0)
        if how == "_Exit":
            ctypes.CDLL(None)._Exit(0)
        if how == "thread":
            threading.Thread(target=lambda: c.recv(100), daemon=True).start()
            time.sleep(0.1)
        os._exit(0)
    c.close()
    os.waitpid(sleeper if how != "thread" else pid, 0)
    time.sleep(30)
"""

ONE = """
import socket, sys, time
from slowness import slow
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=slow(15))
s.sendall(b"ab")
got = b""
while len(got) < 4:
    got += s.recv(10)
start = time.monotonic()
assert got == b"abab", got
assert s.recv(10) == b""
took = time.monotonic() - start
print("end" if took < slow(1) else f"end after {took:.1f} s")
"""


# One child after the other asks and ends, the parent stays: each is a worker of the same app, more than an app has channels.
ONE_BY_ONE = """
import os, socket, sys
from slowness import slow
port, count = int(sys.argv[1]), int(sys.argv[2])
def ask(s, text):
    s.settimeout(slow(20))
    s.sendall(text)
    assert s.recv(100) == text, text
held = socket.create_connection(("127.0.0.1", port))
ask(held, b"before")
for i in range(count):
    pid = os.fork()
    if pid == 0:
        with socket.create_connection(("127.0.0.1", port)) as s:
            ask(s, b"%d" % i)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, i
ask(held, b"after")
print("done", flush=True)
sys.stdin.readline()
"""

# A socket that is there when the process forks, and connected afterwards: beside a child that has it, or alone.
BEFORE_FORK = """
import os, socket, sys, time
from slowness import slow
port, how = int(sys.argv[1]), sys.argv[2]
s = socket.socket()
if how.startswith("bound"):
    s.bind(("127.0.0.1", 0))
until, held = os.pipe()
until2, ready = os.pipe()
pid = os.fork()
if pid == 0 and how != "daemon":
    if how == "closes":
        s.close()
    if "ends" in how:
        os._exit(0)
    if how == "executes":
        os.set_inheritable(until, True)
        os.close(held)
        os.execv("/bin/sh", ["sh", "-c", f"read line <&{until}"])
    os.write(ready, b"r")
    os.close(held)
    os.read(until, 1)
    os._exit(0)
if pid and how == "daemon":
    os._exit(0)
if "ends" in how:
    os.waitpid(pid, 0)
elif how in ("closes", "stays", "bound-stays"):
    os.read(until2, 1)
else:
    time.sleep(slow(0.5))  # till the parent has ended; till the daemon has told of the exec
s.settimeout(slow(20))
s.connect(("127.0.0.1", port))
s.sendall(b"here")
print(s.recv(100).decode(), flush=True)
sys.stdin.readline()
"""

# Children set and read options of a connection without end, and are killed in the midst of it.
SETTING = """
import os, signal, socket, struct, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def wait(ms=None):
    if ms is None:
        sec, us = struct.unpack("ll", s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
        return sec * 1000 + us // 1000
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", ms // 1000, ms % 1000 * 1000))
for i in range(100):
    pid = os.fork()
    if pid == 0:
        for k in range(10 ** 9):
            wait(4 * (k % 1000))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1 + k % 1000)
            wait()
    time.sleep(0.001 * (i % 4))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait(4000 + 4 * i)
    assert wait() == 4000 + 4 * i, (i, wait())
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1 + i)
    assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 1 + i, i
s.sendall(b"good")
print(s.recv(100).decode())
"""

# Who is to have a connection later holds the listener for a moment as well, so that it is offered to both, and whoever
# accepts does not know at once that he was chosen. He forks, and the child waits in a blocking read.
CHOSEN_LATER = """
import array, os, signal, socket, subprocess, sys
def rest(s):
    while data := s.recv(4000):
        s.sendall(data)
    os._exit(0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", 0), backlog=128)
server = os.fork()
if server == 0:
    while True:
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            listener.close()
            _, anc, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
            if anc:
                rest(socket.socket(fileno=array.array("i", anc[0][2])[0]))
            os._exit(0)
        theirs.close()
        s, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            s.sendall(s.recv(4000))
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
            s.close()
            os._exit(0)
        s.close()
        ours.close()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
code = subprocess.run([sys.executable, "-c", sys.argv[1], str(listener.getsockname()[1])]).returncode
os.kill(server, signal.SIGKILL)
sys.exit(code)
"""

SIX_CLIENTS = """
import socket, sys, threading
from slowness import slow
from streams import exact
wrong = []
def ask():
    for _ in range(40):
        try:
            with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=slow(10)) as s:
                for _ in range(5):
                    s.sendall(b"q" * 3000)
                    if (n := len(exact(s, 3000))) != 3000:
                        wrong.append(f"{n} bytes of 3000")
                s.shutdown(socket.SHUT_WR)
                if s.recv(1):
                    wrong.append("bytes after the end")
        except OSError as e:
            wrong.append(str(e))
threads = [threading.Thread(target=ask) for _ in range(6)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print("wrong:", wrong, flush=True)
"""


@harness.needs_preload_into_python
class Family(harness.TestCase):
    limit = 120

    def serve(self, script, *args):
        if not self.daemon_answers():
            self.daemon()
        self.port = self.free_port()
        self.server = self.start_under(PYTHON, "-c", script, self.port, *args)
        self.wait_listening(self.port, self.server)

    def many(self, count):
        return self.start_under(PYTHON, "-c", MANY, self.port, count, stdin=-1)

    def test_children_alive_at_once(self):
        self.serve(FORKING)
        for _ in range(2):  # the second time in the places of the first ones' children
            client = self.many(150)
            self.wait_until(lambda: "open" in client.out or not client.running(), "150 connections", 60)
            self.assertTrue(client.running(), f"{client!r}\n{self.server!r}")
            self.assertGreaterEqual(len(harness.children_of(self.server.pid)), 150)
            self.assertGreaterEqual(len(self.show("sessions")), 150)  # else the kernel carries them
            client.process.stdin.write(b"\n")
            client.process.stdin.close()
            self.assertEqual(client.wait(30), 0, f"{client!r}\n{self.server!r}")
            self.wait_until(lambda: not harness.children_of(self.server.pid), "the children's end")
        self.assertEqual((self.server.out, self.server.err), ("", ""))

    def test_more_children_than_a_family_may_have(self):
        """Those beyond are served by the kernel's sockets. Then there is room again."""
        self.serve(FORKING, 1950)
        held = self.start_under(PYTHON, "-c", BEYOND, self.port, 150, stdin=-1)
        self.wait_until(lambda: "served" in held.out or not held.running(), "150 connections", 100)
        self.assertEqual(held.out, "served 150 ended 0\n", f"{held!r}\n{self.server!r}")
        self.assertIn(len(self.show("sessions")), range(20, 100))
        held.process.stdin.close()
        self.assertEqual(held.wait(30), 0, repr(held))
        os.kill(int(self.server.out.split()[1]), signal.SIGKILL)
        self.wait_until(lambda: not harness.children_of(self.server.pid), "the children's end", 60)
        client = self.many(10)
        self.wait_until(lambda: "open" in client.out or not client.running(), "10 connections", 60)
        self.assertEqual(len(self.show("sessions")), 10)
        client.process.stdin.close()
        self.assertEqual(client.wait(30), 0, f"{client!r}\n{self.server!r}")
        self.assertEqual(self.server.err.count("processes of this family are alive"), 1, repr(self.server))
        self.assertEqual(self.server.err.count("\n"), 1, repr(self.server))

    def test_relative_that_has_not_heard_where_the_peer_went(self):
        self.daemon()
        for how in ("ends", "goes-on"):
            with self.subTest(how):
                both = self.start_under(PYTHON, "-c", UNHEARD, self.free_port(), how)
                self.wait_until(lambda both=both: both.out.count("\n") == 3 or not both.running(), "three ends", 60)
                self.assertEqual((both.out, both.err), ("".join(f"{i} b''\n" for i in range(3)), ""))

    def test_child_that_reads_hears_that_it_was_chosen(self):
        self.daemon()
        done = self.run_under(PYTHON, "-c", CHOSEN_LATER, SIX_CLIENTS, seconds=90)
        self.assertEqual((done.code, done.out), (0, "wrong: []\n"), repr(done))

    def test_workers_that_come_and_go_one_by_one(self):
        self.serve(harness.ECHO_SERVER)
        client = self.start_under(PYTHON, "-c", ONE_BY_ONE, self.port, 1500, stdin=-1)
        self.wait_until(lambda: "done" in client.out or not client.running(), "all children's answers", 60)
        self.assertIn("done", client.out, f"{client!r}\n{self.server!r}")
        self.wait_until(lambda: len(self.show("sessions")) == 1, "the parent's session alone")
        client.process.stdin.close()
        self.assertEqual((client.wait(30), client.err, self.server.err), (0, "", ""), f"{client!r}\n{self.server!r}")

    def test_shutdown_by_one_who_holds_it_is_everyones(self):
        script = os.path.join(harness.TOP, "tests", "e2e", "shutdowns.py")
        self.daemon()
        kernel = self.start(PYTHON, script, self.free_port())
        berth = self.start_under(PYTHON, script, self.free_port())
        self.wait_until(lambda: self.show("sessions") or not berth.running(), "a session, else the kernel carries them")
        self.assertEqual((berth.wait(60), kernel.wait(60)), (0, 0), f"{berth!r}\n{kernel!r}")
        self.assertIn("done", kernel.out)
        self.assertNotIn("late", kernel.out)
        self.assertEqual(berth.out, kernel.out)

    def test_socket_made_before_a_fork(self):
        """A session where it is had alone when it is connected; else the kernel's."""
        self.serve(harness.ECHO_SERVER)
        for how, sessions in (("ends", 1), ("bound-ends", 1), ("closes", 1), ("daemon", 1), ("executes", 1),
                              ("stays", 0), ("bound-stays", 0)):
            with self.subTest(how):
                client = self.start_under(PYTHON, "-c", BEFORE_FORK, self.port, how, stdin=-1)
                self.wait_until(lambda: "here" in client.out, f"the answer to {how}: {client!r}")
                self.assertEqual(len(self.show("sessions")), sessions, f"{how} {client!r}")
                client.process.stdin.close()
                self.assertEqual((client.wait(20), client.err), (0, ""), f"{how} {client!r}")
                self.wait_until(lambda: not self.show("sessions"), "the end of the session")

    def test_killed_while_they_set_options(self):
        self.serve(harness.ECHO_SERVER)
        client = self.start_under(PYTHON, "-c", SETTING, self.port)
        self.assertEqual((client.wait(90), client.out, client.err), (0, "good\n", ""), f"{client!r}")

    def test_child_ends_while_the_family_sleeps(self):
        for how in ("_exit", "exit", "quick_exit", "_Exit", "thread"):
            self.serve(ENDS, how)
            self.assertEqual(self.run_under(PYTHON, "-c", ONE, self.port).out, "end\n", f"{how} {self.server!r}")
            self.server.kill()


if __name__ == "__main__":
    harness.main()
