"""The differential suite: each case of tests/differ runs on the kernel and under berth, and both print the same.

Each case of `differ --list` becomes a test here, in a class for its area; an area has one daemon. A case's two runs go side by
side, one for each CPU. Only where the kernel itself does not say the same twice is a case run again.

tests/differ/meant.txt lists the differences that are meant, each with its reason; one that is no difference any more fails.
tests/differ/warned.txt lists the cases in which berth warns once, and of what; all else is equal there, too.
tests/differ/open.txt lists those that are not meant and not mended yet: they are skipped, and counted as that, while they differ.
By hand: build/tests/differ/differ NAME, and the same under berth; scripts/test.py --only differ --test NAME does both.
"""

import math
import os
import re
import signal
import subprocess
import unittest

import harness

DIFFER = os.path.join(harness.BUILD, "tests", "differ", "differ")
MEANT = os.path.join(harness.TOP, "tests", "differ", "meant.txt")
WARNED = os.path.join(harness.TOP, "tests", "differ", "warned.txt")
OPEN = os.path.join(harness.TOP, "tests", "differ", "open.txt")
CASE_SECONDS = 60  # the binary itself ends a case, after 5 s, and says HANG


def cases():
    """{area: [(case, what it asks)]}, in the order of the sources."""
    found = {}
    if os.access(DIFFER, os.X_OK):
        listed = subprocess.run([DIFFER, "--list"], capture_output=True, text=True, check=True, timeout=20).stdout
        for line in listed.splitlines():
            name, what = line.split("\t")
            area, case = name.split(".")
            found.setdefault(area, []).append((case, what))
    return found


def meant_differences(path=MEANT):
    """{area.case: reason}"""
    table = {}
    with open(path) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                name, reason = line.split(":", 1)
                table[name.strip()] = reason.strip()
    return table


class Place(harness.TestCase):
    """Where an area's cases run: directories and a daemon for all of them."""

    def runTest(self):
        pass

    def _failed(self):
        return False


class Area(unittest.TestCase):
    """The base of the classes below."""
    maxDiff = None
    meant = meant_differences()
    open_yet = meant_differences(OPEN)
    warned = meant_differences(WARNED)

    @classmethod
    def setUpClass(cls):
        cls.place = Place()
        cls.place.setUp()
        signal.setitimer(signal.ITIMER_REAL, 0)  # each case has a limit of its own
        try:
            cls.daemon = cls.place.daemon()
        except BaseException:
            cls.place._end()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.place._end()

    def begin(self, *command):
        env = self.place.environment({"DIFFER_SECONDS": str(math.ceil(harness.slow(5)))})
        return subprocess.Popen(command, env=env, cwd=self.place.scratch, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)

    def output(self, program, warning=None):
        """What it said, and how it ended if not well. A warning that is due is to be there once, and is left out."""
        try:
            out, err = harness.Deadline(CASE_SECONDS).poll(lambda left: program.communicate(timeout=left))
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            out, err = program.communicate()
            return out.decode(errors="replace").splitlines() + ["never came to an end"]
        text = out.decode(errors="replace").splitlines()
        if warning:
            first, *rest = err.decode(errors="replace").splitlines(keepends=True) or [""]
            text += [] if re.fullmatch(rf"berth\[\d+\] warn: {re.escape(warning)}\n", first) else [f"no warning: {warning}"]
            err = "".join(rest if first.startswith("berth[") else [first, *rest]).encode()
        if program.returncode != 0 or err:
            text.append(f"exit status {program.returncode}: {err.decode(errors='replace')}")
        return text

    def both(self, name):
        kernel = self.begin(DIFFER, name)
        berth = self.begin(harness.BERTH, "run", "--", DIFFER, name)
        return self.output(kernel), self.output(berth, self.warned.get(name))

    def compare(self, name):
        kernel, berth = self.both(name)
        for _ in range(2):
            if kernel == berth or self.output(self.begin(DIFFER, name)) == kernel:
                break
            kernel, berth = self.both(name)
        self.assertTrue(self.daemon.running(), f"the daemon has ended\n{self.daemon!r}")
        self.assertTrue(kernel, "the case says nothing")
        self.assertNotIn("HANG", kernel, "the case hangs on the kernel")
        if name in self.meant:
            self.assertNotEqual(kernel, berth, f"no difference any more: take it out of {MEANT}")
        elif name in self.open_yet and kernel != berth:
            self.skipTest(f"not mended yet: {self.open_yet[name]}")
        else:
            self.assertEqual("\n".join(kernel), "\n".join(berth))  # as texts: the message shows the lines that differ


def test_of(name, what):
    def test(self):
        self.compare(name)
    test.__doc__ = what
    return test


CASES = cases()
for area_name, its_cases in CASES.items():
    methods = {f"test_{case}": test_of(f"{area_name}.{case}", what) for case, what in its_cases}
    globals()[area_name] = harness.needs_preload(type(area_name, (Area,), {"__module__": __name__, **methods}))
del Area  # has no tests of its own


class Table(unittest.TestCase):
    def test_there_are_cases(self):
        self.assertTrue(os.access(DIFFER, os.X_OK), f"{DIFFER} is not there: run make first")
        self.assertGreaterEqual(sum(len(c) for c in CASES.values()), 380)

    def test_meant_differences_are_of_cases(self):
        known = {f"{area}.{case}" for area, its in CASES.items() for case, _ in its}
        self.assertEqual(sorted((set(meant_differences()) | set(meant_differences(OPEN)) | set(meant_differences(WARNED))) - known), [])
        self.assertNotIn("", meant_differences().values(), "a meant difference has a reason")


if __name__ == "__main__":
    harness.main()
