"""slowness.py - how much longer than on a quiet machine things take here and now: the factor of every limit in the tests.

A limit says what a quiet machine of two CPUs needs, many times over. One that is busy with other work, or old, or an
emulation, needs longer, and a test that fails by time there says nothing about berth. So what tests are made of is timed
(work on every CPU at once, messages between two processes that sleep in turn, processes started) beside what it takes
on a quiet machine, and it is asked how many others want the CPUs (the load average). The worst of these ratios is the
factor, to the power of 1.5: a test is a chain of processes that wait for each other, so that what slows one link slows
the chain at many places, and a moment's measure misses the worst moments.

scripts/test.py measures once before it begins and hands the factor on as BERTH_TEST_SLOWNESS, which the C programs read
too (tests/slowness.h). harness.py measures again when a test is about to fail by time, since other work comes and goes.
Programs of the tests find this file by PYTHONPATH. By hand: /usr/bin/python3 tests/e2e/lib/slowness.py
"""

import os
import subprocess
import time

MOST = 20  # a hang is to be seen some day

# seconds on a quiet machine, generously
WORK, MESSAGES, STARTS = 0.030, 0.012, 0.030


def _work():
    n = 0
    for i in range(300_000):
        n += i & 3
    return n


def _all_cpus():
    """Each CPU that we may use has such a piece of work to do; the last one's end counts."""
    start = time.monotonic()
    pids = []
    for _ in range(len(os.sched_getaffinity(0))):
        pid = os.fork()
        if pid == 0:
            _work()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return time.monotonic() - start


def _messages():
    there, back = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(there[1])
        while data := os.read(there[0], 1):
            os.write(back[1], data)
        os._exit(0)
    os.close(there[0])
    start = time.monotonic()
    for _ in range(500):
        os.write(there[1], b"x")
        os.read(back[0], 1)
    took = time.monotonic() - start
    os.close(there[1])
    os.waitpid(pid, 0)
    os.close(back[0])
    os.close(back[1])
    return took


def _starts():
    start = time.monotonic()
    for _ in range(10):
        subprocess.run(["/bin/true"], check=False)
    return time.monotonic() - start


def ratios():
    cpus = len(os.sched_getaffinity(0))
    load = 1 + os.getloadavg()[0] / cpus / 2  # of a minute: our own crowds of threads are in it too
    return [_all_cpus() / WORK, _messages() / MESSAGES, _starts() / STARTS, min(load, 4)]


def measure():
    """At least 1, which it is on a quiet machine of the kind that the limits were written on."""
    return min(max(1.0, *ratios()) ** 1.5, MOST)


def factor():
    """As it was measured when the tests began; a program that nobody told it to measures itself, once."""
    if "BERTH_TEST_SLOWNESS" not in os.environ:
        os.environ["BERTH_TEST_SLOWNESS"] = f"{measure():.2f}"
    return max(1.0, float(os.environ["BERTH_TEST_SLOWNESS"]))


def slow(seconds):
    """A limit of so many seconds on a quiet machine, here."""
    return seconds * factor()


if __name__ == "__main__":
    for _ in range(5):
        print(" ".join(f"{r:.2f}" for r in ratios()), f"factor {measure():.2f}")
