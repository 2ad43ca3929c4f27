"""Forking servers: many children at once, and children that end while nobody of the family is awake."""

import os
import time

import harness

PYTHON = "/usr/bin/python3"

# A child for each connection, which sends back what comes. The parent closes its copy and forgets its children.
FORKING = """
import os, signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
l = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=300)
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
port, count = int(sys.argv[1]), int(sys.argv[2])
def block(i, turn):
    return hashlib.sha256(b"%d %d" % (i, turn)).digest() * 100
def exact(s, n):
    got = b""
    while len(got) < n:
        part = s.recv(n - len(got))
        if not part:
            break
        got += part
    return got
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
        """Those beyond find the end of their connections, and say nothing else. Then there is room again."""
        self.serve(FORKING)
        held = self.start_under(PYTHON, "-c", BEYOND, self.port, 290, stdin=-1)
        self.wait_until(lambda: "served" in held.out or not held.running(), "290 connections", 60)
        served, ended = (int(n) for n in held.out.split()[1::2])
        self.assertEqual(served + ended, 290, f"{held!r}\n{self.server!r}")
        self.assertIn(served, range(240, 257), f"{held!r}\n{self.server!r}")
        held.process.stdin.close()
        self.assertEqual(held.wait(30), 0, repr(held))
        self.wait_until(lambda: not harness.children_of(self.server.pid), "the children's end")
        client = self.many(10)
        client.process.stdin.close()
        self.assertEqual(client.wait(30), 0, f"{client!r}\n{self.server!r}")
        self.assertEqual(self.server.err.count("processes of this family are alive"), 1, repr(self.server))
        self.assertEqual(self.server.err.count("\n"), 1, repr(self.server))

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

    def test_child_ends_while_the_family_sleeps(self):
        for how in ("_exit", "exit", "quick_exit", "_Exit", "thread"):
            self.serve(ENDS, how)
            self.assertEqual(self.run_under(PYTHON, "-c", ONE, self.port).out, "end\n", f"{how} {self.server!r}")
            self.server.kill()


if __name__ == "__main__":
    harness.main()
