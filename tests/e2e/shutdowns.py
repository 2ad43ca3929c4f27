#!/usr/bin/python3
"""shutdowns.py - shutdown by one of those who hold a connection, told line by line.

Runs the same on the kernel and under berth; test_family.py compares what the two print. Who holds it are a process and its child,
or two threads; the peer is a process of its own, started by exec. Outcomes are told with how long they took, in words.
"""

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from slowness import slow

WAYS = ("call", "poll", "epoll", "edge", "select")


def outcome(call, *args):
    start = time.monotonic()
    try:
        got = call(*args)
    except TimeoutError:
        return "nothing in 5 s"
    except OSError as e:
        got = errno.errorcode[e.errno]
    if isinstance(got, bytes):
        got = f"{len(got)} bytes" if got else "end"
    return f"{got}{' late' if time.monotonic() - start > slow(0.6) else ''}"


def events(s, mask):
    p = select.poll()
    p.register(s, mask)
    got = p.poll(0)
    return got[0][1] if got else 0


def wait(s, way, mask):
    """Until it is ready in that way, 5 s at most."""
    if way == "poll":
        p = select.poll()
        p.register(s, mask)
        p.poll(int(slow(5000)))
    elif way in ("epoll", "edge"):
        with select.epoll() as e:
            e.register(s, mask | (select.EPOLLET if way == "edge" else 0))
            if way == "edge":
                e.poll(0)
            e.poll(slow(5))
    elif way == "select":
        select.select([s] if mask == select.POLLIN else [], [s] if mask == select.POLLOUT else [], [], slow(5))


def fill(s, way):
    """Until it is full and stays full. The kernel's window probe after 0.2 s makes it room for some more bytes: who writes would go
    on. Poll and its like ask for a third of the buffer, and have to wait all the same."""
    s.setblocking(False)
    full_for = slow(0.7) if way == "call" else slow(0.05)
    last = begin = time.monotonic()
    while time.monotonic() - last < full_for and time.monotonic() - begin < slow(5):
        try:
            s.send(b"x" * 65536)
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    s.settimeout(slow(5))


def blocked_read(s, way):
    if way == "call":
        s.setblocking(True)  # with a timeout Python polls
    else:
        wait(s, way, select.POLLIN)
    return s.recv(10)


def blocked_write(s, way):
    if way == "call":
        s.setblocking(True)
    else:
        wait(s, way, select.POLLOUT)
    return s.send(b"y" * 100)


def in_child(call, *args):
    """Runs it in a child; what it told, when asked for."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(slow(20)))
        os.write(w, outcome(call, *args).encode())
        os._exit(0)
    os.close(w)

    def result():
        told = os.read(r, 200).decode()
        os.close(r)
        os.waitpid(pid, 0)
        return told
    return result


def in_thread(call, *args):
    told = []
    t = threading.Thread(target=lambda: told.append(outcome(call, *args)))
    t.start()

    def result():
        t.join()
        return told[0]
    return result


# ---- the peer: told by a byte what to do, over its stdin ----

def peer(port):
    s = socket.create_connection(("127.0.0.1", port))
    s.settimeout(slow(5))
    while order := sys.stdin.readline().strip():
        if order == "read":
            print(outcome(s.recv, 10), flush=True)
        elif order == "drain":
            total = 0
            try:
                while data := s.recv(65536):
                    total += len(data)
                print(f"{'some' if total else 'no'} bytes, then the end", flush=True)
            except TimeoutError:
                print("nothing more, and no end", flush=True)
            except OSError as e:
                print(errno.errorcode[e.errno], flush=True)
        elif order == "write":
            print(outcome(s.send, b"hello"), flush=True)
        elif order == "events":
            print(events(s, select.POLLIN | select.POLLRDHUP), flush=True)


class Pair:
    def __init__(self, listener):
        self.process = subprocess.Popen([sys.executable, __file__, "peer", str(listener.getsockname()[1])],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.s = listener.accept()[0]
        self.s.settimeout(slow(5))
        for _ in range(2):  # so that both know each other, and neither has a reason to look now and then
            assert self.ask("write") == "5"
            assert self.s.recv(5) == b"hello"
            self.s.sendall(b"x")
            assert self.ask("read") == "1 bytes"

    def ask(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.s.close()


def tell(*words):
    print(*words, flush=True)


def write_side(pair, child_shuts):
    """One ends the sending half; another tries to write, and the peer sees one end while both still hold it."""
    s = pair.s
    s.sendall(b"before")
    r, w = os.pipe()
    if child_shuts:
        shut = in_child(lambda: (s.shutdown(socket.SHUT_WR), os.read(r, 1))[0] or "done")
        time.sleep(slow(0.2))
        tell("parent writes", outcome(s.send, b"x"), "again", outcome(s.send, b"x"))
        tell("parent polls", events(s, select.POLLIN | select.POLLOUT | select.POLLRDHUP))
    else:
        other = in_child(lambda: (os.read(r, 1), f"{outcome(s.send, b'x')} "
                                  f"{events(s, select.POLLIN | select.POLLOUT | select.POLLRDHUP)}")[1])
        s.shutdown(socket.SHUT_WR)
        os.write(w, b"g")
        tell("child writes and polls", other())
    tell("peer", pair.ask("read"), pair.ask("read"), pair.ask("read"), pair.ask("events"), pair.ask("write"))
    tell("still read", outcome(s.recv, 10))
    if child_shuts:
        os.write(w, b"g")
        tell("child", shut())
    tell("again", outcome(lambda: s.shutdown(socket.SHUT_WR) or "shut"))
    os.close(r)
    os.close(w)


def read_side(pair, child_shuts):
    s = pair.s
    r, w = os.pipe()
    if child_shuts:
        shut = in_child(lambda: (s.shutdown(socket.SHUT_RD), os.read(r, 1))[0] or "done")
        time.sleep(slow(0.2))
        tell("parent reads", outcome(s.recv, 10), events(s, select.POLLIN | select.POLLOUT | select.POLLRDHUP))
    else:
        other = in_child(lambda: (os.read(r, 1), f"{outcome(s.recv, 10)} "
                                  f"{events(s, select.POLLIN | select.POLLOUT | select.POLLRDHUP)}")[1])
        s.shutdown(socket.SHUT_RD)
        os.write(w, b"g")
        tell("child reads and polls", other())
    tell("writes", outcome(s.send, b"hello"), "peer", pair.ask("read"))
    if child_shuts:
        os.write(w, b"g")
        tell("child", shut())
    os.close(r)
    os.close(w)


def asleep(pair, other, what, way):
    """One sleeps in a call, the other ends that half."""
    s = pair.s
    if what == "write":
        fill(s, way)
    told = other(blocked_read if what == "read" else blocked_write, s, way)
    time.sleep(slow(0.15))
    s.shutdown(socket.SHUT_RD if what == "read" else socket.SHUT_WR)
    tell(told())
    if what == "write":
        tell("peer", pair.ask("drain"))


def asleep_here(pair, what, way):
    """The same, but the child ends it."""
    s = pair.s
    if what == "write":
        fill(s, way)
    shut = in_child(lambda: (time.sleep(slow(0.2)), s.shutdown(socket.SHUT_RD if what == "read" else socket.SHUT_WR))[1] or "shut")
    tell(outcome(blocked_read if what == "read" else blocked_write, s, way), shut())
    if what == "write":
        tell("peer", pair.ask("drain"))


def main():
    signal.alarm(int(slow(100)))
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=16)
    cases = [("write side, child shuts", write_side, True), ("write side, parent shuts", write_side, False),
             ("read side, child shuts", read_side, True), ("read side, parent shuts", read_side, False)]
    for what in ("read", "write"):
        for way in WAYS:
            cases.append((f"thread asleep, {what}, {way}", asleep, in_thread, what, way))
            cases.append((f"child asleep, {what}, {way}", asleep, in_child, what, way))
            cases.append((f"parent asleep, {what}, {way}", asleep_here, what, way))
    for name, case, *args in cases:
        pair = Pair(listener)
        tell(f"{name}:")
        case(pair, *args)
        pair.end()
    tell("done")


if sys.argv[1] == "peer":
    peer(int(sys.argv[2]))
else:
    main()
