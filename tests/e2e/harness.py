"""harness.py - what every end-to-end test stands on. Standard library only.

Each test has a runtime directory and a scratch directory of its own, starts programs through start() or run(), and
has a time limit. When it ends, everything it started is stopped (by pid, never by name) and the harness checks that
nothing is left: no process that descends from the test, nothing in the runtime directory, in /dev/shm or among the
network namespaces. To be able to see daemons that detached, the test process is a child subreaper: whoever loses its
parent becomes its child.

    class Greeting(harness.TestCase):
        def test_it(self):
            self.daemon()
            server = self.start_under("redis-server", "--port", str(port := self.free_port()))
            self.wait_listening(port, server)
            done = self.run_under("redis-cli", "-p", str(port), "ping")
            self.assertEqual(done.out, "PONG\\n")
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import slowness  # noqa: E402
from slowness import slow  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BERTH_TEST_BUILD", os.path.join(TOP, "build"))
BERTH = os.path.join(BUILD, "berth")
SHIM = os.path.join(BUILD, "src", "shim", "libberth-preload.so")
SANITIZER = os.environ.get("BERTH_TEST_SANITIZER", "")
SOAK = bool(os.environ.get("BERTH_TEST_SOAK"))  # `make soak`: all seeds, long runs, big sets
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
    raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def needs_preload(item):
    """Skips a test (or class) in sanitizer builds: an instrumented library cannot be preloaded into a plain program."""
    reason = f"the preload library of a {SANITIZER}-sanitizer build cannot enter plain programs"
    return unittest.skipIf(SANITIZER, reason)(item)


def needs_preload_into_python(item):
    """The same where only Python runs under berth: into it a library with AddressSanitizer can be preloaded."""
    return item if SANITIZER == "address" else needs_preload(item)


def needs(*programs):
    """Fails, not skips: the packages are in the list that `make test` installs."""
    missing = [p for p in programs if not which(p)]

    def fails(original):
        def instead(self, *args):
            original(self, *args)
            self.fail(f"not installed: {', '.join(missing)}; run scripts/deps.sh run")
        return instead

    def mark(item):
        if missing and isinstance(item, type):
            item.setUp = fails(item.setUp)
        elif missing:
            return fails(lambda self: None)
        return item
    return mark


def soak_only(item):
    """A test (or class) that `make test` has no time for: run.py leaves it out there."""
    item.soak_only = True
    return item


def pick(short, full):
    """Of a test that takes long: what `make test` does, and what `make soak` does."""
    return full if SOAK else short


class Deadline:
    """A moment so many seconds of a quiet machine away. When it seems to have come, the machine is measured anew: what came
    to keep it busy meanwhile puts it off."""

    def __init__(self, seconds):
        self.begin, self.seconds = time.monotonic(), seconds * (4 if SANITIZER else 1)
        self.factor = slowness.factor()

    def left(self):
        """Seconds until then; 0: it is over."""
        left = self.begin + self.seconds * self.factor - time.monotonic()
        if left <= 0 and self.factor < slowness.MOST:
            self.factor = max(self.factor, slowness.measure())
            left = self.begin + self.seconds * self.factor - time.monotonic()
        return max(left, 0)

    def over(self):
        return self.left() == 0

    def poll(self, wait):
        """wait(seconds) until it does not raise subprocess.TimeoutExpired or the time is over; then that is raised."""
        while True:
            try:
                return wait(self.left())
            except subprocess.TimeoutExpired:
                if self.over():
                    raise


def needs_root(item):
    return unittest.skipIf(os.geteuid() != 0, "needs root")(item)


def which(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def children_of(pid):
    """Live and dead-but-unreaped descendants of pid: {pid: command line}."""
    parent, command = {}, {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", errors="replace") as f:
                stat = f.read()
            with open(f"/proc/{name}/cmdline", "rb") as f:
                line = f.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2:].split()
        parent[int(name)] = int(fields[1])
        command[int(name)] = (line or stat[stat.index("("):stat.rindex(")") + 1]) + (" (zombie)" if fields[0] == "Z" else "")
    found, grew = {pid}, True
    while grew:
        more = {p for p, pp in parent.items() if pp in found and p not in found}
        found |= more
        grew = bool(more)
    return {p: command[p] for p in found if p != pid}


def cpu_seconds(pid):
    """Of its first thread: a sanitizer has one of its own, which wakes up now and then."""
    with open(f"/proc/{pid}/task/{pid}/schedstat") as f:
        return int(f.read().split()[0]) / 1e9


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as f:
            stat = f.read()
        return stat[stat.rindex(")") + 2] not in "ZX"
    except OSError:
        return False


class Done:
    """How a program that ran to its end went."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def __repr__(self):
        return f"{' '.join(self.command)}\nexit status {self.code}\n--- stdout\n{self.out[-4000:]}\n--- stderr\n{self.err[-4000:]}"

    def json(self):
        return json.loads(self.out)


class Program:
    """A program that runs beside the test, its output in files."""

    def __init__(self, test, command, env, cwd, stdin):
        self.test, self.command = test, command
        n = len(test.programs)
        base = os.path.join(test.scratch, f"{n:02}-{os.path.basename(command[0])}")
        self.out_path, self.err_path = base + ".out", base + ".err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(command, env=env, cwd=cwd, stdin=stdin, stdout=out, stderr=err,
                                            start_new_session=True)
        self.pid = self.process.pid

    @property
    def out(self):
        with open(self.out_path, errors="replace") as f:
            return f.read()

    @property
    def err(self):
        with open(self.err_path, errors="replace") as f:
            return f.read()

    def running(self):
        return self.process.poll() is None

    def wait(self, seconds=30):
        """Its exit status, as subprocess has it (negative: by that signal)."""
        deadline = Deadline(seconds)
        try:
            return deadline.poll(lambda left: self.process.wait(timeout=left))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {seconds} s x {deadline.factor:.1f}: {self}") from None

    def kill(self, sig=signal.SIGKILL):
        if self.running():
            os.kill(self.pid, sig)

    def stop(self, seconds=10):
        """SIGTERM, and its exit status. A program that does not heed it is a failure."""
        self.kill(signal.SIGTERM)
        return self.wait(seconds)

    def __repr__(self):
        code = self.process.poll()
        state = "running" if code is None else f"exit status {code}"
        return f"{' '.join(self.command)} (pid {self.pid}, {state})\n--- stdout\n{self.out[-4000:]}\n--- stderr\n{self.err[-4000:]}"


# echoes to as many as come; its argument is the port
ECHO_SERVER = """
import selectors, socket, sys
l = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=300)
look = selectors.DefaultSelector()
look.register(l, selectors.EVENT_READ)
while True:
    for key, _ in look.select():
        if key.fileobj is l:
            look.register(l.accept()[0], selectors.EVENT_READ)
            continue
        data = key.fileobj.recv(100000)
        if data:
            key.fileobj.sendall(data)
        else:
            look.unregister(key.fileobj)
            key.fileobj.close()
"""


class TestCase(unittest.TestCase):
    limit = 120  # seconds for one test; a class may say otherwise
    maxDiff = 8000
    auto_daemon_leaves_within = 10

    def setUp(self):
        if not os.access(BERTH, os.X_OK):
            self.fail(f"{BERTH} is not there: run make first")
        self.programs = []
        self.before = self._surroundings()
        self.base = tempfile.mkdtemp(prefix="berth-e2e-")
        os.chmod(self.base, 0o755)
        self.runtime_dir = os.path.join(self.base, "run")
        self.scratch = os.path.join(self.base, "scratch")
        os.mkdir(self.runtime_dir, 0o700)
        os.mkdir(self.scratch, 0o755)
        self.addCleanup(self._end)
        signal.signal(signal.SIGALRM, self._too_long)
        self.deadline = Deadline(self.limit)
        signal.setitimer(signal.ITIMER_REAL, self.deadline.left())

    def _too_long(self, *_):
        if (left := self.deadline.left()) > 0:
            signal.setitimer(signal.ITIMER_REAL, left)
            return
        raise AssertionError(f"the test's limit of {self.limit} s x {self.deadline.factor:.1f} is over; programs:\n" +
                             "\n".join(repr(p) for p in getattr(self, "programs", [])))

    # ---- programs ----

    def environment(self, extra=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith("BERTH_") and k != "LD_PRELOAD"}
        env["PATH"] = env.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
        env["BERTH_RUNTIME_DIR"] = self.runtime_dir
        env["BERTH_TEST_SLOWNESS"] = f"{slowness.factor():.2f}"
        env["PYTHONPATH"] = os.path.dirname(os.path.abspath(slowness.__file__))
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        env.update(extra or {})
        return {k: v for k, v in env.items() if v is not None}

    def start(self, *command, env=None, cwd=None, stdin=subprocess.DEVNULL):
        program = Program(self, [str(c) for c in command], self.environment(env), cwd or self.scratch, stdin)
        self.programs.append(program)
        return program

    def run_program(self, *command, env=None, cwd=None, stdin="", seconds=60, binary=False):
        """Runs it to its end. binary: out is bytes."""
        command = [str(c) for c in command]
        process = subprocess.Popen(command, env=self.environment(env), cwd=cwd or self.scratch, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        deadline = Deadline(seconds)
        try:
            out, err = deadline.poll(lambda left: process.communicate(data, timeout=left))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"no end after {seconds} s x {deadline.factor:.1f}: {' '.join(command)}\n{out[-3000:]!r}\n{err[-3000:]!r}") from None
        return Done(command, process.returncode, out if binary else out.decode(errors="replace"),
                    err.decode(errors="replace"))

    def berth(self, *args, **more):
        return self.run_program(BERTH, *args, **more)

    def check_berth(self, *args, **more):
        done = self.berth(*args, **more)
        self.assertEqual(done.code, 0, repr(done))
        return done

    def daemon(self, *args, env=None):
        """Starts a daemon in this test's runtime directory and waits until it answers."""
        program = self.start(BERTH, "daemon", "--runtime-dir", self.runtime_dir, *args, env=env)
        self.wait_until(lambda: self.daemon_answers() or not program.running(), "the daemon's answer", 10)
        self.assertTrue(program.running(), repr(program))
        return program

    def daemon_answers(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            try:
                s.connect(os.path.join(self.runtime_dir, "control.sock"))
                return True
            except OSError:
                return False

    @staticmethod
    def _under(more):
        if SANITIZER == "address":  # the program is not instrumented, comes first, and leaves its memory to the kernel
            options = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0:detect_leaks=0"
            more["env"] = {"ASAN_OPTIONS": options, **(more.get("env") or {})}
        return more

    def start_under(self, *command, **more):
        """Under berth, in the background."""
        return self.start(BERTH, "run", "--", *command, **self._under(more))

    def run_under(self, *command, **more):
        return self.run_program(BERTH, "run", "--", *command, **self._under(more))

    def show(self, what):
        return self.check_berth("show", what, "--json").json()

    # ---- waiting ----

    def wait_until(self, condition, what, seconds=20):
        """condition() until it is true; its value."""
        deadline, pause = Deadline(seconds), 0.001
        while True:
            late = deadline.over()  # before the look: what is seen after the end counts still
            value = condition()
            if value:
                return value
            if late:
                raise AssertionError(f"waited {seconds} s x {deadline.factor:.1f} in vain for {what}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def wait_settled(self, get, what, quiet=1.0, seconds=20):
        """get() once it has given the same for `quiet` seconds. What is counted while things move is luck."""
        deadline, value, since = Deadline(seconds), get(), time.monotonic()
        while time.monotonic() - since < quiet:
            if deadline.over():
                raise AssertionError(f"{what} does not settle: {value}")
            time.sleep(0.05)
            if (now := get()) != value:
                value, since = now, time.monotonic()
        return value

    def wait_listening(self, port, program=None, seconds=20):
        """Until a kernel socket listens at that TCP port. Looks in /proc, so that no connection is made."""
        want = f":{port:04X}"

        def listening():
            if program is not None and not program.running():
                raise AssertionError(f"ended before it listened at port {port}: {program}")
            for table in ("/proc/net/tcp", "/proc/net/tcp6"):
                try:
                    with open(table) as f:
                        for line in f:
                            words = line.split()
                            if words[1].endswith(want) and words[3] == "0A":
                                return True
                except OSError:
                    pass
            return False
        self.wait_until(listening, f"a listener at port {port}\n{program}", seconds)

    def free_port(self):
        """A TCP port that was free a moment ago, outside the ephemeral range so that no client takes it by chance."""
        low = 20000 + (os.getpid() * 61) % 8000
        for port in range(low, low + 4000):
            if port in _ports_given:
                continue
            try:
                with socket.socket(socket.AF_INET6) as s:
                    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    s.bind(("::", port))
            except OSError:
                try:
                    with socket.socket() as s:
                        s.bind(("0.0.0.0", port))
                except OSError:
                    continue
            _ports_given.add(port)
            return port
        raise AssertionError("no free port")

    def file(self, name, data, mode=0o644):
        path = os.path.join(self.scratch, name)
        with open(path, "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())
        os.chmod(path, mode)
        return path

    def netns(self):
        """A network namespace of the test's own, its loopback up: the pid, in words, of a process that holds it. Nothing is
        mounted for it, which needs a / that is a mount (not so in a chroot). in_netns() runs something in it."""
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && read until_we_end"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (holder.kill(), holder.wait(), holder.stdin.close(), holder.stdout.close()))
        self.assertEqual(holder.stdout.readline(), "up\n")
        return str(holder.pid)

    @staticmethod
    def in_netns(pid, *command):
        return ("nsenter", "--target", pid, "--net", "--", *command)

    # ---- the end ----

    @staticmethod
    def _surroundings():
        """What may not grow: only berth's own names, since others use the machine too."""
        def names(path, mine):
            try:
                return {n for n in os.listdir(path) if mine in n}
            except OSError:
                return set()
        return {"/dev/shm": names("/dev/shm", "berth")}

    def _end(self):
        signal.setitimer(signal.ITIMER_REAL, 0)
        problems = []
        for program in reversed(self.programs):
            if program.running():
                program.kill(signal.SIGTERM)
        deadline = Deadline(10)
        for program in reversed(self.programs):
            try:
                deadline.poll(lambda left, p=program: p.process.wait(timeout=max(0.1, left)))
            except subprocess.TimeoutExpired:
                problems.append(f"did not stop on SIGTERM: {program}")
                program.kill()
                program.process.wait()
        # an auto-started daemon leaves by itself once its last app is gone
        deadline = Deadline(self.auto_daemon_leaves_within)
        while True:
            self._reap()
            left = children_of(os.getpid())
            if not left or deadline.over():
                break
            time.sleep(0.01)
        for pid, command in left.items():
            problems.append(f"left running: {pid} {command}")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        deadline = Deadline(5)
        while children_of(os.getpid()) and not deadline.over():
            self._reap()
            time.sleep(0.005)
        rest = sorted(os.listdir(self.runtime_dir)) if os.path.isdir(self.runtime_dir) else []
        log = os.path.join(self.runtime_dir, "daemon.log")
        if "daemon.log" in rest: # an automatic daemon's log stays, by intent
            rest.remove("daemon.log")
        if rest:
            problems.append(f"left in the runtime directory: {rest}")
        for place, was in self.before.items():
            more = self._surroundings()[place] - was
            if more:
                problems.append(f"left in {place}: {sorted(more)}")
        if problems or self._failed():
            problems += [repr(p) for p in self.programs]
            if os.path.exists(log):
                with open(log, errors="replace") as f:
                    problems.append("daemon.log:\n" + f.read()[-4000:])
        shutil.rmtree(self.base, ignore_errors=True)
        if problems:
            raise AssertionError("\n".join(problems))

    def _failed(self):
        """Has this very test failed already? Then what the programs said goes along with the reason."""
        outcome = self._outcome
        errors = getattr(outcome, "errors", None)
        if errors is None:  # Python 3.11 and newer keep them in the result alone
            return not outcome.success
        return any(error for _, error in errors)

    def expect_leftover(self, *names):
        """For a test that kills the daemon: takes its files away, which a killed one cannot do itself."""
        for name in names:
            path = os.path.join(self.runtime_dir, name)
            if os.path.exists(path):
                os.unlink(path)

    def _reap(self):
        """Orphans that became ours and have ended."""
        known = {p.pid for p in self.programs if p.process.returncode is None}
        for pid in children_of(os.getpid()):
            if pid in known:
                continue
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


_ports_given = set()


def main():
    unittest.main()


if __name__ == "__main__":
    sys.exit("this is a library; run a test_*.py or scripts/test.py")
