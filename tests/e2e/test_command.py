"""What the command asks of a daemon, with nobody under berth."""

import os
import signal
import socket
import subprocess
import threading
import time
import unittest

import harness
from fake_app import CTL, HEADER

ECHO = """
import socket, sys, threading
def echo(c):
    while data := c.recv(100):
        c.send(data)
l = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=echo, args=(l.accept()[0],), daemon=True).start()
"""

# a connection of before, one of after
TWICE = """
import os, socket, sys
def ask(s, what):
    s.send(what)
    print(s.recv(100).decode(), flush=True)
old = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
ask(old, b"first")
sys.stdin.readline()
ask(old, b"second")
new = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
port = "%04X" % new.getsockname()[1]
new.send(b"by the kernel")
print(new.recv(100).decode(), any(":" + port + " " in line and " 01 " in line for line in open("/proc/net/tcp")))
"""


class Command(harness.TestCase):
    def test_second_daemon_is_refused_with_the_pid(self):
        first = self.daemon()
        second = self.berth("daemon")
        self.assertEqual(second.code, 1, repr(second))
        self.assertIn(str(first.pid), second.err)
        self.assertTrue(first.running())

    def test_daemon_stops_cleanly(self):
        for sig in (signal.SIGTERM, signal.SIGINT):
            daemon = self.daemon()
            daemon.kill(sig)
            self.assertEqual(daemon.wait(10), 0, repr(daemon))
            self.assertEqual(os.listdir(self.runtime_dir), [])

    def test_show_of_nothing(self):
        self.daemon()
        for what in ("apps", "workers", "listeners", "sessions", "segments"):
            self.assertEqual(self.show(what), [])
            self.assertEqual(self.check_berth("show", what).out, f"no {what}\n")
        names = self.show("namespaces")
        self.assertEqual(len(names), 1)
        self.assertIn("default", names[0].values())

    def test_version_asks_the_daemon(self):
        daemon = self.daemon()
        done = self.check_berth("version")
        self.assertIn(f"pid {daemon.pid}, 0 apps, 0 workers,", done.out)

    @harness.needs_preload_into_python
    def test_version_counts_one_as_one(self):
        self.daemon()
        program = self.start_under("/usr/bin/python3", "-c",
                                   "import socket; l = socket.create_server(('127.0.0.1', 0)); print(1, flush=True); l.accept()")
        self.wait_until(lambda: "1" in program.out, "its listener")
        self.assertIn(", 1 app, 1 worker,", self.check_berth("version").out)

    def stopped(self):
        daemon = self.daemon()
        self.check_berth("version")
        os.kill(daemon.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, daemon.pid, signal.SIGCONT)
        return daemon

    def test_a_stopped_daemon_is_told_soon(self):
        daemon = self.stopped()
        for args in (("version",), ("show", "apps"), ("ns", "add", "late"), ("ns", "del", "late")):
            begin = time.monotonic()
            done = self.berth(*args)
            self.assertLess(time.monotonic() - begin, harness.slow(4), done)
            self.assertEqual(done.code, 1, done)
            self.assertIn(f"the daemon of {self.runtime_dir}, process {daemon.pid}, does not answer", done.err)
            self.assertIn(f"kill -CONT {daemon.pid}", done.err)
        os.kill(daemon.pid, signal.SIGCONT)
        self.assertEqual([n["namespace"] for n in self.show("namespaces")], ["default"], "it was asked for nothing")

    def test_a_daemon_that_waits_for_a_cpu_is_waited_for(self):
        daemon = self.daemon()
        cpu = min(os.sched_getaffinity(0))
        os.sched_setaffinity(daemon.pid, {cpu})
        os.sched_setscheduler(daemon.pid, os.SCHED_IDLE, os.sched_param(0))  # it comes last, after those
        hogs = [self.start("/usr/bin/taskset", "-c", str(cpu), "/bin/sh", "-c", "while :; do :; done") for _ in range(16)]
        for hog in hogs if os.getuid() == 0 else ():
            os.setpriority(os.PRIO_PROCESS, hog.pid, -20)
        asked = self.start(harness.BERTH, "show", "namespaces", env={"BERTH_RUNTIME_DIR": self.runtime_dir})
        time.sleep(4)
        for hog in hogs:
            hog.kill()
        self.assertEqual(asked.wait(), 0, asked.err)
        self.assertIn("default", asked.out)

    def test_a_program_beside_a_stopped_daemon_starts(self):
        daemon = self.stopped()
        begin = time.monotonic()
        done = self.run_under("sh", "-c", "echo here; exit 3")
        self.assertLess(time.monotonic() - begin, harness.slow(1.5), done)
        self.assertEqual((done.code, done.out), (3, "here\n"), done)
        self.assertEqual(len(done.err.splitlines()), 1, done)
        self.assertIn(f"process {daemon.pid}, does not answer", done.err)
        self.assertIn("sh runs on the kernel", done.err)

    def test_a_namespace_that_comes_late_is_not_denied(self):
        """A daemon that tells its status and then nothing: nobody knows what it does with the rest."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as l:
            l.bind(os.path.join(self.runtime_dir, "control.sock"))
            self.addCleanup(os.unlink, os.path.join(self.runtime_dir, "control.sock"))
            l.listen()
            asked = []

            def answer():
                for _ in range(2):
                    s = l.accept()[0]
                    with s:
                        while data := s.recv(4096):
                            kind, _, seq, _, _ = HEADER.unpack_from(data)
                            asked.append(kind)
                            if kind == CTL["STATUS"]:
                                body = bytes(32 + 64)
                                s.send(HEADER.pack(CTL["STATUS_IS"], HEADER.size + len(body), seq, 0, 0) + body)

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            for word, does in (("add", "make"), ("del", "remove")):
                done = self.berth("ns", word, "late")
                self.assertEqual(done.code, 1, done)
                self.assertIn(f"has not answered and may still {does} 'late'", done.err)
                self.assertIn("berth show namespaces", done.err)
            thread.join(10)
        self.assertEqual(asked, [CTL["STATUS"], CTL["NS_ADD"], CTL["STATUS"], CTL["NS_DEL"]])

    def test_namespaces(self):
        self.daemon()
        secret = self.file("secret", "open sesame\nsecond line\n")
        self.check_berth("ns", "add", "red")
        os.chmod(secret, 0o640)
        others = self.berth("ns", "add", "blue", "--secret-file", secret)
        self.assertEqual(others.code, 2, others)
        self.assertIn(f"chmod 600 '{secret}'", others.err)
        for name in ("a b", "", "x" * 64):
            for command in (("ns", "add", name), ("ns", "del", name), ("run", "-n", name, "--", "true")):
                self.assertEqual(self.berth(*command).code, 2, command)
        os.chmod(secret, 0o600)
        self.check_berth("ns", "add", "blue", "--secret-file", secret, "--mode", "0600")
        self.check_berth("ns", "add", "green", "--secret-stdin", stdin="another\n")
        shown = self.check_berth("show", "namespaces").out
        for name in ("default", "red", "blue", "green"):
            self.assertIn(name, shown)
        everything = shown + self.check_berth("show", "namespaces", "--json").out
        self.assertNotIn("sesame", everything)
        self.assertNotIn("another", everything)

        again = self.berth("ns", "add", "red")
        self.assertEqual(again.code, 1)
        self.assertIn("'red'", again.err)
        self.check_berth("ns", "del", "red")
        gone = self.berth("ns", "del", "red")
        self.assertEqual(gone.code, 1)
        self.assertIn("no namespace 'red'", gone.err)
        nobody = self.berth("ns", "add", "x", "--group", "no-such-group")
        self.assertEqual(nobody.code, 1, repr(nobody))
        self.assertIn("knows no group 'no-such-group'", nobody.err)

    def test_the_default_namespace_stays(self):
        self.daemon()
        done = self.berth("ns", "del", "default")
        self.assertEqual(done.code, 1, done)
        self.assertIn("'default' cannot be removed", done.err)
        self.assertEqual([n["namespace"] for n in self.show("namespaces")], ["default"])

    @harness.needs_preload_into_python
    def test_programs_of_a_removed_namespace_go_on(self):
        """Their sessions stay, what they connect then takes the kernel's way, and they say so in one line."""
        self.daemon()
        self.check_berth("ns", "add", "blue")
        port = self.free_port()
        server = self.start(harness.BERTH, "run", "-n", "blue", "--", "/usr/bin/python3", "-c", ECHO, port, **self._under({}))
        self.wait_listening(port, server)
        client = self.start(harness.BERTH, "run", "-n", "blue", "--", "/usr/bin/python3", "-c", TWICE, port, **self._under({}),
                            stdin=subprocess.PIPE)
        self.wait_until(lambda: "first" in client.out, "the first answer")
        self.assertEqual(len(self.show("sessions")), 1)
        self.check_berth("ns", "del", "blue")
        self.assertEqual((self.show("apps"), [n["namespace"] for n in self.show("namespaces")]), ([], ["default"]))
        before = harness.cpu_seconds(server.process.pid)
        time.sleep(1)
        self.assertLess(harness.cpu_seconds(server.process.pid) - before, 0.2, "it waits, and sleeps while it does")
        client.process.stdin.write(b"go on\n")
        client.process.stdin.close()
        self.assertEqual(client.wait(), 0, client)
        self.assertEqual(client.out, "first\nsecond\nby the kernel True\n", client)
        for program in (client, server):
            lines = program.err.splitlines()
            self.assertEqual(len(lines), 1, program)
            self.assertIn("has put this process out: its namespace was removed; open sessions go on, "
                          "new connections go to the kernel", lines[0])

    @harness.needs_preload
    def test_a_limit_of_address_space_is_named(self):
        self.daemon()
        done = self.run_program("/bin/sh", "-c", "ulimit -v 1000000; exec " + harness.BERTH + " run -- /usr/bin/python3 -c "
                                "'import socket; socket.create_server((\"127.0.0.1\", 0))'")
        self.assertEqual(done.code, 0, done)
        self.assertIn("the limit of address space (ulimit -v) is too low", done.err)
        self.assertEqual(len(done.err.splitlines()), 1, done)

    @harness.needs_root
    def test_a_directory_out_of_reach_is_told_as_that(self):
        os.chmod(self.base, 0o755)
        place = os.path.join(self.scratch, "closed")
        os.mkdir(place, 0o700)
        for args, code in ((("show", "apps"), 1), (("run", "--", "true"), 0)):
            done = self.run_program("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", harness.BERTH, *args,
                                    env={"BERTH_RUNTIME_DIR": place + "/x"})
            self.assertEqual(done.code, code, done)
            self.assertIn(f"{place}/x cannot be reached: Permission denied", done.err)
            self.assertNotIn("admit", done.err)

    @harness.needs_root
    def test_a_user_who_is_not_admitted_is_told_so(self):
        os.chmod(self.base, 0o755)
        os.chmod(self.runtime_dir, 0o755)
        self.daemon("--config", self.file("c.yaml", "socket: {mode: 0600}\n"))
        for args in (("version",), ("show", "apps")):
            done = self.run_program("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", harness.BERTH, *args)
            self.assertEqual(done.code, 1, done)
            self.assertIn(f"the daemon of {self.runtime_dir} does not admit this user", done.err)
            self.assertNotIn("no daemon", done.out + done.err)

    @harness.needs_preload_into_python
    @harness.needs_preload
    def test_a_namespace_with_a_secret_says_that_it_needs_one(self):
        self.daemon()
        self.check_berth("ns", "add", "vault", "--secret-stdin", stdin="gold\n")
        listen = ("/usr/bin/python3", "-c", "import socket; socket.create_server(('127.0.0.1', 0))")
        done = self.berth("run", "-n", "vault", "--", *listen)
        self.assertEqual(done.code, 0, done)
        self.assertIn("namespace 'vault' has a secret, and none was given", done.err)
        self.assertIn("--secret-file", done.err)
        self.assertIn("BERTH_SECRET_FILE", done.err)
        for secret, says in (("silver\n", "wrong secret"), ("gold\n", "")):
            done = self.berth("run", "-n", "vault", "-s", self.file("secret", secret), "--", *listen)
            self.assertEqual(done.code, 0, done)
            self.assertIn(says, done.err)
            self.assertNotIn("none was given", done.err)
        self.assertEqual(done.err, "")

    def test_long_and_wrong_runtime_directories(self):
        place = os.path.join(self.scratch, "open")
        os.mkdir(place)
        os.chmod(place, 0o777)
        done = self.berth("daemon", "--runtime-dir", place)
        self.assertNotEqual(done.code, 0)
        self.assertIn(place, done.err)
        file = self.file("file", "")
        done = self.berth("daemon", "--runtime-dir", file)
        self.assertNotEqual(done.code, 0)
        self.assertIn(file, done.err)
        done = self.berth("daemon", "--runtime-dir", self.scratch + "/" + "x" * 90)
        self.assertNotEqual(done.code, 0)
        self.assertIn("too long", done.err)


if __name__ == "__main__":
    unittest.main()
