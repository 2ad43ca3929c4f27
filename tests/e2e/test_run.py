"""berth run: nothing about the program changes, a daemon comes and goes, and its absence is no obstacle."""

import os
import pty
import select
import shutil
import signal
import time
import unittest

import harness

PYTHON = "/usr/bin/python3"

# the loader's token: what it stands for is found beside the library
BY_TOKEN = os.path.join(os.path.dirname(harness.SHIM), "$LIB", os.path.basename(harness.SHIM))

# each of its processes finds out by itself that there is no way to berth, and does so twice, a pause apart
IN_VAIN = """
import os, socket, time
for i in range(3):
    if os.fork() == 0:
        socket.socket().close()
        time.sleep(1.2)
        socket.socket().close()
        os._exit(0)
for i in range(3):
    os.wait()
"""

# a listener in each of its processes, so that each is attached, and then the daemon ends
BEREFT = """
import os, socket, sys
l = socket.create_server(("127.0.0.1", 0))
for i in range(3):
    if os.fork() == 0:
        mine = socket.create_server(("127.0.0.1", 0))
        print("here", flush=True)
        mine.accept()
print("here", flush=True)
l.accept()
"""


@harness.needs_preload
class Run(harness.TestCase):
    def quiet(self, *command, **more):
        done = self.run_under(*command, **more)
        self.assertEqual(done.err, "", repr(done))
        return done

    def test_exit_status(self):
        for code in (0, 1, 42, 255):
            self.assertEqual(self.quiet("sh", "-c", f"exit {code}").code, code)

    def test_program_not_found_and_not_executable(self):
        done = self.run_under("no-such-program")
        self.assertEqual(done.code, 127)
        self.assertIn("no-such-program: not found", done.err)
        self.assertEqual(self.run_under("./no/such").code, 127)
        self.assertEqual(self.run_under("/etc/passwd").code, 126)
        self.assertEqual(self.run_under("/etc").code, 126)
        self.assertEqual(self.run_under(self.file("plain", "#!/bin/sh\n", 0o644)).code, 126)
        self.assertFalse(self.daemon_answers(), "a daemon was started for nothing")

    def test_killed_by_a_signal(self):
        for sig in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV):
            self.assertEqual(self.quiet("sh", "-c", f"kill -{int(sig)} $$").code, -sig)

    def test_signals_reach_the_program(self):
        program = self.start_under("sh", "-c", "trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.05; done")
        self.wait_until(lambda: "ready" in program.out, "the program's start")
        program.kill(signal.SIGUSR1)
        self.assertEqual(program.wait(), 9)
        self.assertIn("got it", program.out)

    def test_same_pid_streams_and_arguments(self):
        program = self.start_under("sh", "-c", "echo $$; exec sleep 30")
        self.wait_until(lambda: program.out, "the program's start")
        self.assertEqual(int(program.out), program.pid)
        program.kill()
        program.wait()
        done = self.quiet("cat", stdin="through and through\n")
        self.assertEqual(done.out, "through and through\n")
        done = self.quiet("printf", "[%s]", "a b", "", "--help", "*")
        self.assertEqual(done.out, "[a b][][--help][*]")

    def test_output_pipe_ends_with_the_program(self):
        """A daemon that kept the pipe would let `berth run ... | cat` hang."""
        start = time.monotonic()
        done = self.run_program("/bin/sh", "-c", f"{harness.BERTH} run -- echo hello | cat; {harness.BERTH} run -- echo x 2>&1 | cat",
                                seconds=30)
        self.assertEqual(done.out, "hello\nx\n", repr(done))
        self.assertLess(time.monotonic() - start, harness.slow(10))

    def test_environment(self):
        script = "import os, json; print(json.dumps(dict(os.environ)))"
        extra = {"GREETING": "a=b c", "EMPTY": ""}
        plain = self.run_program(PYTHON, "-c", script, env=extra).json()
        under = self.quiet(PYTHON, "-c", script, env=extra).json()
        self.assertEqual(under.pop("LD_PRELOAD"), BY_TOKEN)
        self.assertEqual(under, plain)

        under = self.run_program(harness.BERTH, "run", "-v", "-n", "default", "--", PYTHON, "-c", script).json()
        self.assertEqual(under["BERTH_NAMESPACE"], "default")
        self.assertEqual(under["BERTH_LOG"], "info")

    def test_other_preloads_stay(self):
        libc = self.run_program("/bin/sh", "-c", "ls /lib/*-linux-gnu/libm.so.6 | head -n 1").out.strip()
        done = self.quiet("sh", "-c", "echo $LD_PRELOAD", env={"LD_PRELOAD": libc})
        self.assertEqual(done.out.strip(), f"{BY_TOKEN}:{libc}")
        done = self.quiet(harness.BERTH, "run", "--", "sh", "-c", "echo $LD_PRELOAD")
        self.assertEqual(done.out.strip(), BY_TOKEN)

    def test_paths_given_are_absolute_in_the_program(self):
        self.file("secret", "s\n")
        os.mkdir(os.path.join(self.scratch, "r"), 0o700)
        done = self.run_program(harness.BERTH, "run", "-d", "r", "-s", "secret", "--", "sh", "-c",
                                "cd / && echo $BERTH_RUNTIME_DIR $BERTH_SECRET_FILE")
        self.assertEqual(done.out, f"{self.scratch}/r {self.scratch}/secret\n", repr(done))

    def test_terminal(self):
        pid, master = pty.fork()
        if pid == 0:
            os.execve(harness.BERTH, ["berth", "run", "--", "sh", "-c", "tty && test -t 0 && stty size && echo [$(ps -o stat= -p $$)]"],
                      self.environment())
        out = b""
        end = time.monotonic() + harness.slow(20)
        while time.monotonic() < end:
            if not select.select([master], [], [], 0.5)[0]:
                continue
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            if not piece:
                break
            out += piece
        os.close(master)
        _, status = os.waitpid(pid, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0, out)
        self.assertIn(b"/dev/pts/", out)
        self.assertRegex(out.decode(), r"\[.*\+.*\]")  # in the foreground process group

    def test_daemon_comes_and_goes(self):
        self.assertFalse(self.daemon_answers())
        program = self.start_under("sleep", "60")
        self.wait_until(self.daemon_answers, "the daemon that berth run starts")
        pid = self.wait_until(self.daemon_pid, "the daemon's own word")
        self.assertNotEqual(pid, program.pid)
        time.sleep(2.5)  # longer than its grace: the daemon stays for it
        self.assertEqual(self.daemon_pid(), pid)
        second = self.quiet("true")
        self.assertEqual(second.code, 0)
        self.assertEqual(self.daemon_pid(), pid)
        program.kill()
        program.wait()
        self.wait_until(lambda: not harness.is_alive(pid), "the daemon to leave", 15)
        self.assertFalse(os.path.exists(os.path.join(self.runtime_dir, "control.sock")))

    def daemon_pid(self):
        done = self.check_berth("version")
        words = done.out.split("pid ")
        return int(words[1].split(",")[0]) if len(words) > 1 else None

    def test_a_daemon_by_hand_does_not_leave(self):
        daemon = self.daemon()
        for _ in range(3):
            self.quiet("true")
        time.sleep(2.5)
        self.assertTrue(daemon.running(), repr(daemon))

    def test_many_at_once_share_one_daemon(self):
        programs = [self.start_under("sleep", "3") for _ in range(12)]
        for program in programs:
            self.assertEqual(program.wait(), 0, repr(program))
            self.assertEqual(program.err, "", repr(program))

    def test_no_race_with_a_leaving_daemon(self):
        """Runs that come at any moment of a daemon's leaving all get one."""
        for i in range(12):
            self.assertEqual(self.quiet("true").code, 0)
            time.sleep(0.9 + i * 0.02)

    def test_without_a_daemon_on_the_kernel(self):
        file = self.file("not-a-directory", "")
        done = self.run_under("sh", "-c", "echo still; exit 5", env={"BERTH_RUNTIME_DIR": file})
        self.assertEqual((done.code, done.out), (5, "still\n"), repr(done))
        self.assertIn("warning", done.err)
        self.assertIn(file, done.err)
        self.assertIn("runs on the kernel", done.err)

    def test_a_program_warns_once(self):
        self.daemon()
        done = self.run_program(harness.BERTH, "run", "-n", "nosuchns", "--", PYTHON, "-c", IN_VAIN,
                                env={"BERTH_LOG": "loud", "BERTH_SPIN_US": "many", "BERTH_SECRET_FILE": "/nonexistent/s"})
        self.assertEqual(done.code, 0, done)
        said = sorted(line.split(": ", 1)[1] for line in done.err.splitlines())
        self.assertEqual(len(said), 4, done)
        self.assertTrue(said[0].startswith("BERTH_LOG=loud is none of"), done)
        self.assertTrue(said[1].startswith("BERTH_SPIN_US=many is not"), done)
        self.assertTrue(said[2].startswith("cannot read BERTH_SECRET_FILE /nonexistent/s"), done)
        self.assertTrue(said[3].startswith("this process stays on the kernel: namespace 'nosuchns'"), done)

    def test_a_program_tells_once_of_the_daemons_end(self):
        daemon = self.daemon()
        program = self.start_under(PYTHON, "-c", BEREFT)
        self.addCleanup(lambda: [os.kill(p, signal.SIGKILL) for p in children])
        self.wait_until(lambda: program.out.count("here") == 4, "all its processes")
        children = harness.children_of(program.pid)
        self.assertEqual(len(children), 3)
        daemon.kill(signal.SIGTERM)
        daemon.wait()
        self.wait_settled(lambda: program.err, "what it says of that")
        self.assertEqual(program.err.count("daemon went away"), 1, program)

    @harness.needs("musl-gcc")
    def test_program_of_another_libc(self):
        """It runs, on the kernel, and says so; what it starts is under berth again."""
        source = self.file("hello.c", '#include <stdio.h>\n#include <unistd.h>\n'
                           'int main(int n, char **args) { puts("musl"); fflush(stdout); if (n > 2) execv(args[2], args + 2); return 3; }\n')
        program = os.path.join(self.scratch, "hello")
        built = self.run_program("musl-gcc", "-o", program, source)
        self.assertEqual(built.code, 0, repr(built))
        done = self.run_under(program)
        self.assertEqual((done.code, done.out), (3, "musl\n"), repr(done))
        self.assertEqual(done.err.count("linked with musl"), 1, repr(done))
        self.assertEqual(len(done.err.splitlines()), 1, repr(done))
        script = self.file("script", f"#!{program}\n", 0o755)
        self.assertIn("linked with musl", self.run_under(script).err)
        done = self.quiet("sh", "-c", f"{program}; {program} - /bin/grep -c libberth-preload /proc/self/maps")
        self.assertRegex(done.out, r"^musl\nmusl\n[1-9]", repr(done))

    def test_static_program(self):
        source = self.file("hello.c", '#include <stdio.h>\nint main(void) { puts("static"); return 3; }\n')
        program = os.path.join(self.scratch, "hello")
        built = self.run_program("cc", "-static", "-o", program, source)
        self.assertEqual(built.code, 0, repr(built))
        done = self.run_under(program)
        self.assertEqual((done.code, done.out), (3, "static\n"), repr(done))
        self.assertIn("statically linked", done.err)
        script = self.file("script", f"#!{program} -x\n", 0o755)
        self.assertIn("statically linked", self.run_under(script).err)

    @harness.needs_root
    def test_setuid_program(self):
        copy = os.path.join(self.scratch, "id")
        shutil.copy("/usr/bin/id", copy)
        os.chown(copy, 65534, -1)
        os.chmod(copy, 0o4755)
        done = self.run_under(copy, "-u")
        self.assertEqual((done.code, done.out), (0, "65534\n"), repr(done))
        self.assertIn("set-user-id", done.err)

    @harness.needs_root
    def test_as_another_user(self):
        """Without XDG_RUNTIME_DIR: /tmp/berth-UID, private and his own; and one that somebody else made is not used."""
        uid = 64000 + os.getpid() % 1000
        place = f"/tmp/berth-{uid}"
        self.assertFalse(os.path.exists(place))
        self.addCleanup(shutil.rmtree, place, True)
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        bare = {"BERTH_RUNTIME_DIR": None, "XDG_RUNTIME_DIR": None}
        done = self.run_program(*as_user, harness.BERTH, "run", "--", "sh", "-c", "echo $BERTH_RUNTIME_DIR", env=bare)
        self.assertEqual((done.code, done.out, done.err), (0, place + "\n", ""), repr(done))
        stat = os.stat(place)
        self.assertEqual((stat.st_uid, stat.st_mode & 0o777), (uid, 0o700))
        self.wait_until(lambda: not os.path.exists(place + "/control.sock"), "the daemon to leave", 15)

        os.chown(place, 0, 0)
        done = self.run_program(*as_user, harness.BERTH, "run", "--", "echo", "still", env=bare)
        self.assertEqual((done.code, done.out), (0, "still\n"), repr(done))
        self.assertIn(place, done.err)
        self.assertIn("runs on the kernel", done.err)

    @harness.needs_root
    def test_as_a_user_who_cannot_write_tmp(self):
        bare = {"BERTH_RUNTIME_DIR": None, "XDG_RUNTIME_DIR": None}
        done = self.run_program("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o mode=755 none /tmp && exec "$@"', "sh", "setpriv",
                                "--reuid=64999", "--regid=64999", "--clear-groups", harness.BERTH, "run", "--", "echo", "still",
                                env=bare, cwd="/")
        self.assertEqual((done.code, done.out), (0, "still\n"), repr(done))
        self.assertIn("/tmp/berth-64999 cannot be made", done.err)


if __name__ == "__main__":
    unittest.main()
