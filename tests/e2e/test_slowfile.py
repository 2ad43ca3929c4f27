"""sendfile of a file whose read waits: the connection stays what it is for others, as it does on the kernel.

The file lies in a file system of this process's (FUSE, spoken here in its few words), which is slow to answer a read.
"""

import ctypes
import os
import struct
import threading
import time
import unittest

import harness

SLOWFILE = os.path.join(harness.BUILD, "tests", "e2e", "slowfile")
READ_TAKES = 0.8
LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 26, 36, 42
ENOSYS = 38
DIRECT = 1  # nothing of it is kept in memory
TEXT = b"hello"


class SlowFile:
    """A file system with one file, `f`, at that directory."""

    def __init__(self, at):
        self.at = at
        self.fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.fd},rootmode=40000,user_id=0,group_id=0".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"slow", at.encode(), b"fuse", 6, options) != 0:
            error = ctypes.get_errno()
            os.close(self.fd)
            raise OSError(error, os.strerror(error))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def end(self):
        ctypes.CDLL(None).umount2(self.at.encode(), 2)
        self.thread.join(10)
        os.close(self.fd)

    @staticmethod
    def attributes(node):
        mode, links = (0o40755, 2) if node == 1 else (0o100644, 1)
        return struct.pack("<6Q10I", node, len(TEXT), 1, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)

    def answer(self, op, node):
        if op == INIT:
            return struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 8, 8, 65536, 1, 0, 0, *[0] * 8)
        if op == LOOKUP:
            return struct.pack("<4Q2I", 2, 0, 60, 60, 0, 0) + self.attributes(2)
        if op == GETATTR:
            return struct.pack("<Q2I", 60, 0, 0) + self.attributes(node)
        if op == OPEN:
            return struct.pack("<Q2I", 1, DIRECT, 0)
        return None

    def serve(self):
        while True:
            try:
                request = os.read(self.fd, 1 << 20)
            except OSError:  # it is unmounted
                return
            _, op, unique, node = struct.unpack("<IIQQ", request[:24])
            if op in (FORGET, INTERRUPT, BATCH_FORGET):
                continue
            if op == READ:
                offset = struct.unpack("<QQ", request[40:56])[1]
                threading.Thread(target=self.read, args=(unique, offset), daemon=True).start()
                continue
            self.reply(unique, self.answer(op, node))

    def read(self, unique, offset):
        time.sleep(harness.slow(READ_TAKES))
        self.reply(unique, TEXT[offset:])

    def reply(self, unique, data):
        error = -ENOSYS if data is None else 0
        data = data or b""
        try:
            os.write(self.fd, struct.pack("<IiQ", 16 + len(data), error, unique) + data)
        except OSError:  # whoever asked has gone
            pass


class Slow(harness.TestCase):
    @harness.needs_root
    @unittest.skipUnless(os.path.exists("/dev/fuse"), "there is no /dev/fuse")
    def test_others_use_the_connection_meanwhile(self):
        at = os.path.join(self.scratch, "slow")
        os.mkdir(at)
        try:
            files = SlowFile(at)
        except OSError as e:
            self.skipTest(f"no file system of one's own: {e}")
        self.addCleanup(files.end)
        self.daemon()
        kernel = self.run_program(SLOWFILE, os.path.join(at, "f"), seconds=10)
        self.assertEqual(kernel.code, 0, repr(kernel))
        berth = self.run_under(SLOWFILE, os.path.join(at, "f"), seconds=10)
        self.assertEqual(berth.code, 0, repr(berth))
        self.assertEqual(kernel.out, berth.out)
        self.assertEqual(kernel.out.count("while the file was read 1"), 6, kernel.out)


if __name__ == "__main__":
    harness.main()
