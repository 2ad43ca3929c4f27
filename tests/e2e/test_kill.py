"""Ends of processes: what the peers see, and that nothing of the dead is left, in the living and in the daemon."""

import os
import select
import signal
import subprocess
import time

import harness

PYTHON = "/usr/bin/python3"
HERE = os.path.dirname(os.path.abspath(__file__))


@harness.needs_preload_into_python
class Deaths(harness.TestCase):
    def test_peers_see_what_tcp_would_show(self):
        """The same cases on the kernel and under berth: killed and exiting peers, with and without unread bytes."""
        self.daemon()
        script = os.path.join(HERE, "deaths.py")
        plain = self.run_program(PYTHON, script, "all", self.free_port())
        self.assertEqual(plain.code, 0, repr(plain))
        self.assertGreater(plain.out.count("\n"), 25, repr(plain))
        under = self.run_under(PYTHON, script, "all", self.free_port())
        self.assertEqual(under.code, 0, repr(under))
        self.assertEqual(plain.out.splitlines(), under.out.splitlines())


KILLS = os.path.join(harness.BUILD, "tests", "stress", "kills")
VIEWS = ("apps", "workers", "listeners", "sessions", "segments")


def held(pid):
    """What a process holds: descriptors by kind, maps, resident KiB."""
    kinds = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            kind = os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0].removesuffix(" (deleted)")
        except OSError:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    with open(f"/proc/{pid}/maps") as f:
        maps = sum(1 for _ in f)
    with open(f"/proc/{pid}/statm") as f:
        resident = int(f.read().split()[1]) * 4
    return {"fds": kinds, "maps": maps, "resident": resident}


class Kills(harness.TestCase):
    """Libberth's own: survivors exchange checked data while others die at random moments."""

    def count(self):
        return {view: len(self.show(view)) for view in VIEWS}

    def settled(self, what, get, good, seconds=20):
        """get() until good() holds."""
        end = time.monotonic() + seconds * (3 if harness.SANITIZER else 1)
        while True:
            value = get()
            if good(value):
                return value
            if time.monotonic() > end:
                self.fail(f"{what} did not come back: {value}")
            time.sleep(0.2)

    def kill_storm(self, kills, *args):
        daemon = self.daemon()
        err = open(os.path.join(self.scratch, "kills.err"), "w+")
        self.addCleanup(err.close)
        storm = subprocess.Popen([KILLS, *args], env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=err, text=True, bufsize=1)
        self.addCleanup(lambda: (storm.kill(), storm.wait(), storm.stdin.close(), storm.stdout.close()))

        def said():
            err.seek(0)
            return err.read()[-3000:]

        def run(n):
            storm.stdin.write(f"run {n}\n")
            got = select.select([storm.stdout], [], [], 60 * (4 if harness.SANITIZER else 1))[0]
            self.assertTrue(got, f"{n} kills came to no end\n{said()}")
            self.assertEqual(storm.stdout.readline(), "done\n", said())
        words = storm.stdout.readline().split()
        survivors = list(zip(words[::2], map(int, words[1::2])))
        self.assertEqual(len(survivors), 4, said())

        # what a first round leaves for good (warm rings, the stacks and heaps of those who go on) is the yardstick
        run(kills // 4)
        workers = len(survivors)
        self.settled("the daemon's tables", self.count, lambda c: c["workers"] == c["apps"] == workers)
        time.sleep(4)  # mappings of the dead stay for three seconds
        tables = self.count()
        before = {pid: held(pid) for _, pid in survivors + [("daemon", daemon.pid)]}
        run(kills)
        self.settled("the daemon's tables", self.count,
                     lambda c: c["workers"] == c["apps"] == workers and c["segments"] <= tables["segments"] and
                     c["listeners"] == 1)
        for name, pid in survivors + [("daemon", daemon.pid)]:
            was = before[pid]
            self.settled(f"{name} {pid}, which held {was}", lambda p=pid: held(p),
                         lambda now, w=was: all(n <= w["fds"].get(k, 0) + (2 if k == "socket" else 0)
                                                for k, n in now["fds"].items()) and
                         now["maps"] <= w["maps"] + 4 and
                         (harness.SANITIZER or now["resident"] <= w["resident"] * 1.2 + 2048))
        storm.stdin.write("stop\n")
        self.assertEqual(storm.wait(30), 0, said() + storm.stdout.read())
        self.settled("the daemon's tables", self.count, lambda c: not any(c.values()))
        self.assertNotIn("warn", daemon.err, repr(daemon))

    def test_killed_at_random_moments(self):
        self.kill_storm(3000)


if __name__ == "__main__":
    harness.main()
