"""Programs whose table of descriptors is full when they meet: nothing is silent, and all works when there is room again."""

import os
import signal

import harness

FULL = os.path.join(harness.BUILD, "tests", "stress", "full")
PYTHON = "/usr/bin/python3"

COMMON = """
import errno, os, resource, signal, socket, sys, time
from slowness import slow
def fill():
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError as e:
        assert e.errno == errno.EMFILE, e
    return taken
def small_table():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
def listen_with_full_table():
    small_table()
    l = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(l.getsockname()[1], flush=True)
    taken = fill()
    l.settimeout(0.1)
    return l, taken
def refuses(l, held, pause):
    try:
        held.append(l.accept()[0])
    except (TimeoutError, BlockingIOError):
        pass
    except OSError as e:
        assert e.errno == errno.EMFILE, e
        time.sleep(pause)
        return 1
    return 0
"""

SERVER = COMMON + """
l = socket.create_server(("127.0.0.1", 0))
print(l.getsockname()[1], flush=True)
while True:
    s, _ = l.accept()
    while data := s.recv(1000):
        s.sendall(data)
    s.close()
"""

# to several servers, with sockets made beforehand: each connect ends soon, and either works or says what it lacks
CLIENT = COMMON + """
small_table()
ports = [int(p) for p in sys.argv[1:]]
socks = [socket.socket() for _ in ports]
taken = fill()
worked = failed = 0
def ask(s):
    s.settimeout(slow(20))
    s.sendall(b"hello")
    assert s.recv(10) == b"hello"
for s, port in zip(socks, ports):
    begin = time.monotonic()
    try:
        s.connect(("127.0.0.1", port))
        ask(s)
        worked += 1
    except OSError as e:
        assert e.errno == errno.EMFILE, e
        failed += 1
    assert time.monotonic() - begin < slow(5)
    s.close()
    taken += fill() # the number of that socket is free again
print(worked, failed)
assert worked, "there is a reserve"
for fd in taken:
    os.close(fd)
time.sleep(0.1)
for port in ports:
    s = socket.create_connection(("127.0.0.1", port))
    ask(s)
    s.close()
print("passed")
"""

# accepts with a full table: at first out of berth's reserve, then it is told EMFILE, and the connections stay; all are
# served when there is a little room
FULL_SERVER = COMMON + """
l, taken = listen_with_full_table()
end = time.monotonic() + slow(20)
held = []
refused = 0
while refused < 5:
    assert time.monotonic() < end, f"{len(held)} accepted, {refused} refused"
    refused += refuses(l, held, 0.05)
for fd in taken[:5]:
    os.close(fd)
l.settimeout(slow(20))
for i in range(int(sys.argv[1])):
    s = held.pop() if held else l.accept()[0]
    s.settimeout(slow(20))
    s.sendall(s.recv(1000))
    s.close()
print("served", flush=True)
"""

# accepts as many as it is told to out of the reserve, then what comes from elsewhere: whatever it is that finds no descriptor,
# the connection stays in the queue
TIGHT_SERVER = COMMON + """
first, all = int(sys.argv[1]), int(sys.argv[1]) + 6
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
l, taken = listen_with_full_table()
told = False
end = time.monotonic() + slow(20)
held = []
refused = 0
while len(held) < all and refused < 8:
    assert time.monotonic() < end, f"{len(held)} accepted, {refused} refused"
    refused += refuses(l, held, 0.01)
    if len(held) == first and not told:
        print("more", flush=True)
        told = True
        signal.sigwait([signal.SIGUSR1])
        l.settimeout(0)
        refused += refuses(l, held, 0.01) # asks who they are, and then knows them all at once
        time.sleep(0.2)
        l.settimeout(0.1)
print(f"{len(held)} accepted of {all}, {refused} times refused", file=sys.stderr)
for fd in taken[:40]:
    os.close(fd)
l.settimeout(slow(20))
while len(held) < all:
    held.append(l.accept()[0])
for s in held:
    s.settimeout(slow(20))
    s.sendall(s.recv(1000))
    s.close()
"""

ASKER = """
import socket, sys
from slowness import slow
socks = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
print("connected", flush=True)
for s in socks:
    s.settimeout(slow(30))
    s.sendall(b"hello")
for s in socks:
    assert s.recv(10) == b"hello"
    s.close()
"""


class Full(harness.TestCase):
    def libberth(self, which):
        self.daemon()
        # what was freed is to be free, where memory is counted
        env = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=0:thread_local_quarantine_size_kb=0"}
        done = self.run_program(FULL, which, seconds=60, env=env)
        self.assertEqual(done.code, 0, repr(done))
        self.assertIn(f"full {which}: passed", done.out)

    def test_connect(self):
        self.libberth("connect")

    def test_accept(self):
        self.libberth("accept")

    def test_listeners_come_and_go(self):
        self.libberth("listeners")

    def start_python(self, text, *args):
        return self.start_under(PYTHON, "-c", text, *[str(a) for a in args])

    def port_of(self, program):
        self.wait_until(lambda: program.out.endswith("\n"), "a port")
        return int(program.out)

    @harness.needs_preload_into_python
    def test_program_connects(self):
        self.daemon()
        ports = [self.port_of(self.start_python(SERVER)) for _ in range(5)]
        done = self.run_under(PYTHON, "-c", CLIENT, *[str(p) for p in ports], seconds=60)
        self.assertEqual(done.code, 0, repr(done))
        self.assertIn("passed", done.out)

    @harness.needs_preload_into_python
    def test_program_accepts(self):
        self.daemon()
        server = self.start_python(FULL_SERVER, 24)
        port = self.port_of(server)
        clients = [self.start_python(ASKER, port, 4) for _ in range(6)]
        for client in clients:
            self.assertEqual(client.wait(), 0, f"{client!r}\n{server!r}")
        self.assertEqual(server.wait(), 0, repr(server))

    @harness.needs_preload_into_python
    def test_program_accepts_in_little_room(self):
        self.daemon()
        for first in range(1, 9):
            server = self.start_python(TIGHT_SERVER, first)
            port = self.port_of(server)
            clients = [self.start_python(ASKER, port, first)]
            self.wait_until(lambda: "more" in server.out or server.err, "the first connections")
            clients += [self.start_python(ASKER, port, 2) for _ in range(3)]
            self.wait_until(lambda: all("connected" in c.out or c.err for c in clients), "connections")
            os.kill(server.pid, signal.SIGUSR1)
            for program in (*clients, server):
                self.assertEqual(program.wait(), 0, f"{program!r}\n{server!r}")
