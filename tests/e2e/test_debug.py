"""Debuggers and tracers on programs under berth: they work, and show what they show on the kernel."""

import os
import re
import resource
import shutil
import subprocess

import harness

DEBUGGEE = os.path.join(harness.BUILD, "tests", "e2e", "debuggee")
UNDER = [harness.BERTH, "run", "--"]
GDB = ["gdb", "-q", "-nx", "-batch", "-ex", "set confirm off", "-ex", "set debuginfod enabled off", "-ex", "set breakpoint pending on"]


def blocked(pid):
    """Asleep, in the one thread that it has."""
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0] == "S"


@harness.needs_preload
class Debug(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.daemon()
        self.port = str(self.free_port())

    def serve(self, count=1, around=()):
        server = self.start(*around, *UNDER, DEBUGGEE, "server", self.port, count)
        self.wait_listening(int(self.port), server)
        return server

    def held(self):
        """A client that holds its session, and waits in read."""
        client = self.start_under(DEBUGGEE, "client", self.port, "hold")
        self.wait_until(lambda: "hello" in client.out, "the answers")
        self.wait_until(lambda: blocked(client.pid), "the client's sleep")
        return client

    def check(self, done, *wanted):
        self.assertEqual(done.code, 0, repr(done))
        for want in wanted:
            self.assertRegex(done.out + done.err, want)

    # ---- gdb ----

    def session_at_breakpoint(self, command, inside):
        server = self.serve()
        show = f"shell {harness.BERTH} show sessions --json"
        commands = ["break greet", "run", "backtrace", show, "finish", "next", "continue"]
        gdb = GDB + [word for c in commands for word in ("-ex", c)] + ["--args"]
        done = self.run_program(*(UNDER + gdb + command if inside else gdb + UNDER + command), seconds=90)
        self.check(done, r"#0 +greet ", r"#1 .* in ask ", r"#2 .* in main ", r'"local_app_name": *"debuggee"', "exited normally")
        self.wait_until(lambda: not server.running(), "the server's end")
        self.assertEqual(server.wait(), 0, repr(server))

    @harness.needs("gdb")
    def test_gdb_under_berth(self):
        self.session_at_breakpoint([DEBUGGEE, "client", self.port], True)

    @harness.needs("gdb")
    def test_gdb_around_berth_run(self):
        self.session_at_breakpoint([DEBUGGEE, "client", self.port], False)

    @harness.needs("gdb")
    def test_gdb_attaches_to_a_server_that_waits_for_its_session(self):
        """What it did not hear of: neither an error of read, nor an end of the session."""
        server = self.serve()
        client = self.held()
        for _ in range(2):
            self.wait_until(lambda: blocked(server.pid), "the server's sleep")
            done = self.run_program(*GDB, "-p", server.pid, "-ex", "backtrace", "-ex", "detach", seconds=90)
            self.check(done, r"in read ", r"in answer ", r"in main ")
        self.assertTrue(server.running() and client.running())
        done = self.run_program(*GDB, "-p", client.pid, "-ex", "break close", "-ex", "call (int)getpid()", "-ex", "detach", seconds=90)
        self.check(done, rf"\$1 = {client.pid}\b")
        client.stop()
        self.wait_until(lambda: not server.running(), "the server's end")
        self.assertEqual((server.wait(), server.err), (0, ""))

    # ---- strace ----

    @harness.needs("strace")
    def test_strace(self):
        """Either way around; what goes over berth is no system call."""
        for number, inside in enumerate((True, False)):
            server = self.serve()
            trace = os.path.join(self.scratch, f"trace.{number}")
            strace, client = ["strace", "-f", "-o", trace], [DEBUGGEE, "client", self.port]
            done = self.run_program(*(UNDER + strace + client if inside else strace + UNDER + client), seconds=90)
            self.check(done, "(?m)^hello$")
            with open(trace) as f:
                text = f.read()
            self.assertIn(f'execve("{DEBUGGEE}"', text)
            self.assertLess(len(re.findall(r"hello", text)), 10, text[-3000:])
            self.wait_until(lambda: not server.running(), "the server's end")

    @harness.needs("strace")
    def test_strace_comes_and_goes_while_a_read_waits(self):
        server = self.serve()
        client = self.held()
        trace = os.path.join(self.scratch, "trace")
        strace = self.start("strace", "-f", "-o", trace, "-p", server.pid)
        self.wait_until(lambda: "attached" in strace.err, "strace")
        strace.stop()
        self.assertTrue(server.running() and client.running())
        client.stop()
        self.wait_until(lambda: not server.running(), "the server's end")
        self.assertEqual((server.wait(), server.err), (0, ""))

    # ---- perf ----

    def test_perf(self):
        if not shutil.which("perf"):
            self.skipTest("perf is not installed (Debian package linux-perf)")
        data = os.path.join(self.scratch, "perf.data")
        if subprocess.run(["perf", "record", "-q", "-o", data, "true"], capture_output=True).returncode:
            self.skipTest("perf may not count here (kernel.perf_event_paranoid)")
        for perf in (["perf", "stat", "-e", "task-clock"], ["perf", "record", "-q", "-o", data]):
            for inside in (True, False):
                server = self.serve()
                client = [DEBUGGEE, "client", self.port]
                done = self.run_program(*(UNDER + perf + client if inside else perf + UNDER + client), seconds=90)
                self.check(done, "(?m)^hello$" if "record" in perf else "hello")
                self.wait_until(lambda: not server.running(), "the server's end")
        done = self.run_program("perf", "report", "-i", data, "--stdio", "--sort", "comm")
        self.check(done, "debuggee")

    # ---- valgrind ----

    @harness.needs("valgrind")
    def test_valgrind_finds_no_fault_in_either_end(self):
        memcheck = ["valgrind", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]
        server = self.start_under(*memcheck, DEBUGGEE, "server", self.port, 1)
        self.wait_listening(int(self.port), server, 60)
        client = self.start_under(*memcheck, DEBUGGEE, "client", self.port, "hold")
        self.wait_until(lambda: "hello" in client.out or not client.running(), "the answers", 60)
        self.assertEqual(len(self.show("sessions")) > 0, True, f"{server!r}\n{client!r}")
        os.kill(client.pid, 0)
        self.assertTrue(server.running(), repr(server))
        client.stop()
        self.wait_until(lambda: not server.running(), "the server's end", 60)
        self.assertEqual(server.wait(), 0, repr(server))
        self.assertIn("ERROR SUMMARY: 0 errors", server.err)

        server = self.serve()
        done = self.run_under(*memcheck, DEBUGGEE, "client", self.port, seconds=90)
        self.check(done, "ERROR SUMMARY: 0 errors")

    # ---- core dumps ----

    def core_of(self, name, under):
        place = os.path.join(self.scratch, name)
        os.mkdir(place)
        server = self.start(*(UNDER if under else ()), DEBUGGEE, "server", self.port, 1)
        self.wait_listening(int(self.port), server)
        limit = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (limit[1], limit[1]))
        try:
            done = self.run_program(*(UNDER if under else ()), DEBUGGEE, "client", self.port, "crash", cwd=place, seconds=90)
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, limit)
        self.assertEqual(done.code, -6, repr(done))
        self.wait_until(lambda: not server.running(), "the server's end")
        cores = os.listdir(place)
        if not cores:
            self.skipTest("this machine writes no core")
        return os.path.join(place, cores[0])

    @harness.needs("gdb")
    def test_core(self):
        """It has the program's memory, and not berth's: neither its tables nor what the peer has sent."""
        with open("/proc/sys/kernel/core_pattern") as f:
            pattern = f.read().strip()
        if "/" in pattern or pattern.startswith("|") or not pattern:
            self.skipTest(f"cores do not go to the program's directory: {pattern}")
        plain, under = self.core_of("plain", False), self.core_of("under", True)
        kept = [os.stat(core).st_blocks * 512 for core in (plain, under)]
        self.assertLess(kept[1] - kept[0], 1 << 20, kept)
        self.assertLess(os.stat(under).st_size - os.stat(plain).st_size, 16 << 20)
        done = self.run_program(*GDB, "-ex", "backtrace", "-ex", "up-silently 100", "-ex", "down-silently", "-ex", "print line",
                                DEBUGGEE, under, seconds=90)
        self.check(done, r"abort \(\)", r"in ask ", r"in main ", r'\$1 = 0x[0-9a-f]+ "hello"')


if __name__ == "__main__":
    harness.main()
