"""An idle program makes no system call: not one, however many of its threads wait, and whatever they wait in.

A server of 200 threads (idle.c) that wait for a session each, and a client that holds those sessions and is in pause(). What
shows that a thread has made a call while it waited, or was so much as woken, is the count of its context switches, which the
kernel keeps for each thread; it may not move. Then the client wakes them all: who sleeps that deeply must be woken for sure.

`make soak` takes 10,000 threads too.
"""

import os
import resource
import signal
import time
import unittest

import harness

IDLE = os.path.join(harness.BUILD, "tests", "e2e", "idle")
# Seconds after which a program that does nothing has nothing left to do: longer than any pause between its looks as long
# as it has (memory of sessions that may soon go is looked at each 0.75 s)
QUIET = 1.5
LOOKED_AT_FOR = 3.0
WAKES_CPU = 2  # seconds, for COUNT
COUNT, MANY = 200, 10_000  # threads
WAYS = ["recv", "poll", "select", "epoll", "accept"]


def switches(pid):
    """{thread: how often it has been switched away from}"""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as f:
            found[int(tid)] = sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
    return found


def ticks(pid):
    with open(f"/proc/{pid}/stat", errors="replace") as f:
        stat = f.read()
    fields = stat[stat.rindex(")") + 2:].split()
    return int(fields[11]) + int(fields[12])


class Pair:
    """A server and its client."""

    def __init__(self, test, way, count, under=True):
        start = test.start_under if under else test.start
        self.test, self.way, self.count = test, way, count
        port = test.free_port()
        self.server = start(IDLE, "serve", way, count, port)
        test.wait_listening(port, self.server)
        self.client = start(IDLE, "hold", way, count, port)

    def __str__(self):
        return f"{self.way}: {self.server}\n{self.client}"

    def programs(self):
        return {f"{self.way} server": self.server.pid, f"{self.way} client": self.client.pid}

    def settled(self):
        """Both are as far as they go by themselves."""
        for program, word in ((self.server, "blocked\n"), (self.client, "holding\n")):
            self.test.wait_until(lambda p=program, w=word: w in p.out or not p.running(), f"{word!r} of {program}", 60)
            self.test.assertTrue(program.running(), repr(program))

    def check_wakes(self):
        """All at once, then one after the other: each thread answers."""
        before = ticks(self.server.pid)
        for sig in (signal.SIGUSR1, signal.SIGUSR2):
            rounds = self.client.out.count("answered") + 1
            self.client.kill(sig)
            self.test.wait_until(lambda n=rounds: self.client.out.count("answered") == n or not self.client.running() or
                                 not self.server.running(), "the answers", 60)
            self.test.assertEqual(self.client.out.splitlines()[1:],
                                  [f"answered {self.count} of {self.count}"] * rounds, str(self))
        # a wake costs some microseconds, even where it wakes all and one of them finds something
        used = (ticks(self.server.pid) - before) / os.sysconf("SC_CLK_TCK")
        self.test.assertLess(used, harness.slow(WAKES_CPU) * self.count / COUNT,
                             f"CPU seconds of the {self.way} server for waking {self.count} threads twice")

    def check_end(self):
        """The client's end wakes everybody too."""
        self.client.kill(signal.SIGKILL)
        self.client.wait()
        if self.way == "accept":
            self.server.stop()
            return
        self.test.assertEqual(self.server.wait(20), 0, repr(self.server))
        self.test.assertIn("all sessions have ended\n", self.server.out)


class Idle(harness.TestCase):
    limit = 120

    def begin(self, ways, count=COUNT, under=True):
        """A pair for each way, side by side: so all are looked at in the same few seconds."""
        self.pairs = [Pair(self, way, count, under) for way in ways]
        for pair in self.pairs:
            pair.settled()
        if under:
            self.assertGreaterEqual(len(self.show("sessions")), sum(count if w != "accept" else 1 for w in ways))

    def settle(self, quiet=QUIET):
        """Until no thread has run for so long."""
        pids = [pid for pair in self.pairs for pid in pair.programs().values()]
        self.wait_settled(lambda: sum(sum(switches(pid).values()) for pid in pids), "the threads' counts of switches", quiet, 60)

    def check_silent(self, quiet=QUIET, seconds=LOOKED_AT_FOR):
        self.settle(quiet)
        programs = {name: pid for pair in self.pairs for name, pid in pair.programs().items()}
        before = {name: (switches(pid), ticks(pid)) for name, pid in programs.items()}
        time.sleep(seconds)
        for name, pid in programs.items():
            (was, was_ticks), now = before[name], switches(pid)
            self.assertEqual(set(was), set(now), f"the {name}'s threads are others than before")
            moved = {tid: now[tid] - was[tid] for tid in now if now[tid] != was[tid]}
            if moved:
                self.fail(f"{len(moved)} of {len(now)} threads of the {name} ran, {sum(moved.values())} times in {seconds} s; "
                          f"the busiest {max(moved.values())} times; CPU: {ticks(pid) - was_ticks} ticks")
            self.assertEqual(ticks(pid), was_ticks, f"the {name} used the CPU")

    def check_wakes(self):
        for pair in self.pairs:
            pair.check_wakes()

    def check_end(self):
        for pair in self.pairs:
            pair.check_end()


@unittest.skipIf(harness.SANITIZER, "the sanitizer has a thread of its own in each program, which wakes up all the time")
class Measure(Idle):
    def test_the_kernels_own_sleepers_pass_the_same_look(self):
        """Else the tests below would ask what cannot be, or count wrongly."""
        self.begin(["recv"], under=False)
        self.check_silent()
        self.check_wakes()
        self.check_end()

    def test_the_look_sees_a_single_wake(self):
        self.begin(["recv"], under=False)
        self.check_silent(seconds=0.5)
        server = self.pairs[0].server.pid
        before = switches(server)
        self.check_wakes()
        now = switches(server)
        self.assertGreaterEqual(sum(now[tid] > before[tid] for tid in now), COUNT)


@harness.needs_preload
class Silence(Idle):
    def test_when_both_sides_have_talked_before(self):
        self.daemon()
        self.begin(WAYS)
        self.check_wakes()
        self.check_silent()
        self.check_wakes()
        self.check_end()

    def test_when_nothing_has_been_said(self):
        """The clients have called connect(), and then nothing more."""
        self.daemon()
        self.begin(WAYS)
        self.check_silent()
        self.check_wakes()
        self.check_end()


@harness.needs_preload
class WithoutDaemon(Idle):
    """Its death may be told to everybody; after that there is silence again, and the sessions go on."""

    def killed(self, talk):
        daemon = self.daemon()
        self.begin(["recv", "poll", "epoll"])
        if talk:
            self.check_wakes()
        self.settle()
        daemon.kill(signal.SIGKILL)
        daemon.wait()
        self.addCleanup(self.expect_leftover, "control.sock", "daemon.lock")
        self.check_silent(quiet=3.0)
        self.check_wakes()
        self.check_end()

    def test_when_both_sides_have_talked_before(self):
        self.killed(talk=True)

    def test_when_nothing_has_been_said(self):
        self.killed(talk=False)


@harness.needs_preload
class Leapt(Idle):
    def test_a_sleep_that_a_handler_left_for_good(self):
        """Of eight threads one hears for all; seven end so. The eighth must hear of a death then."""
        daemon = self.daemon()
        self.begin(["leap"], 8)
        self.check_wakes()
        self.settle()
        server = self.pairs[0].server
        server.kill(signal.SIGUSR1)
        self.wait_until(lambda: "leapt\n" in server.out or not server.running(), "the leaps")
        daemon.kill(signal.SIGKILL)
        daemon.wait()
        self.addCleanup(self.expect_leftover, "control.sock", "daemon.lock")
        self.check_end()


@harness.needs_preload
@harness.soak_only
class Many(Idle):
    limit = 200

    def many(self, way, descriptors_each):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard != resource.RLIM_INFINITY and hard < MANY * descriptors_each + 500:
            self.skipTest(f"{MANY} sessions need more than the {hard} descriptors that ulimit -n allows")
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        if processes != resource.RLIM_INFINITY and processes < MANY + 1000:
            self.skipTest(f"{MANY} threads are more than the {processes} that ulimit -u allows")
        self.daemon()
        self.begin([way], MANY)
        self.check_wakes()
        self.check_silent(quiet=3.0)
        self.check_wakes()
        self.check_end()

    def test_recv(self):
        self.many("recv", 1)

    def test_poll(self):
        self.many("poll", 1)


if __name__ == "__main__":
    harness.main()
