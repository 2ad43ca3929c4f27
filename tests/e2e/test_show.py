"""berth show, with a server and a client that are there: tables for people, JSON for programs."""

import os
import unittest

import harness

PYTHON = "/usr/bin/python3"
SERVER = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(7)
c, _ = s.accept()
assert c.recv(100, socket.MSG_WAITALL) == b"q" * 100
c.sendall(b"a" * 5000)
assert c.recv(1) == b"n"
c.sendall(b"b" * 3000)
print("answered", flush=True)
sys.stdin.read()
"""
CLIENT = """
import socket, sys
c = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
c.sendall(b"q" * 100)
assert len(c.recv(5000, socket.MSG_WAITALL)) == 5000
c.sendall(b"n")
print(c.getsockname()[1], flush=True)
sys.stdin.read()
"""


@harness.needs_preload_into_python
class Show(harness.TestCase):
    def pair(self, name="python3"):
        """A server that has sent 8000 bytes, of which the client has read 5000; both stay."""
        program = os.path.join(self.scratch, name)
        os.symlink(PYTHON, program)
        port = self.free_port()
        ends = [os.pipe() for _ in range(2)]
        self.addCleanup(lambda: [os.close(fd) for end in ends for fd in end])
        server = self.start_under(program, "-c", SERVER, port, stdin=ends[0][0])
        self.wait_listening(port, server)
        client = self.start_under(PYTHON, "-c", CLIENT, port, stdin=ends[1][0])
        self.wait_until(lambda: client.out.endswith("\n") and server.out, f"the exchange\n{server}\n{client}")
        return server, client, port, int(client.out)

    def test_all_tables(self):
        server, client, port, source = self.pair()
        sessions = self.show("sessions")
        self.assertEqual(len(sessions), 1, sessions)
        s = sessions[0]
        self.assertEqual((s["local"], s["remote"]), (f"127.0.0.1:{source}", f"127.0.0.1:{port}"))
        self.assertEqual((s["local_pid"], s["remote_pid"]), (client.pid, server.pid))
        self.assertEqual((s["tx_bytes"], s["rx_bytes"]), (101, 8000))
        self.assertEqual((s["tx_fill"], s["rx_fill"]), (0, 3000))

        self.assertEqual({w["pid"] for w in self.show("workers")}, {server.pid, client.pid})
        listeners = self.show("listeners")
        self.assertEqual([(x["endpoint"], x["backlog"]) for x in listeners], [(f"127.0.0.1:{port}", 7)])
        self.assertEqual(len(self.show("apps")), 2)
        self.assertGreaterEqual(len(self.show("segments")), 2)

        for what in ("apps", "workers", "listeners", "sessions", "segments", "namespaces"):
            lines = self.check_berth("show", what).out.split("\n")
            rows = self.show(what)
            self.assertEqual(len(lines), len(rows) + 2, lines)  # the title, and the empty piece after the last newline
            self.assertEqual(lines[0], lines[0].upper())
        table = self.check_berth("show", "sessions").out
        for text in (f"127.0.0.1:{source}", f"127.0.0.1:{port}", "101 B", "7.81 KiB", "2.93 KiB", "SENT", "RECEIVED"):
            self.assertIn(text, table)

        client.kill()
        client.wait()
        self.wait_until(lambda: len(self.show("workers")) == 1, "the client to be gone")
        server.kill()
        server.wait()
        self.wait_until(lambda: not self.daemon_answers() or not self.show("listeners"), "the listener to be gone")

    def test_names_cannot_steer_the_terminal(self):
        self.pair("evil\x1b[31m\nname\u009b31m")
        for what in ("apps", "workers", "listeners", "sessions"):
            raw = self.check_berth("show", what, binary=True).out
            self.assertNotIn(b"\x1b", raw)
            self.assertNotIn("\u009b".encode(), raw)
        self.assertIn(b"evil?", self.check_berth("show", "apps", binary=True).out)
        self.show("apps")  # and the JSON is JSON

    @harness.needs_root
    def test_others_see_their_own_only(self):
        os.chmod(self.base, 0o755)
        os.chmod(self.runtime_dir, 0o755)
        config = self.file("berth.yaml", "socket:\n  mode: 0666\n")
        self.daemon("--config", config)
        self.pair()
        done = self.run_program("setpriv", "--reuid=64999", "--regid=64999", "--clear-groups", harness.BERTH, "show",
                                "sessions", "--json")
        self.assertEqual((done.code, done.out.split()), (0, ["[]"]), repr(done))


if __name__ == "__main__":
    unittest.main()
