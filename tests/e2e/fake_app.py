"""fake_app.py - an app that speaks the daemon's protocol by hand, so that it can also speak it wrongly.

Offsets and numbers are those of src/shm/control.h and src/shm/abi.h.
"""

import fcntl
import mmap
import os
import re
import socket
import struct

import harness
from slowness import slow

SHM = os.path.join(harness.TOP, "src", "shm")


def _enum(path, name, prefix):
    with open(path) as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    body = re.search(r"enum %s \{(.*?)\};" % name, text, re.S).group(1)
    found, n = {}, 0
    for item in filter(None, (i.strip() for i in body.split(","))):
        key, _, value = (p.strip() for p in item.partition("="))
        n = found[value] if value in found else int(value) if value else n
        found[key] = n
        n += 1
    return {k[len(prefix):]: v for k, v in found.items()}


CTL = _enum(os.path.join(SHM, "control.h"), "ctl_type", "CTL_")
E = _enum(os.path.join(harness.TOP, "include", "berth", "error.h"), "berth_error", "BERTH_")
SHOW = _enum(os.path.join(SHM, "control.h"), "ctl_show_what", "CTL_SHOW_")
NAME = {v: k for k, v in CTL.items()}

HEADER = struct.Struct("=HHIiI")
MAGIC = 0x48545242
with open(os.path.join(SHM, "control.h")) as _f:
    VERSION = int(re.search(r"define CTL_VERSION (\d+)u", _f.read()).group(1))
LOCAL, GLOBAL, PROXY, JOIN = 1, 2, 4, 8
V6ONLY, REUSEPORT, KERNEL = 1, 2, 4
SEALS = 2 | 4 | 0x10  # SHRINK, GROW, FUTURE_WRITE
F_ADD_SEALS = 1033

SLOT = struct.Struct("=QQQQQBBBBIQQ")
INFO = struct.Struct("=16s16sHHBBHIIQQ")
with open(os.path.join(SHM, "abi.h")) as _f:
    CHUNK_SLOTS, CHUNKS_MAX, CHANNELS_MAX = (int(re.search(rf"define {n} (\d+)u", _t).group(1)) for _t in [_f.read()]
                                             for n in ("CHUNK_SLOTS", "CHUNKS_MAX", "CHANNELS_MAX"))
CHUNK0 = 4096 + CHUNKS_MAX * 8 + CHANNELS_MAX * 128
FREE, OFFERED, ACCEPTED, OPEN, CLOSED = range(5)


def address(text):
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    return b"\0" * 10 + b"\xff\xff" + socket.inet_pton(socket.AF_INET, text)


class Memory:
    """A memfd, mapped by its maker and then sealed."""

    def __init__(self, size, seals=SEALS):
        self.fd = os.memfd_create("fake", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.size = size
        if seals:
            fcntl.fcntl(self.fd, F_ADD_SEALS, seals)

    def close(self):
        self.map.close()
        os.close(self.fd)


class Message:
    def __init__(self, data, fds):
        self.type, self.len, self.seq, self.status, _ = HEADER.unpack_from(data)
        self.body, self.fds = data[HEADER.size:], list(fds)

    def unpack(self, fmt):
        return struct.unpack_from("=" + fmt, self.body)

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def __repr__(self):
        return f"{NAME.get(self.type, self.type)} seq {self.seq} status {self.status} {len(self.fds)} fds"


class Closed(Exception):
    pass


class Outbox:
    def __init__(self, app, n, facing, size=1 << 20):
        self.handle = app.worker << 32 | n
        self.memory = Memory(size)
        struct.pack_into("=IHHQIIQII", self.memory.map, 0, 0x424f4f54, 1, 2, self.handle, 0, facing, size, app.worker, 1)

    def slot(self, i, state, peer=0, generation=1, tail=0, head=0, ring=0):
        SLOT.pack_into(self.memory.map, CHUNK0 + i * 64, tail << 1, ring, head << 1, 0, 0, state, 0, 0, 0, generation, peer, 0)

    def info(self, i, local, remote, peer_outbox=0, listener=0, seq=1):
        INFO.pack_into(self.memory.map, CHUNK0 + CHUNK_SLOTS * 64 + i * 64, address(local[0]), address(remote[0]), local[1],
                       remote[1], 6, 4, 0, listener, seq, peer_outbox, 0)

    def segment(self, index, size=8192):
        m = Memory(size)
        struct.pack_into("=IHHQIIQII", m.map, 0, 0x474e4952, 1, 2, self.handle, index, 0, size, 0, 0)
        return m

    def close(self):
        self.memory.close()


class App:
    def __init__(self, directory=None, sock=None):
        self.seq = 0
        self.news = []
        self.keep = []
        if sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(os.path.join(directory, "control.sock"))
        self.sock = sock
        self.sock.settimeout(slow(10))

    # ---- packets ----

    def send_raw(self, data, fds=()):
        socket.send_fds(self.sock, [data], list(fds))

    def send(self, kind, body=b"", fds=(), seq=None):
        if seq is None:
            self.seq += 1
            seq = self.seq
        kind = CTL[kind] if isinstance(kind, str) else kind
        self.send_raw(HEADER.pack(kind, HEADER.size + len(body), seq, 0, 0) + body, fds)
        return seq

    def recv(self):
        try:
            data, fds, flags, _ = socket.recv_fds(self.sock, 4096, 4)
        except ConnectionResetError:
            raise Closed from None
        if not data:
            raise Closed
        return Message(data, fds)

    def reply(self, seq):
        while True:
            m = self.recv()
            if m.seq == seq:
                return m
            self.news.append(m)

    def ask(self, kind, body=b"", fds=()):
        return self.reply(self.send(kind, body, fds))

    def next_news(self):
        return self.news.pop(0) if self.news else self.recv()

    def quiet(self, seconds=0.3):
        """True when the daemon has nothing to say for that long."""
        if self.news:
            return False
        self.sock.settimeout(seconds)
        try:
            self.news.append(self.recv())
            return False
        except (TimeoutError, BlockingIOError):
            return True
        finally:
            self.sock.settimeout(slow(10))

    def close(self):
        self.sock.close()
        while self.news:
            self.news.pop().close()
        while self.keep:
            self.keep.pop().close()

    # ---- requests ----

    def hello_body(self, name="fake", ns="", secret="", flags=LOCAL, magic=MAGIC, version=VERSION):
        return struct.pack("=IIII64s64s128sQQQ", magic, version, flags, 0, name.encode(), ns.encode(), secret.encode(), 0, 0, 0)

    def page(self):
        page = Memory(8192)
        struct.pack_into("=IH", page.map, 0, 0x45474150, 1)
        self.keep.append(page)
        return page

    def hello(self, netns=None, **more):
        page = self.page()
        probe = netns or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            m = self.ask("HELLO", self.hello_body(**more), (probe.fileno(), page.fd))
        finally:
            if not netns:
                probe.close()
        if m.status == 0:
            _, self.worker, self.app, self.uid = m.unpack("IIII")
        m.close()
        return m.status

    def listen(self, where="127.0.0.1", port=0, flags=0, backlog=16, proto=6):
        """(status, listener, epoch, port); the read end of its queue is kept in self.queue"""
        r, w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        both = os.open(f"/proc/self/fd/{w}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # as libberth has it
        os.close(w)
        m = self.ask("LISTEN", struct.pack("=16sHBBIQQ", address(where), port, proto, flags, backlog, 7, 0), (both,))
        os.close(both)
        queue = os.fdopen(r, "rb", buffering=0)
        self.keep.append(queue)
        self.queue = queue
        return (m.status,) + m.unpack("IIH")

    def unlisten(self, listener):
        self.send("UNLISTEN", struct.pack("=II", listener, 0))

    def introduce(self, listener, outbox, with_fd=True, epoch=0):
        m = self.ask("INTRODUCE", struct.pack("=IIQ", listener, epoch, outbox.handle), (outbox.memory.fd,) if with_fd else ())
        result = (m.status,) + m.unpack("IIII") + (len(m.fds),)
        m.close()
        return result

    def outbox(self, n, facing, register=True):
        box = Outbox(self, n, facing)
        self.keep.append(box)
        if register:
            self.send("OUTBOX", outbox_body(box.handle, facing=facing), (box.memory.fd,))
        return box

    def get_outbox(self, handle):
        """(status, owner, app, dead, number of descriptors)"""
        m = self.ask("GET_OUTBOX", outbox_body(handle))
        _, worker, app, _, _, dead, _ = m.unpack("QIIIIII")
        count = len(m.fds)
        m.close()
        return m.status, worker, app, dead, count

    def ports(self, where="127.0.0.1", count=64):
        m = self.ask("PORTS", struct.pack("=16sHHI", address(where), 0, count, 0))
        return (m.status,) + m.unpack("16sHH")[1:]

    def return_ports(self, first, count, where="127.0.0.1"):
        self.send("RETURN_PORTS", struct.pack("=16sHHI", address(where), first, count, 0))

    def status(self):
        m = self.ask("STATUS")
        return m.status, m.unpack("IIIIQ")

    def fork(self, member=1):
        """The child of a fork: an App that speaks at the other end of a new pair."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.send("CHILD", struct.pack("=IIII", member, 0, 0, 0), (a.fileno(),))
        a.close()
        return App(sock=b)

    def child_hello(self, version=VERSION):
        page = self.page()
        m = self.ask("CHILD_HELLO", struct.pack("=II", version, os.getpid()), (page.fd,))
        if m.status == 0:
            _, self.worker, self.app, self.uid = m.unpack("IIII")
        m.close()
        return m.status

    def show(self, what):
        m = self.ask("SHOW", struct.pack("=II", SHOW[what], 0))
        if m.status:
            return m.status
        with os.fdopen(m.fds.pop(), "rb") as f:
            return harness.json.loads(f.read())

    def ns(self, kind, name, secret="", group="", mode=0):
        return self.ask(kind, struct.pack("=64s128s64sII", name.encode(), secret.encode(), group.encode(), mode, 0)).status


def outbox_body(handle, facing=0, worker=0, index=0):
    return struct.pack("=QIIII", handle, facing, worker, index, 0)
