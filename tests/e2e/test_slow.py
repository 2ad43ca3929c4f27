"""A daemon that is stopped, or late, and programs that have nothing to do: neither costs anybody anything."""

import os
import signal
import subprocess
import time

import harness

PYTHON = "/usr/bin/python3"

SERVER = """
import socket, threading
l = socket.create_server(("127.0.0.1", 0))
print(l.getsockname()[1], flush=True)
def serve(s):
    while data := s.recv(1000):
        s.sendall(data)
while True:
    threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""

# the first server is met while all is well; then the others are asked for, each by a socket that must not block
CLIENT = """
import select, socket, sys, time
from slowness import slow
ports = [int(p) for p in sys.argv[1:]]
def echo(s):
    s.sendall(b"x")
    assert s.recv(1) == b"x"
a = socket.create_connection(("127.0.0.1", ports[0]))
echo(a)
print("met", flush=True)
sys.stdin.readline()
waited = []
for port in ports[1:] * 3:
    begin = time.monotonic()
    s = socket.socket()
    s.setblocking(False)
    try:
        s.connect(("127.0.0.1", port))
    except BlockingIOError:
        pass
    waited.append(time.monotonic() - begin)
    assert select.select([], [s], [], slow(5))[1] == [s]
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    s.settimeout(slow(5))
    echo(s)
    begin = time.monotonic()
    echo(a)
    assert time.monotonic() - begin < slow(0.1), "what is open goes on"
    echo(socket.create_connection(("127.0.0.1", ports[0]), timeout=slow(5)))
print(*waited, flush=True)
begin = time.monotonic()
l = socket.create_server(("127.0.0.1", 0))
print(time.monotonic() - begin, flush=True)
c = socket.create_connection(l.getsockname())
s = l.accept()[0]
c.sendall(b"y")
assert s.recv(1) == b"y"
"""

NEWCOMER = """
import socket, sys, time
for i in range(5):
    begin = time.monotonic()
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    print(time.monotonic() - begin, flush=True)
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    s.close()
"""

# accepts, and waits for bytes that never come, in each of the ways
IDLE = """
import select, socket, sys, threading
l = socket.create_server(("127.0.0.1", 0))
print(l.getsockname()[1], flush=True)
s = l.accept()[0]
how = sys.argv[1]
if how == "epoll":
    e = select.epoll()
    e.register(s, select.EPOLLIN)
    got = len(e.poll())
elif how == "poll":
    p = select.poll()
    p.register(s, select.POLLIN)
    got = len(p.poll())
elif how == "threads":
    for i in range(3):
        threading.Thread(target=s.recv, args=(10,), daemon=True).start()
    s.recv(10, socket.MSG_PEEK)
print(s.recv(10), flush=True)
"""

SILENT = """
import socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
sys.stdin.readline()
s.sendall(b"hello")
print("said", flush=True)
time.sleep(60)
"""


# listens, and but for one session that it may take never accepts
LISTENER = """
import signal, socket, sys
l = socket.create_server(("127.0.0.1", 0))
print(l.getsockname()[1], flush=True)
if sys.argv[1:]:
    s = l.accept()[0]
    s.sendall(s.recv(1))
signal.pause()
"""

OFFERED = """
import errno, select, socket, sys
if sys.argv[3:]:
    met = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    met.sendall(b"x")
    assert met.recv(1) == b"x"
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("offered", flush=True)
if sys.argv[2] == "epoll":
    e = select.epoll()
    e.register(s, select.EPOLLIN)
    e.poll()
elif sys.argv[2] == "poll":
    p = select.poll()
    p.register(s, select.POLLIN)
    p.poll()
try:
    print(s.recv(1))
except OSError as e:
    print(errno.errorcode[e.errno], flush=True)
"""


# Attaches while all is well, and begins to listen when it is told to; or it ends that at once.
LATE_LISTENER = """
import os, socket, sys, threading, time
first = socket.create_server(("127.0.0.1", 0))
print("attached", flush=True)
sys.stdin.readline()
begin = time.monotonic()
more = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
l = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if sys.argv[2] == "close":
    for one in (l, *more):
        one.close()
if sys.argv[2] == "family":
    told, tell = os.pipe()
    if os.fork() == 0:
        os.close(tell)
        os.read(told, 1)
        for one in (l, *more):
            one.close()
        os.write(1, b"closed\\n")
        os.read(told, 1)
        os._exit(0)
print(time.monotonic() - begin, flush=True)
def serve(s):
    while data := s.recv(1000):
        s.sendall(data)
if sys.argv[2] == "family":
    sys.stdin.readline()
    for one in (l, *more):
        one.close()
    os.write(tell, b"!")
while sys.argv[2] == "serve":
    threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
time.sleep(100)
"""


# waits for what comes in each of the ways, until there is nothing more
READER = """
import errno, select, socket, sys
l = socket.create_server(("127.0.0.1", 0))
print(l.getsockname()[1], flush=True)
s = l.accept()[0]
s.sendall(s.recv(1))
how = sys.argv[1]
flags = {"level": 0, "edge": select.EPOLLET, "oneshot": select.EPOLLONESHOT}.get(how)
if flags is not None:
    e = select.epoll()
    e.register(s, select.EPOLLIN | flags)
elif how == "poll":
    p = select.poll()
    p.register(s, select.POLLIN)
s.setblocking(how == "recv")
got = 0
def wait():
    if flags is not None:
        e.poll()
        if how == "oneshot":
            e.modify(s, select.EPOLLIN | flags)
    elif how == "poll":
        p.poll()
    elif how == "select":
        select.select([s], [], [])
try:
    while True:
        wait()
        try:
            while data := s.recv(50000):
                got += len(data)
        except BlockingIOError:
            continue
        print("end", flush=True)
        break
except OSError as e:
    print(errno.errorcode[e.errno], got, flush=True)
    for i in range(3):
        assert select.select([s], [], [], 0)[0] == [s], "a later wait"
        assert s.recv(1) == b""
    print("told", flush=True)
sys.stdin.readline()
"""

WRITER = """
import errno, socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"x")
assert s.recv(1) == b"x"
print("met", flush=True)
sys.stdin.readline()
s.setblocking(False)
sent, data = 0, bytes(1 << 20)
try:
    while sent < 3 << 20:
        sent += s.send(data)
except BlockingIOError:
    pass
print("sent", sent, flush=True)
s.setblocking(True)
try:
    s.recv(1)
except OSError as e:
    print(errno.errorcode[e.errno], flush=True)
"""

# Forks while the daemon is stopped. Each child waits for two bytes of a session that it was left, in a way of its own:
# the second comes when the daemon is back. Then it is a worker like any other: it listens, and says where.
HEIRS = """
import os, select, socket, sys, threading, time, traceback
unattended = socket.create_server(("127.0.0.1", 0))
ways = ["recv", "poll", "select", "level", "edge", "inherited", "asleep", "nonblocking", "grandchild", "accept", "threads"]
l = socket.create_server(("127.0.0.1", 0))
pairs = []
for way in ways:
    c = socket.create_connection(l.getsockname())
    s = l.accept()[0]
    c.sendall(b"a")
    assert s.recv(1) == b"a"
    pairs.append((c, s))
doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
inherited, asleep = select.epoll(), select.epoll()
inherited.register(pairs[ways.index("inherited")][1], select.EPOLLIN)
inherited.poll(0)
asleep.register(pairs[ways.index("asleep")][1], select.EPOLLIN)
sleeper = os.fork()
if sleeper == 0:
    asleep.poll()
    os._exit(0)
print("ready", flush=True)
sys.stdin.readline()
def wait_in(way, s):
    if way == "poll":
        p = select.poll()
        p.register(s, select.POLLIN)
        return lambda: p.poll()
    if way == "select":
        return lambda: select.select([s], [], [])
    if way in ("level", "edge"):
        e = select.epoll()
        e.register(s, select.EPOLLIN | (select.EPOLLET if way == "edge" else 0))
        return lambda: e.poll()
    if way in ("inherited", "asleep"):
        return lambda: (inherited if way == "inherited" else asleep).poll()
    return lambda: None
def serve(door):
    e = select.epoll()
    e.register(door, select.EPOLLIN)
    e.poll()
    s = door.accept()[0]
    s.sendall(b"welcome")
    s.recv(1)
def recv(way, s):
    while way == "nonblocking":
        try:
            return s.recv(1)
        except BlockingIOError:
            time.sleep(0.05)
    return s.recv(1)
def meet(door):
    with socket.create_connection(door.getsockname()) as c, door.accept()[0] as s:
        s.sendall(b"hello")
        assert c.recv(5) == b"hello"
def heir(way, s):
    wait = wait_in(way, s)
    early = socket.create_server(("127.0.0.1", 0))
    meet(early)
    if way == "accept":
        other = l.accept()[0]
        other.sendall(b"welcome")
        os.write(1, b"accepted\\n")
        return
    if way == "threads":
        both = [threading.Thread(target=serve, args=(door,)) for door in doors]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        return
    if way == "nonblocking":
        s.setblocking(False)
    got = []
    for i in range(2):
        wait()
        got.append(recv(way, s))
        s.send(b"r")
        os.write(1, f"{way} {got[-1].decode()}\\n".encode())
    assert got == [b"b", b"c"], got
    socket.create_connection(unattended.getsockname()).close()
    own = [early] + [socket.create_server(("127.0.0.1", 0)) for _ in range(20)]
    meet(early)
    os.write(1, ("ports " + " ".join(str(o.getsockname()[1]) for o in own) + "\\n").encode())
    os.read(over, 1)
def fork(way, s, deep):
    pid = os.fork()
    if pid == 0:
        if way != "grandchild" or deep:
            os.close(ends)
        if deep:
            s.send(b"r")
            select.select([s], [], [], 1.2)
            fork(way, s, 0)
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
        try:
            heir(way, s)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid
over, ends = os.pipe()
children = [fork(way, s, way == "grandchild") for way, (c, s) in zip(ways, pairs)]
time.sleep(1.5)
for c, s in pairs:
    c.sendall(b"b")
sys.stdin.readline()
for c, s in pairs:
    c.sendall(b"c")
for door in (l, *doors):
    stranger = socket.create_connection(door.getsockname())
    assert stranger.recv(7) == b"welcome"
    stranger.sendall(b"!")
sys.stdin.readline()
os.close(ends)
os.kill(sleeper, 9)  # who takes the bytes may have been faster
os.waitpid(sleeper, 0)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
print("all well", flush=True)
"""


# One that waits to be accepted when the daemon is killed. fork: it is a child's, else the same program's.
WAITING = """
import os, socket, sys, time
fork, close = sys.argv[1] == "fork", sys.argv[2] == "close"
l = socket.create_server(("127.0.0.1", 0))
met = socket.create_connection(l.getsockname()), l.accept()[0]
told, tell = os.pipe()
child = os.fork() if fork else None
if not child:
    if fork:
        l.close()
    c = socket.create_connection(l.getsockname() if not fork else met[0].getpeername())
    c.sendall(b"a")
    print("waits", flush=True)
if child or not fork:
    sys.stdin.readline()
    if close:
        l.close()
    else:
        l.settimeout(1)
        try:
            print("accepted", l.accept()[0].send(b"ok"), flush=True)
        except TimeoutError:
            print("nobody", flush=True)
if not child:
    try:
        print("hears", c.recv(10), flush=True)
    except ConnectionResetError:
        print("hears RESET", flush=True)
if child:
    os.waitpid(child, 0)
"""


class Slow(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.process = self.daemon()

    def serve(self, code=SERVER, *args):
        s = self.start_under(PYTHON, "-c", code, *args)
        self.wait_until(lambda: "\n" in s.out, "its port")
        return s, s.out.split()[0]

    def stop_daemon(self):
        os.kill(self.process.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.process.pid, signal.SIGCONT)

    @harness.needs_preload_into_python
    def test_a_stopped_daemon_costs_one_short_wait(self):
        ports = [self.serve()[1] for _ in range(3)]
        c = self.start_under(PYTHON, "-c", CLIENT, *ports, stdin=subprocess.PIPE)
        self.wait_until(lambda: "met" in c.out, "the first meeting")
        self.stop_daemon()
        c.process.stdin.write(b"go\n")
        c.process.stdin.flush()
        self.assertEqual(c.wait(), 0, c)
        lines = c.out.splitlines()
        waited, listening = [float(w) for w in lines[1].split()], float(lines[2])
        self.assertLess(sum(waited) + listening, harness.slow(1), c)
        self.assertLess(sorted(waited)[-2], harness.slow(0.1), "but for the first nobody waits")
        self.assertLess(listening, harness.slow(0.1))

    @harness.needs_preload_into_python
    def test_children_go_on_with_what_they_were_left(self):
        p = self.start_under(PYTHON, "-c", HEIRS, stdin=subprocess.PIPE)
        self.wait_until(lambda: "ready" in p.out, "its sessions")
        self.stop_daemon()
        p.process.stdin.write(b"go\n")
        p.process.stdin.flush()
        self.wait_until(lambda: p.out.count(" b\n") == 9, "the children's first bytes")
        os.kill(self.process.pid, signal.SIGCONT)
        p.process.stdin.write(b"go\n")
        p.process.stdin.flush()
        self.wait_until(lambda: p.out.count("ports ") == 9, "the children's listeners")
        ports = {port for line in p.out.splitlines() if line.startswith("ports ") for port in line.split()[1:]}
        self.wait_until(lambda: ports <= {one["endpoint"].rpartition(":")[2] for one in self.show("listeners")},
                        "their entries: a daemon that is slow again enters them when nobody waits for it")
        p.process.stdin.write(b"end\n")
        p.process.stdin.flush()
        self.assertEqual(p.wait(), 0, p)
        self.assertEqual(p.out.count(" c\n"), 9, p)
        self.assertIn("all well", p.out)

    @harness.needs_preload_into_python
    def test_a_newcomer_waits_once(self):
        port = self.serve()[1]
        self.stop_daemon()
        # without `berth run`, which would wait in its stead and leave the library out
        c = self.run_program(PYTHON, "-c", NEWCOMER, port,
                             **self._under({"env": {"LD_PRELOAD": harness.SHIM}}))
        self.assertEqual(c.code, 0, c)
        waited = [float(w) for w in c.out.split()]
        self.assertLess(max(waited), harness.slow(0.8), c)
        self.assertLess(sum(waited[1:]), harness.slow(0.2), c)

    def listen_while_it_is_stopped(self, how):
        port = self.free_port()
        s = self.start_under(PYTHON, "-c", LATE_LISTENER, port, how, stdin=subprocess.PIPE)
        self.wait_until(lambda: "attached" in s.out, "its start")
        self.stop_daemon()
        s.process.stdin.write(b"go\n")
        s.process.stdin.flush()
        self.wait_until(lambda: "." in s.out, "the end of listen", 5)
        self.assertLess(float(s.out.split()[1]), harness.slow(1))
        os.kill(self.process.pid, signal.SIGCONT)
        return s, port

    @harness.needs_preload_into_python
    def test_who_is_listed_late_is_there(self):
        """The daemon enters it when nobody waits for its answer any more: who finds it there finds somebody."""
        s, port = self.listen_while_it_is_stopped("serve")
        self.wait_until(lambda: len(self.show("listeners")) == 7, "its listeners' entries: of those that it did not wait for, too")
        c = self.start_under(PYTHON, "-c", OFFERED, port, "recv", "met", stdin=subprocess.PIPE)
        self.wait_until(lambda: "offered" in c.out, f"an answer\n{c!r}")
        self.assertEqual(len(self.show("sessions")), 2, "by berth")
        self.assertTrue(s.running() and c.running(), [s, c])

    @harness.needs_preload_into_python
    def test_a_child_gives_up_what_was_listed_late(self):
        """It has never heard the number: that came to its parent."""
        s, port = self.listen_while_it_is_stopped("family")
        self.wait_until(lambda: len(self.show("listeners")) == 7, "its listeners' entries")
        s.process.stdin.write(b"close\n")
        s.process.stdin.flush()
        self.wait_until(lambda: "closed" in s.out, "both have closed them")
        self.wait_until(lambda: len(self.show("listeners")) == 1, "nobody has them open", 5)
        self.assertIn("ConnectionRefusedError", self.run_under(PYTHON, "-c", NEWCOMER, port).err)
        self.assertTrue(s.running(), s)

    @harness.needs_preload_into_python
    def test_who_has_closed_before_it_was_listed_is_not(self):
        s, port = self.listen_while_it_is_stopped("close")
        before = self.wait_settled(lambda: len(self.show("listeners")), "the listeners", 0.5)
        self.assertEqual(before, 1, "its first one")
        c = self.run_under(PYTHON, "-c", NEWCOMER, port)
        self.assertIn("ConnectionRefusedError", c.err)
        self.assertTrue(s.running(), s)

    def kill_daemon(self):
        self.process.kill(signal.SIGKILL)
        self.process.wait()
        self.addCleanup(self.expect_leftover, "control.sock", "daemon.lock")

    @harness.needs_preload_into_python
    def test_what_nobody_can_accept_any_more_is_reset(self):
        """The listener has never met the client, and without a daemon it cannot: however the client waits, it hears."""
        for how in ("recv", "epoll", "poll"):
            with self.subTest(how):
                s, port = self.serve(LISTENER)
                c = self.start_under(PYTHON, "-c", OFFERED, port, how)
                self.wait_until(lambda c=c: "offered" in c.out, "the offer")
                self.assertEqual(len(self.show("sessions")), 1)
                self.kill_daemon()
                begin = time.monotonic()
                self.wait_until(lambda c=c: "ECONNRESET" in c.out or not c.running(), "its end", 10)
                self.assertLess(time.monotonic() - begin, harness.slow(1))
                self.assertEqual(c.wait(), 0, c)
                s.stop()
                self.process = self.daemon()

    @harness.needs_preload_into_python
    def test_who_waits_for_a_relative_hears_of_its_end(self):
        """A relative that has never met it cannot be introduced any more; who closes its listener resets those who wait."""
        for whose, then, hears in (("fork", "accept", "RESET"), ("fork", "close", "RESET"), ("own", "close", "RESET"),
                                   ("own", "accept", "b'ok'")):
            with self.subTest(whose=whose, then=then):
                p = self.start_under(PYTHON, "-c", WAITING, whose, then, stdin=subprocess.PIPE)
                self.wait_until(lambda p=p: "waits" in p.out, "the offer")
                self.kill_daemon()
                p.process.stdin.write(b"go\n")
                p.process.stdin.flush()
                self.wait_until(lambda p=p: "hears" in p.out or not p.running(), f"its end\n{p!r}", 5)
                self.assertEqual(p.wait(), 0, p)
                self.assertIn(f"hears {hears}", p.out, p)
                self.process = self.daemon()

    @harness.needs_preload_into_python
    def test_where_they_have_met_an_offer_stays_until_the_acceptors_death(self):
        s, port = self.serve(LISTENER, "met")
        c = self.start_under(PYTHON, "-c", OFFERED, port, "recv", "met")
        self.wait_until(lambda: "offered" in c.out, "the offer")
        self.kill_daemon()
        time.sleep(1.5)
        self.assertNotIn("ECONNRESET", c.out)
        s.kill(signal.SIGKILL)
        begin = time.monotonic()
        self.wait_until(lambda: "ECONNRESET" in c.out or not c.running(), "its end", 10)
        self.assertLess(time.monotonic() - begin, harness.slow(1))
        self.assertEqual(c.wait(), 0, c)

    def bytes_in_memory_that_is_late(self, how):
        """They are sent while the daemon, which would bring the memory to the reader, is stopped."""
        s = self.start_under(PYTHON, "-c", READER, how, stdin=subprocess.PIPE)
        self.wait_until(lambda: "\n" in s.out, "its port")
        c = self.start_under(PYTHON, "-c", WRITER, s.out.split()[0], stdin=subprocess.PIPE)
        self.wait_until(lambda: "met" in c.out, "the meeting")
        os.kill(self.process.pid, signal.SIGSTOP)
        c.process.stdin.write(b"go\n")
        c.process.stdin.flush()
        self.wait_until(lambda: "sent" in c.out, "the bytes")
        self.assertGreater(int(c.out.split()[2]), 1 << 20, "more than there was memory for")
        time.sleep(0.5)
        self.assertNotIn("RESET", s.out + c.out, "the daemon is merely slow")
        return s, c

    @harness.needs_preload_into_python
    def test_bytes_that_nobody_can_bring_any_more_are_a_reset(self):
        for how in ("recv", "poll", "level", "edge", "oneshot", "select"):
            with self.subTest(how):
                s, c = self.bytes_in_memory_that_is_late(how)
                self.kill_daemon()
                begin = time.monotonic()
                self.wait_until(lambda s=s: "told" in s.out or not s.running(), f"its end\n{s!r}", 10)
                self.assertLess(time.monotonic() - begin, harness.slow(1))
                self.assertIn("ECONNRESET 0\n", s.out, "however it waits")
                self.wait_until(lambda c=c: "ECONNRESET" in c.out or not c.running(), f"the writer's\n{c!r}", 5)
                self.assertEqual(c.wait(), 0, c)
                s.process.stdin.close()
                self.assertEqual(s.wait(), 0, s)
                self.process = self.daemon()

    @harness.needs_preload_into_python
    def test_bytes_that_come_late_come(self):
        for how in ("recv", "edge"):
            with self.subTest(how):
                s, c = self.bytes_in_memory_that_is_late(how)
                os.kill(self.process.pid, signal.SIGCONT)
                c.kill(signal.SIGKILL)
                self.wait_until(lambda s=s: "end" in s.out or "RESET" in s.out, f"the end\n{s!r}", 10)
                self.assertNotIn("RESET", s.out, "whatever was sent could be read")
                s.stop()

    def idle(self, how):
        s, port = self.serve(IDLE, how)
        c = self.start_under(PYTHON, "-c", SILENT, port, stdin=subprocess.PIPE)
        self.wait_until(lambda: "connected" in c.out, "the connection")

        def switches():
            total = 0
            for task in os.listdir(f"/proc/{s.pid}/task"):
                with open(f"/proc/{s.pid}/task/{task}/status") as f:
                    total += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
            return total

        before = self.wait_settled(switches, "what is done at first", 0.5)
        time.sleep(1)
        self.assertLessEqual(switches() - before, 1, "it wakes for nothing")
        c.process.stdin.write(b"go\n")
        c.process.stdin.flush()
        self.wait_until(lambda: "said" in c.out, "the bytes")
        if how != "threads":
            self.wait_until(lambda: "hello" in s.out, "the bytes", 2)

    @harness.needs_preload_into_python
    def test_an_idle_acceptor_sleeps(self):
        for how in ("recv", "epoll", "poll", "threads"):
            with self.subTest(how):
                self.idle(how)


if __name__ == "__main__":
    harness.main()
