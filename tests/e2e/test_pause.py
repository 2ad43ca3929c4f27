"""The off switches: `berth pause` and `resume` for all programs while they run, BERTH_OFF for one and what it starts."""

import os
import subprocess

import harness

PYTHON = "/usr/bin/python3"
CLIENT = """
import socket, sys
kept = []
for line in sys.stdin:
    if line == "new\\n":
        kept.append(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
    for s in kept:
        s.sendall(b"x" * 50000)
        n = 0
        while n < 50000:
            n += len(s.recv(50000))
    print(len(kept), flush=True)
"""
ONCE = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"hello")
print(s.recv(5).decode(), flush=True)
"""


@harness.needs_preload_into_python
class Pause(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.daemon()
        self.port = self.free_port()
        self.server = self.start_under(PYTHON, "-c", harness.ECHO_SERVER, self.port)
        self.wait_listening(self.port, self.server)

    def sessions(self):
        return len(self.show("sessions"))

    def client(self, port):
        client = self.start_under(PYTHON, "-c", CLIENT, port, stdin=subprocess.PIPE)
        self.addCleanup(client.process.stdin.close)
        return client

    def talk(self, client, word, lines):
        os.write(client.process.stdin.fileno(), f"{word}\n".encode())
        self.wait_until(lambda: client.out.count("\n") == lines or not client.running(), f"the answer to {word}")
        self.assertTrue(client.running(), repr(client))

    def test_new_connections_go_to_the_kernel_and_back(self):
        client = self.client(self.port)
        self.talk(client, "new", 1)
        self.assertEqual(self.sessions(), 1)
        self.check_berth("pause")
        self.check_berth("pause")
        self.talk(client, "the one that is there goes on", 2)
        self.talk(client, "new", 3)
        self.assertEqual(client.out.split()[-1], "2", repr(client))
        self.assertEqual(self.sessions(), 1)
        done = self.run_under(PYTHON, "-c", ONCE, self.port)
        self.assertEqual((done.code, done.out), (0, "hello\n"), repr(done))
        self.check_berth("resume")
        self.talk(client, "new", 4)
        self.assertEqual(client.out.split()[-1], "3", repr(client))
        self.assertEqual(self.sessions(), 2)

    def test_version_says_so(self):
        for word, says in (("pause", True), ("resume", False), ("resume", False)):
            self.check_berth(word)
            self.assertEqual("paused" in self.check_berth("version").out, says)

    def test_who_listens_later_is_met_after_resume(self):
        self.check_berth("pause")
        port = self.free_port()
        server = self.start_under(PYTHON, "-c", harness.ECHO_SERVER, port)
        self.wait_listening(port, server)
        client = self.client(port)
        self.talk(client, "new", 1)
        self.assertEqual(self.sessions(), 0)
        self.check_berth("resume")
        self.talk(client, "new", 2)
        self.assertEqual(self.sessions(), 1)

    @harness.needs_root
    def test_others_may_not(self):
        os.chmod(self.runtime_dir, 0o755)
        os.chmod(os.path.join(self.runtime_dir, "control.sock"), 0o666)
        for word in ("pause", "resume"):
            done = self.run_program("setpriv", "--reuid=64999", "--regid=64999", "--clear-groups", harness.BERTH, word,
                                    "--runtime-dir", self.runtime_dir)
            self.assertEqual(done.code, 1, repr(done))
            self.assertIn("only root and the user of the daemon", done.err)
        self.assertNotIn("paused", self.check_berth("version").out)


class Commands(harness.TestCase):
    def test_without_a_daemon(self):
        for word in ("pause", "resume"):
            done = self.berth(word)
            self.assertEqual(done.code, 1, repr(done))
            self.assertIn("no daemon answers", done.err)
            self.assertEqual(self.berth(word, "now").code, 2)

    def test_a_paused_daemon_stays_though_nobody_needs_it(self):
        daemon = self.daemon("--auto")
        self.check_berth("pause")
        with self.assertRaises(AssertionError):
            self.wait_until(lambda: not daemon.running(), "its end", self.auto_daemon_leaves_within / 3)
        self.check_berth("resume")
        self.wait_until(lambda: not daemon.running(), "its end", self.auto_daemon_leaves_within)


@harness.needs_preload_into_python
class Off(harness.TestCase):
    def test_the_program_and_what_it_starts(self):
        self.daemon()
        port = self.free_port()
        server = self.start_under(PYTHON, "-c", harness.ECHO_SERVER, port)
        self.wait_listening(port, server)
        hold = ONCE + "sys.stdin.read()\n"
        for value, seen in (("", 1), ("0", 1), ("1", 0), ("yes", 0)):
            for command in (["berth", "run", "--", PYTHON, "-c", hold, str(port)],
                            ["sh", "-c", f'BERTH_OFF={value} {PYTHON} -c "$0" "$1"', hold, str(port)]):
                if command[0] == "berth":
                    client = self.start(harness.BERTH, *command[1:], stdin=subprocess.PIPE,
                                        **self._under({"env": {"BERTH_OFF": value}}))
                else:
                    client = self.start_under(*command, stdin=subprocess.PIPE)
                self.wait_until(lambda c=client: c.out or not c.running(), "hello")
                self.assertEqual(client.out, "hello\n", repr(client))
                self.assertEqual(len(self.show("sessions")), seen, f"BERTH_OFF={value} {command[0]}")
                client.process.stdin.close()
                self.assertEqual(client.wait(), 0)
                self.wait_until(lambda: not self.show("sessions"), "the session's end")

    def test_no_daemon_is_started(self):
        done = self.run_program(harness.BERTH, "run", "--", "env", env={"BERTH_OFF": "1"})
        self.assertEqual(done.code, 0, repr(done))
        self.assertNotIn("LD_PRELOAD", done.out)
        self.assertFalse(self.daemon_answers())


if __name__ == "__main__":
    harness.main()
