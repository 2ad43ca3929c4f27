#!/usr/bin/python3
"""make demo: redis and nginx on the kernel's loopback and under berth, in turn, in one run.

For somebody who sees berth for the first time. Nothing has to be configured, no privileges are needed, and nothing is
left behind: own directory, own ports, own servers. The servers and the load generators are the distribution's own
programs, unmodified; the only difference between the two columns is `berth run --` in front of the command.
"""
import argparse
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Failed, Lab, end_cleanly_on_sigterm, find_build, median, need  # noqa: E402

ROUNDS = 3
SECONDS = 1


class Screen:
    def __init__(self):
        self.live = sys.stdout.isatty()
        self.colour = self.live and "NO_COLOR" not in os.environ

    def paint(self, code, text):
        return "\033[%sm%s\033[0m" % (code, text) if self.colour else text

    def say(self, text=""):
        print(text)
        sys.stdout.flush()

    def bold(self, text):
        return self.paint("1", text)

    def step(self, text):
        """What is going on now; on a terminal the line is overwritten by the next."""
        if self.live:
            sys.stdout.write("\r\033[K  " + self.paint("2", text))
            sys.stdout.flush()
        else:
            self.say("  " + text)

    def clear(self):
        if self.live:
            sys.stdout.write("\r\033[K")


def tests(lab):
    """(label, server, load): load(world, port) gives requests a second."""
    return [
        ("redis GET, 50 clients", "redis", lambda w, p: lab.redis_get(w, p, 50, 1, SECONDS)["rate"]),
        ("redis GET, 1 client", "redis", lambda w, p: lab.redis_get(w, p, 1, 1, SECONDS)["rate"]),
        ("nginx, 32 kept-alive connections", "nginx", lambda w, p: lab.wrk(w, p, 32, SECONDS, False)["rate"]),
        ("nginx, a connection per request", "nginx", lambda w, p: lab.wrk(w, p, 32, SECONDS, True)["rate"]),
    ]


def measure(lab, screen):
    plan = tests(lab)
    rates = {}
    with_servers = {("redis", w): lab.redis(w) for w in ("tcp", "run")}
    with_servers.update({("nginx", w): lab.nginx(w) for w in ("tcp", "run")})
    total, done = len(plan) * 2 * ROUNDS, 0
    for number in range(ROUNDS):
        for label, server, load in plan:
            for world, where in (("tcp", "on the kernel"), ("run", "under berth")):
                done += 1
                screen.step("[%2d/%d] round %d of %d: %s, %s" % (done, total, number + 1, ROUNDS, label, where))
                rates.setdefault((label, world), []).append(load(world, with_servers[(server, world)][1]))
    screen.clear()
    return plan, rates, with_servers


def sessions_during_load(lab, servers):
    """What `berth show sessions` says while both servers are busy."""
    clients = [lab.start(lab.under("run", [need("redis-benchmark"), "-h", "127.0.0.1", "-p",
                                           str(servers[("redis", "run")][1]), "-t", "get", "-c", "4", "-n",
                                           "100000000", "-q"])),
               lab.start(lab.under("run", [need("wrk"), "-t", "1", "-c", "4", "-d", "20s",
                                           "http://127.0.0.1:%d/" % servers[("nginx", "run")][1]]))]
    time.sleep(1)
    try:
        return lab.run([lab.berth, "show", "sessions"], 10)
    finally:
        for client in clients:
            lab.stop(client)


def main():
    parser = argparse.ArgumentParser(description="redis and nginx on the kernel's loopback and under berth, in turn")
    parser.add_argument("--build", metavar="DIR", help="the build directory (default: ../build beside this file)")
    args = parser.parse_args()
    screen = Screen()
    end_cleanly_on_sigterm()
    try:
        build = find_build(args.build)
        for program in ("redis-server", "redis-benchmark", "nginx", "wrk"):
            need(program)
        with Lab(*build) as lab:
            return demo(lab, screen)
    except Failed as error:
        screen.clear()
        print("demo: %s" % error, file=sys.stderr)
        return 1


def demo(lab, screen):
    screen.say(screen.bold("berth: the same programs on the kernel's loopback and under berth"))
    screen.say("Unmodified redis and nginx from the distribution; the only difference is `berth run --` in front.")
    screen.say()
    begin = time.monotonic()
    lab.daemon_start()
    plan, rates, servers = measure(lab, screen)

    screen.say(screen.bold("%-36s %14s %14s %8s" % ("requests per second", "kernel", "berth", "ratio")))
    for label, _server, _load in plan:
        kernel, berth = median(rates[(label, "tcp")]), median(rates[(label, "run")])
        ratio = berth / kernel
        screen.say("%-36s %14s %14s %s" % (label, format(kernel, ",.0f"), format(berth, ",.0f"),
                                           screen.paint("32" if ratio > 1 else "33", "%6.2f ×" % ratio)))
    screen.say("Medians of %d rounds that took turns, on %d CPUs that servers and clients share; %.0f s."
               % (ROUNDS, len(os.sched_getaffinity(0)), time.monotonic() - begin))
    screen.say()

    screen.step("loading both servers once more, to look at their sessions")
    table = sessions_during_load(lab, servers).rstrip("\n").splitlines()
    screen.clear()
    screen.say(screen.bold("`berth show sessions`, while both servers were busy:"))
    sessions = sorted(table[1:], key=lambda line: " open " not in line)  # those that have ended come last
    for line in table[:1] + sessions[:12]:
        screen.say(line)
    if len(sessions) > 12:
        screen.say("… and %d more" % (len(sessions) - 12))
    # the runs before may have left some that the daemon has not collected yet
    words = set(" ".join(sessions[:12]).split())
    for word, meaning in (("open", "the side that connected, and knows who accepted"),
                          ("accepted", "the side that accepted"),
                          ("closed", "that side has closed, the other one has not yet"),
                          ("dead", "that side's program has ended; what it left is kept while the other side may want it"),
                          ("none", "there is nothing of that side, not yet or no more")):
        if word in words:
            screen.say("  %-8s  %s" % (word, meaning))
    screen.say()

    berth = os.path.relpath(lab.berth)
    screen.say(screen.bold("Where to go next"))
    for what, why in ((berth + " run -- PROGRAM ARGS", "your own server, and its client, under berth"),
                      (berth + " show sessions", "who talks to whom, live (also: apps, listeners, segments)"),
                      ("make bench", "every figure beside the kernel's; docs/performance.md explains them"),
                      ("examples/", "a server, a client and a file copy on libberth, the C API"),
                      ("docs/architecture.md", "how it works")):
        screen.say("  %-*s  %s" % (len(berth) + 22, what, why))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
