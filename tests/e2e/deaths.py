#!/usr/bin/python3
"""deaths.py - what a peer sees of a process that ends, told line by line.

Runs the same on the kernel and under berth; test_kill.py compares what the two print. Each case starts a second
process (exec, not fork: it must be a process that shares nothing), lets both do something, kills the second one or
lets it end without closing, and prints what the first one's calls give after that.
"""

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time

from slowness import slow

BIG = 1 << 20


def outcome(call, *args):
    try:
        got = call(*args)
    except TimeoutError:
        return "nothing in 5 s"
    except OSError as e:
        return errno.errorcode[e.errno]
    if isinstance(got, bytes):
        return f"{len(got)} bytes" if got else "end"
    return str(got)


def drain(s):
    """Everything until the end: how many bytes of the right kind, and what the end is."""
    total = 0
    while True:
        try:
            got = s.recv(65536)
        except TimeoutError:
            return f"{total} bytes, then nothing in 5 s"
        except OSError as e:
            return f"{total} bytes, then {errno.errorcode[e.errno]}"
        if not got:
            return f"{total} bytes, then the end"
        if got != bytes((total + i) % 251 for i in range(len(got))):
            return f"a wrong byte after {total}"
        total += len(got)


def pattern(n):
    return bytes(i % 251 for i in range(n))


def exact(s, n):
    data = b""
    while len(data) < n:
        got = s.recv(n - len(data))
        if not got:
            raise EOFError
        data += got
    return data


# ---- the second process: PORT CASE ----

def ready():
    os.write(1, b"r")


def hold():
    time.sleep(60)


def second(port, case):
    s = socket.create_connection(("127.0.0.1", port))
    if case == "idle":
        pass
    elif case == "sent":
        s.sendall(pattern(1000))
    elif case == "unread":
        s.sendall(pattern(1000))
        select.select([s], [], [])
    elif case == "partly":
        s.sendall(pattern(10))
        exact(s, 5)
    elif case in ("answers", "asks"):
        for _ in range(200):
            if case == "answers":
                s.sendall(exact(s, 64))
            else:
                s.sendall(b"q" * 64)
                exact(s, 64)
        if case == "answers":
            exact(s, 64)
    elif case == "bulk":
        s.sendall(pattern(BIG))
    elif case == "bulk-read":
        exact(s, BIG)
    elif case == "half":
        s.sendall(pattern(100))
        s.shutdown(socket.SHUT_WR)
    elif case == "half-unread":
        s.sendall(pattern(100))
        s.shutdown(socket.SHUT_WR)
        select.select([s], [], [])
    elif case == "exit":
        s.sendall(pattern(100))
        os._exit(0)
    elif case == "exit-unread":
        s.sendall(pattern(100))
        select.select([s], [], [])
        os._exit(0)
    elif case == "dup":
        s.dup()
        s.sendall(pattern(100))
    elif case == "blocked-write":
        try:
            while True:
                s.settimeout(0.3)
                s.sendall(pattern(65536))
        except OSError:
            pass
    ready()
    hold()


def second_listens(port, case):
    l = socket.create_server(("127.0.0.1", port), backlog=16)
    ready()
    if case == "accepts-some":
        kept = [l.accept()[0] for _ in range(2)]
        ready()
        hold()
        kept.clear()
    hold()


class Second:
    def __init__(self, *args):
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), *map(str, args)],
                                        stdout=subprocess.PIPE)

    def ready(self):
        assert os.read(self.process.stdout.fileno(), 1) == b"r"

    def kill(self):
        self.process.kill()
        self.process.wait()
        time.sleep(slow(0.05))  # on the kernel all has happened by now; berth's daemon still has to tell


def accepted(listener):
    s, _ = listener.accept()
    s.settimeout(slow(5))
    return s


def tell(case, *words):
    print(case + ":", *words, sep=" | ", flush=True)


def epoll_after(s):
    """What epoll says in the end: where bytes are left it may say so once or twice before it knows of the death."""
    until = time.monotonic() + 3
    with select.epoll() as e:
        e.register(s, select.EPOLLIN | select.EPOLLRDHUP)
        while True:
            got = e.poll(max(0, until - time.monotonic()))
            if not got:
                return "no event"
            if got[0][1] & select.EPOLLRDHUP or time.monotonic() > until:
                return hex(got[0][1])


def one(listener, port, case):
    other = Second("second", port, case)
    s = accepted(listener)
    if case in ("answers", "asks"):
        for _ in range(200):
            if case == "answers":
                s.sendall(b"q" * 64)
                exact(s, 64)
            else:
                s.sendall(exact(s, 64))
        if case == "answers":
            s.sendall(b"q" * 64)
    elif case == "bulk-read":
        s.sendall(pattern(BIG))
    elif case in ("unread", "half-unread", "exit-unread", "partly"):
        s.sendall(b"u" * 100)
    if case.startswith("exit"):
        other.process.wait()
        time.sleep(slow(0.05))
    else:
        other.ready()
        other.kill()
    if case in ("bulk", "half-unread"):  # of a reset behind an end of stream nobody is told here
        tell(case, drain(s))
    elif case == "blocked-write":
        tell(case, drain(s).rpartition(" ")[2])
    else:
        tell(case, epoll_after(s), drain(s), outcome(s.recv, 10), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    s.close()


def while_blocked(listener, port, what):
    """The peer dies while we are inside a call."""
    other = Second("second", port, "idle")
    s = accepted(listener)
    other.ready()
    if what == "send":  # the other reads nothing, we fill all there is
        s.setblocking(False)
        while select.select([], [s], [], 0.5)[1]:
            try:
                while True:
                    s.send(b"x" * 65536)
            except BlockingIOError:
                pass
        s.settimeout(slow(5))
    if os.fork() == 0:
        time.sleep(slow(0.3))
        os.kill(other.process.pid, signal.SIGKILL)
        os._exit(0)
    if what == "recv":
        tell("blocked recv", outcome(s.recv, 10))
    elif what == "send":
        tell("blocked send", outcome(s.send, b"x" * 65536))
    elif what == "poll":
        p = select.poll()
        p.register(s, select.POLLIN)
        tell("blocked poll", hex(p.poll(5000)[0][1]))
    elif what == "epoll":
        tell("blocked epoll", epoll_after(s))
    other.process.wait()
    os.wait()
    s.close()


def listener_dies():
    port = int(sys.argv[2])
    other = Second("second-listens", port, "accepts-none")
    other.ready()
    waiting = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(5)]
    waiting[0].sendall(b"hello")
    other.kill()
    time.sleep(slow(0.2))
    for i, s in enumerate(waiting):
        tell(f"pending {i}", outcome(s.recv, 10))
        s.close()
    tell("connect after", outcome(socket.create_connection, ("127.0.0.1", port), 5))
    other = Second("second-listens", port, "accepts-some")
    other.ready()
    waiting = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(4)]
    other.ready()
    other.kill()
    for i, s in enumerate(waiting):
        tell(f"accepted two, {i}", outcome(s.recv, 10))
        s.close()


CASES = ("idle", "sent", "unread", "partly", "answers", "asks", "bulk", "bulk-read", "half", "half-unread", "exit",
         "exit-unread", "dup", "blocked-write")


def main():
    if sys.argv[1] == "second":
        second(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] == "second-listens":
        second_listens(int(sys.argv[2]), sys.argv[3])
    else:
        only = sys.argv[3:]
        with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
            port = listener.getsockname()[1]
            for case in CASES:
                if not only or case in only:
                    one(listener, port, case)
            for what in ("recv", "send", "poll", "epoll"):
                if not only or what in only:
                    while_blocked(listener, port, what)
        if not only or "listener" in only:
            listener_dies()


main()
