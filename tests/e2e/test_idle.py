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

import harness

IDLE = os.path.join(harness.BUILD, "tests", "e2e", "idle")
SETTLES_WITHIN = 0.6
LOOKED_AT_FOR = 3.0
MANY = 10_000


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


class Idle(harness.TestCase):
    def begin(self, way, count, under=True):
        """A server and its client, both as far as they go by themselves."""
        start = self.start_under if under else self.start
        self.port = self.free_port()
        self.server = start(IDLE, "serve", way, count, self.port)
        self.wait_listening(self.port, self.server)
        self.client = start(IDLE, "hold", way, count, self.port)
        for program, word in ((self.server, "blocked\n"), (self.client, "holding\n")):
            self.wait_until(lambda p=program, w=word: w in p.out or not p.running(), f"{word!r} of {program}", 60)
            self.assertTrue(program.running(), repr(program))
        if under:
            self.assertGreaterEqual(len(self.show("sessions")), count if way != "accept" else 1)

    def check_silent(self, settle=SETTLES_WITHIN, seconds=LOOKED_AT_FOR):
        time.sleep(harness.slow(settle))
        programs = {"server": self.server.pid, "client": self.client.pid}
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

    def check_wakes(self, count):
        """All at once, then one after the other: each thread answers."""
        for sig in (signal.SIGUSR1, signal.SIGUSR2):
            rounds = self.client.out.count("answered") + 1
            self.client.kill(sig)
            self.wait_until(lambda n=rounds: self.client.out.count("answered") == n or not self.client.running() or
                            not self.server.running(), "the answers", 60)
            self.assertEqual(self.client.out.splitlines()[1:], [f"answered {count} of {count}"] * rounds,
                             f"{self.server}\n{self.client}")

    def check_end(self, way):
        """The client's end wakes everybody too."""
        self.client.kill(signal.SIGKILL)
        self.client.wait()
        if way == "accept":
            self.server.stop()
            return
        self.assertEqual(self.server.wait(20), 0, repr(self.server))
        self.assertIn("all sessions have ended\n", self.server.out)

    def met(self, way, count=200):
        """Both sides have talked before."""
        self.daemon()
        self.begin(way, count)
        self.check_wakes(count)
        self.check_silent()
        self.check_wakes(count)
        self.check_end(way)

    def fresh(self, way, count=200):
        """Nothing has been said: the client has called connect(), and then nothing more."""
        self.daemon()
        self.begin(way, count)
        self.check_silent()
        self.check_wakes(count)
        self.check_end(way)


class Measure(Idle):
    def test_the_kernels_own_sleepers_pass_the_same_look(self):
        """Else the tests below would ask what cannot be, or count wrongly."""
        self.begin("recv", 200, under=False)
        self.check_silent()
        self.check_wakes(200)
        self.check_end("recv")

    def test_the_look_sees_a_single_wake(self):
        self.begin("recv", 200, under=False)
        self.check_silent(seconds=0.5)
        before = switches(self.server.pid)
        self.check_wakes(200)
        now = switches(self.server.pid)
        self.assertGreaterEqual(sum(now[tid] > before[tid] for tid in now), 200)


@harness.needs_preload
class Met(Idle):
    def test_recv(self):
        self.met("recv")

    def test_poll(self):
        self.met("poll")

    def test_select(self):
        self.met("select")

    def test_epoll(self):
        self.met("epoll")

    def test_accept(self):
        self.met("accept")


@harness.needs_preload
class Fresh(Idle):
    def test_recv(self):
        self.fresh("recv")

    def test_poll(self):
        self.fresh("poll")

    def test_select(self):
        self.fresh("select")

    def test_epoll(self):
        self.fresh("epoll")

    def test_accept(self):
        self.fresh("accept")


@harness.needs_preload
class WithoutDaemon(Idle):
    """Its death may be told to everybody; after that there is silence again, and the sessions go on."""

    def killed(self, way, talk):
        daemon = self.daemon()
        self.begin(way, 200)
        if talk:
            self.check_wakes(200)
        time.sleep(harness.slow(SETTLES_WITHIN))
        daemon.kill(signal.SIGKILL)
        daemon.wait()
        self.addCleanup(self.expect_leftover, "control.sock", "daemon.lock")
        self.check_silent(settle=3.0)
        self.check_wakes(200)
        self.check_end(way)

    def test_recv_met(self):
        self.killed("recv", talk=True)

    def test_poll_met(self):
        self.killed("poll", talk=True)

    def test_epoll_met(self):
        self.killed("epoll", talk=True)

    def test_recv_fresh(self):
        self.killed("recv", talk=False)

    def test_poll_fresh(self):
        self.killed("poll", talk=False)

    def test_epoll_fresh(self):
        self.killed("epoll", talk=False)


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
        self.begin(way, MANY)
        self.check_wakes(MANY)
        self.check_silent(settle=3.0)
        self.check_wakes(MANY)
        self.check_end(way)

    def test_recv(self):
        self.many("recv", 1)

    def test_poll(self):
        self.many("poll", 1)


if __name__ == "__main__":
    harness.main()
