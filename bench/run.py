#!/usr/bin/python3
"""make bench: every figure of berth beside the kernel's, on the same work, in the same run.

The variants of a figure take turns, round by round, so that a machine that drifts drifts for all of them; the median of
the rounds is reported. Right before and after each variant of a figure the machine's own limit is taken: the cache
line's round trip between two CPUs for latencies, a bare two-process copy ring for streams. The figure is also given
as a multiple of the limit around it.
"""
import argparse
import json
import os
import platform
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Failed, Lab, end_cleanly_on_sigterm, find_build, median  # noqa: E402

NAMES = {"berth": "libberth", "wait": "libberth, event wait", "block": "libberth, blocking", "run": "berth run",
         "tcp": "kernel TCP", "tcp-spin": "kernel TCP, polled", "unix": "AF_UNIX", "one": "libberth, one thread",
         "run-one": "berth run, one thread", "tcp-one": "kernel TCP, one thread",
         "unix-one": "AF_UNIX, one thread", "read8": "libberth, 8 bytes a read"}


class Bench:
    def __init__(self, lab, args):
        self.lab = lab
        self.rounds = args.rounds or (3 if args.quick else 5)
        self.ms = 120 if args.quick else 300
        self.seconds = 1 if args.quick else 2
        self.results = []
        self.title = ""
        self.live = sys.stderr.isatty()

    # ---- progress ----

    def progress(self, text):
        if self.live:
            sys.stderr.write("\r\033[K" + text)
            sys.stderr.flush()

    # ---- limits ----

    def limit(self, kind):
        if kind == "line":
            return self.lab.tool("limits", "cacheline", "--ms", 30)["ns"]
        if kind == "ring":
            return self.lab.tool("limits", "ring", "--ms", 60)["gbit"]
        return None

    # ---- one figure ----

    def measure(self, name, title, variants, limit=None, rounds=None):
        """variants: {key: function giving a dict of numbers}. Gives {key: {number: median, "limit": ..., ...}}."""
        self.title = title
        samples = {key: [] for key in variants}
        errors = {}
        rounds = rounds or self.rounds
        for number in range(rounds):
            for key, function in variants.items():
                if key in errors:
                    continue
                self.progress("%s: %s, round %d of %d" % (title, NAMES.get(key, key), number + 1, rounds))
                try:
                    before = self.limit(limit)
                    sample = function()
                    if limit:
                        sample["limit"] = (before + self.limit(limit)) / 2
                except Failed as error:
                    errors[key] = str(error)
                    continue
                samples[key].append(sample)
        self.progress("")
        figure = {"name": name, "title": title, "limit": limit, "variants": {}, "targets": []}
        for key in variants:
            if key in errors:
                figure["variants"][key] = {"error": errors[key]}
                continue
            entry = {field: median([s[field] for s in samples[key]]) for field in samples[key][0]
                     if all(field in s for s in samples[key])}
            entry["rounds"] = samples[key]
            figure["variants"][key] = entry
        self.results.append(figure)
        return figure

    def value(self, figure, key, field):
        return figure["variants"].get(key, {}).get(field)

    def multiple(self, figure, key, field):
        """Of the limit taken around each round, not of the mean limit: both drift together."""
        rounds = figure["variants"].get(key, {}).get("rounds")
        return median([s[field] / s["limit"] for s in rounds]) if rounds else None

    def ratio(self, figure, key, other, field, lower=False):
        a, b = self.value(figure, key, field), self.value(figure, other, field)
        if not a or not b:
            return None
        return b / a if lower else a / b

    def more(self, figure, key, other, field):
        a, b = self.value(figure, key, field), self.value(figure, other, field)
        return a - b if a and b else None

    def target(self, figure, text, value, bound, at_most=False, unit=" ×"):
        """value None: the measurement failed, and so has the target."""
        ok = value is not None and (value <= bound if at_most else value >= bound)
        figure["targets"].append({"text": text, "value": value, "bound": bound, "at_most": at_most, "unit": unit,
                                  "ok": ok})

    # ---- shorthand for the programs ----

    def sock(self, world, what, *args, timeout=60):
        return lambda: self.lab.tool("sock-bench", what, "--world", "unix" if world == "unix" else "tcp", *args,
                                     world=world, timeout=timeout)

    def cost(self, world, what, *args, timeout=60):
        return lambda: self.lab.tool("cost-bench", what, *args, world=world, timeout=timeout)

    def own(self, what, *args, timeout=60):
        return lambda: self.lab.tool("berth-bench", what, *args, timeout=timeout)


# ---- the figures -------------------------------------------------------------------------------------------------


def limits(b):
    f = b.measure("limits", "the machine's limits", {
        "cache line": lambda: b.lab.tool("limits", "cacheline", "--ms", 100),
        "ring 1 MB": lambda: b.lab.tool("limits", "ring", "--ms", 200),
        "ring 4 MB": lambda: b.lab.tool("limits", "ring", "--ms", 200, "--size", 4 << 20)})
    f["show"] = [("ns", "{:.0f} ns"), ("median_ns", "median {:.0f} ns"), ("gbit", "{:.0f} Gbit/s"),
                 ("median_gbit", "median {:.0f} Gbit/s")]


LATENCY = [("p50_ns", "p50 {us}"), ("p99_ns", "p99 {us}")]


def rtt(b):
    ms = ("--ms", b.ms)
    f = b.measure("rtt", "round trip 64 B, spinning", {
        "berth": b.own("rtt", "--mode", "spin", "--pin", 1, *ms),
        "wait": b.own("rtt", "--mode", "wait", "--pin", 1, *ms),
        "block": b.own("rtt", *ms),
        "tcp": b.sock("tcp", "rtt", *ms),
        "tcp-spin": b.sock("tcp", "rtt", "--mode", "spin", "--pin", 1, *ms),
        "unix": b.sock("unix", "rtt", *ms)}, "line")
    f["show"] = LATENCY
    b.target(f, "libberth p50, in cache-line round trips", b.multiple(f, "berth", "p50_ns"), 2.5, True)
    b.target(f, "through the event wait", b.multiple(f, "wait", "p50_ns"), 3.5, True)
    p50, p99 = b.value(f, "berth", "p50_ns"), b.value(f, "berth", "p99_ns")
    b.target(f, "p99 over p50", p99 / p50 if p50 else None, 3, True)
    b.target(f, "faster than blocking kernel TCP", b.ratio(f, "berth", "tcp", "p50_ns", True), 100)


def rtt_run(b):
    f = b.measure("rtt-run", "round trip 64 B, unmodified blocking program", {
        "run": b.sock("run", "rtt", "--ms", b.ms),
        "tcp": b.sock("tcp", "rtt", "--ms", b.ms),
        "unix": b.sock("unix", "rtt", "--ms", b.ms)}, "line")
    f["show"] = LATENCY
    b.target(f, "berth run p50, in cache-line round trips", b.multiple(f, "run", "p50_ns"), 5, True)
    b.target(f, "faster than the kernel", b.ratio(f, "run", "tcp", "p50_ns", True), 50)


def rtt_pinned(b):
    """As latency-minded people run their programs, each side by taskset on a CPU of its own."""
    pinned = ("--pin", 1, "--ms", b.ms)
    f = b.measure("rtt-pinned", "round trip 64 B, unmodified blocking program, each side pinned", {
        "run": b.sock("run", "rtt", *pinned),
        "tcp": b.sock("tcp", "rtt", *pinned),
        "unix": b.sock("unix", "rtt", *pinned)}, "line")
    f["show"] = LATENCY
    b.target(f, "berth run p50, in cache-line round trips", b.multiple(f, "run", "p50_ns"), 5, True)
    b.target(f, "faster than the kernel", b.ratio(f, "run", "tcp", "p50_ns", True), 20)


SLEEPS = [("think 50 µs", 50000, 0), ("think 1 ms", 1000000, 0), ("1 CPU hog", 0, 1), ("2 CPU hogs", 0, 2),
          ("think 50 µs, 1 hog", 50000, 1), ("think 50 µs, 2 hogs", 50000, 2), ("think 1 ms, 1 hog", 1000000, 1),
          ("think 1 ms, 2 hogs", 1000000, 2)]


def rtt_sleep(b):
    for label, think, hogs in SLEEPS:
        args = ("--think", think, "--hogs", hogs, "--ms", max(b.ms, 200))
        f = b.measure("rtt-sleep", "round trip 64 B, " + label, {
            "run": b.sock("run", "rtt", *args), "block": b.own("rtt", *args),
            "tcp": b.sock("tcp", "rtt", *args), "unix": b.sock("unix", "rtt", *args)})
        f["show"] = LATENCY + [("per_second", "{:,.0f}/s")]
        for key in ("run", "block"):
            lower = b.ratio(f, "unix", key, "p50_ns", True)
            b.target(f, NAMES[key] + " p50 over AF_UNIX's", lower, 1.1, True)


CROWDS = [(2, 0, 1), (3, 0, 1), (3, 0, 10), (1, 1, 1), (1, 2, 1), (2, 2, 1)]


def crowd(b):
    """More threads than CPUs want to run: whoever spins then takes the CPU from the one it waits for."""
    for pairs, hogs, work in CROWDS:
        def together(world):
            args = ("rtt", "--world", "unix" if world == "unix" else "tcp", "--work", work * 1000, "--ms", b.ms,
                    "--hogs", hogs // pairs)

            def go():
                results = b.lab.tool("sock-bench", *args, world=world, together=pairs)
                results = results if pairs > 1 else [results]
                return {"per_second": sum(r["per_second"] for r in results),
                        "p99_ns": max(r["p99_ns"] for r in results)}
            return go
        f = b.measure("crowd", "%d pair%s, %d CPU hog%s, %d µs work a message"
                      % (pairs, "s"[:pairs > 1], hogs, "s"[:hogs != 1], work),
                      {world: together(world) for world in ("run", "tcp", "unix")})
        f["show"] = [("per_second", "{:,.0f}/s"), ("p99_ns", "p99 {us}")]
        b.target(f, "berth run over AF_UNIX", b.ratio(f, "run", "unix", "per_second"), 0.7)


def stream(b):
    ms = ("--ms", b.ms)
    f = b.measure("stream", "stream, 64 KiB writes", {
        "berth": b.own("stream", *ms), "run": b.sock("run", "stream", *ms), "tcp": b.sock("tcp", "stream", *ms),
        "unix": b.sock("unix", "stream", *ms)}, "ring")
    f["show"] = [("gbit", "{:.1f} Gbit/s"), ("limit", "of {:.0f}")]
    b.target(f, "libberth, of the bare ring", b.multiple(f, "berth", "gbit"), 0.7)
    b.target(f, "libberth over kernel TCP", b.ratio(f, "berth", "tcp", "gbit"), 7)


def msgs(b):
    ms = ("--ms", b.ms)
    f = b.measure("msgs", "8-byte messages, one write each", {
        "berth": b.own("msgs", *ms), "read8": b.own("msgs", "--read", 8, *ms), "run": b.sock("run", "msgs", *ms),
        "tcp": b.sock("tcp", "msgs", *ms), "unix": b.sock("unix", "msgs", *ms)})
    f["show"] = [("million_per_second", "{:.2f} million/s")]
    b.target(f, "libberth", b.value(f, "berth", "million_per_second"), 40, unit=" million/s")


def conn(b):
    ms, one = ("--ms", b.ms), ("--one-thread", 1, "--ms", b.ms)
    f = b.measure("conn", "connect + accept + close", {
        "berth": b.own("conn", *ms), "run": b.sock("run", "conn", *ms), "tcp": b.sock("tcp", "conn", *ms),
        "unix": b.sock("unix", "conn", *ms),
        "one": b.own("conn", *one), "run-one": b.sock("run", "conn", *one), "tcp-one": b.sock("tcp", "conn", *one),
        "unix-one": b.sock("unix", "conn", *one)})
    f["show"] = [("per_second", "{:,.0f}/s")]
    b.target(f, "libberth over kernel TCP", b.ratio(f, "berth", "tcp", "per_second"), 30)
    b.target(f, "berth run over the kernel", b.ratio(f, "run", "tcp", "per_second"), 5)
    b.target(f, "the same in one thread: libberth", b.ratio(f, "one", "tcp-one", "per_second"), 30)
    b.target(f, "the same in one thread: berth run", b.ratio(f, "run-one", "tcp-one", "per_second"), 5)


def fanin(b):
    def cost(sample):
        return lambda: {"us": 1e6 / sample()["per_second"]}
    f = b.measure("fanin", "one active of 100 client processes", {
        "libberth, 1 of 1": cost(b.own("fanin", "--clients", 1, "--ms", b.ms)),
        "libberth, 1 of 100": cost(b.own("fanin", "--clients", 100, "--ms", b.ms)),
        "berth run, 1 of 100": cost(b.sock("run", "fanin", "--clients", 100, "--ms", b.ms)),
        "kernel TCP, 1 of 1": cost(b.sock("tcp", "fanin", "--clients", 1, "--ms", b.ms)),
        "kernel TCP, 1 of 100": cost(b.sock("tcp", "fanin", "--clients", 100, "--ms", b.ms))}, "line")
    f["show"] = [("us", "{:.2f} µs a message")]
    b.target(f, "one of 100 over one of one", b.ratio(f, "libberth, 1 of 1", "libberth, 1 of 100", "us", True), 2, True)


def idle(b):
    ms = ("--ms", b.ms)

    def own(n, addresses, *more):
        return b.own("idle", "--sessions", n, "--addresses", addresses, "--daemon", b.lab.daemon.process.pid,
                     "--patience", 90, *ms, *more, timeout=100)
    some = "libberth, 1,000 used of 100,000"
    sizes = {"libberth, 10": own(10, 1), "libberth, 1,000": own(1000, 1), "libberth, 100,000": own(100000, 8),
             some: own(100000, 8, "--used", 1000)}
    f = b.measure("idle", "idle sessions between two apps", dict(
        sizes, **{"kernel TCP, 1,000": b.sock("tcp", "idle", "--sessions", 1000, *ms)}), rounds=min(b.rounds, 3))
    f["show"] = [("bytes_per_session", "{:,.0f} B each"), ("bytes_per_session_used", "{:,.0f} B after use"),
                 ("kernel_bytes_per_session", "{:,.0f} B in the kernel"), ("setup_us", "set up in {:.2f} µs"),
                 ("lookup_p50_ns", "looked up and echoed in {us}")]
    for text, field in (("set-up", "setup_us"), ("lookup", "lookup_p50_ns")):
        b.target(f, "%s at 100,000 over at 1,000 sessions" % text,
                 b.ratio(f, "libberth, 1,000", "libberth, 100,000", field, True), 2, True)
    b.target(f, "lookup of one of 1,000 that are used, among 100,000",
             b.ratio(f, "libberth, 1,000", some, "lookup_p50_ns", True), 2, True)


def threads(b):
    ms = ("--ms", max(b.ms, 1000))
    f = b.measure("threads", "a server of 200 threads, each blocked for a silent client", {
        "run": b.sock("run", "threads", *ms), "block": b.own("threads", *ms), "tcp": b.sock("tcp", "threads", *ms)},
                  rounds=min(b.rounds, 3))
    f["show"] = [("cpu_percent", "{:.2f} % of a CPU"), ("wakes_per_second", "woken {:.1f} times a second")]
    for key in ("run", "block"):
        b.target(f, NAMES[key] + ", CPU", b.value(f, key, "cpu_percent"), 0.1, True, unit=" %")
        b.target(f, NAMES[key] + ", woken", b.value(f, key, "wakes_per_second"), 0, True, unit=" a second")


def start(b):
    def true(*before):
        return lambda: b.lab.tool("cost-bench", "start", "--", *before, "true")
    f = b.measure("start", "a program from its start to its end: true", {
        "run": true(b.lab.berth, "run", "--"), "tcp": true()})
    f["show"] = [("p50_us", "p50 {:,.0f} µs"), ("p90_us", "p90 {:,.0f} µs")]
    b.target(f, "berth run, more than without", b.more(f, "run", "tcp", "p50_us"), 1500, True, " µs")


def first(b):
    f = b.measure("first", "a fresh process and a server that it has not met: socket, connect, one byte and its answer", {
        world: b.cost(world, "first") for world in ("run", "tcp")})
    f["show"] = [("p50_us", "p50 {:,.0f} µs"), ("p90_us", "p90 {:,.0f} µs")]
    b.target(f, "berth run, more than the kernel", b.more(f, "run", "tcp", "p50_us"), 1000, True, " µs")


def fork(b):
    for sessions in (0, 400):
        f = b.measure("fork", "fork, exit, wait: a process of 8 MiB with a listener and %d sessions" % sessions, {
            world: b.cost(world, "fork", "--sessions", sessions) for world in ("run", "tcp")})
        f["show"] = [("p50_us", "p50 {:,.0f} µs"), ("p90_us", "p90 {:,.0f} µs")]
        b.target(f, "berth run over the kernel", b.ratio(f, "tcp", "run", "p50_us", True), 1.1, True)
    f = b.measure("fork-grow", "1,000 times: one more session, fork, exit, wait", {
        world: b.cost(world, "grow") for world in ("run", "tcp")})
    f["show"] = [("ms", "{:,.0f} ms")]
    b.target(f, "berth run over the kernel", b.ratio(f, "tcp", "run", "ms", True), 1.1, True)
    f = b.measure("fork-pairs", "8 forked pairs, 1,000 round trips each, from the first fork to the last end", {
        world: b.cost(world, "pairs") for world in ("run", "tcp")})
    f["show"] = [("p50_us", "{:,.0f} µs")]
    b.target(f, "berth run over the kernel", b.ratio(f, "tcp", "run", "p50_us", True), 1, True)


def passed(b):
    f = b.measure("passed", "connect, over a unix socket to another program, one byte and its answer there", {
        world: b.cost(world, "pass") for world in ("run", "tcp")})
    f["show"] = [("p50_us", "p50 {:,.0f} µs"), ("p90_us", "p90 {:,.0f} µs")]
    b.target(f, "berth run over the kernel", b.ratio(f, "tcp", "run", "p50_us", True), 1.1, True)


def iperf3(b):
    f = b.measure("iperf3", "iperf3, unmodified", {
        "run": lambda: b.lab.iperf3("run", b.seconds), "tcp": lambda: b.lab.iperf3("tcp", b.seconds)}, "ring")
    f["show"] = [("rate", "{:.1f} Gbit/s")]
    b.target(f, "over the kernel", b.ratio(f, "run", "tcp", "rate"), 5)


RATE = [("rate", "{:,.0f}/s"), ("errors", "{:.0f} socket errors")]


def served(b, start, title, name, work, goal):
    """A server in each world for the whole figure, clients in turn."""
    servers, ports = [], {}
    try:
        for world in ("run", "tcp"):
            program, ports[world] = start(world)
            servers.append(program)
        f = b.measure(name, title, {"run": lambda: work("run", ports["run"]),
                                    "tcp": lambda: work("tcp", ports["tcp"])})
    except Failed as error:
        text = str(error)

        def broken():
            raise Failed(text)
        f = b.measure(name, title, {"run": broken, "tcp": broken})
    finally:
        for program in servers:
            b.lab.stop(program)
    f["show"] = RATE
    b.target(f, "over the kernel", b.ratio(f, "run", "tcp", "rate"), goal)


def redis(b):
    s = 0.5 if b.seconds == 1 else 1
    for title, name, clients, pipeline, goal in (
            ("redis GET, 50 clients", "redis-50", 50, 1, 4), ("redis GET, 1 client", "redis-1", 1, 1, 5),
            ("redis GET, 50 clients, -P 16", "redis-P16", 50, 16, 1.5)):
        served(b, b.lab.redis, title, name,
               lambda w, p, c=clients, n=pipeline: b.lab.redis_get(w, p, c, n, s), goal)


def redis_pinned(b):
    s = 0.5 if b.seconds == 1 else 1
    served(b, lambda w: b.lab.redis(w, cpu=0), "redis GET, 1 client, each side pinned to a CPU", "redis-pinned",
           lambda w, p: b.lab.redis_get(w, p, 1, 1, s, cpu=1), 5)


def nginx(b):
    served(b, b.lab.nginx, "nginx + wrk, keep-alive, 32 connections", "nginx",
           lambda w, p: b.lab.wrk(w, p, 32, b.seconds, False), 2.5)
    served(b, b.lab.nginx, "nginx + wrk, connection per request", "nginx-close",
           lambda w, p: b.lab.wrk(w, p, 32, b.seconds, True), 2)
    served(b, b.lab.nginx, "nginx + wrk, keep-alive, beside a busy process", "nginx-busy",
           lambda w, p: b.lab.beside_hogs(1, lambda: b.lab.wrk(w, p, 32, b.seconds, False)), 2.5)


FIGURES = {"limits": limits, "rtt": rtt, "rtt-run": rtt_run, "rtt-pinned": rtt_pinned, "rtt-sleep": rtt_sleep,
           "crowd": crowd, "stream": stream, "msgs": msgs, "conn": conn, "fanin": fanin, "idle": idle,
           "threads": threads, "start": start, "first": first, "fork": fork, "passed": passed, "iperf3": iperf3, "redis": redis, "redis-pinned": redis_pinned, "nginx": nginx}


# ---- showing --------------------------------------------------------------------------------------------------------


def microseconds(ns):
    return "%.0f ns" % ns if ns < 1000 else "%.1f µs" % (ns / 1000) if ns < 100000 else "%.0f µs" % (ns / 1000)


def show(figure, colour):
    def paint(code, text):
        return "\033[%sm%s\033[0m" % (code, text) if colour else text
    print(paint("1", figure["title"]))
    for key, entry in figure["variants"].items():
        if "error" in entry:
            print("    %-24s %s" % (NAMES.get(key, key), paint("31", "failed: " + entry["error"])))
            continue
        cells = []
        for field, form in figure.get("show", []):
            if field in entry:
                cells.append(form.format(entry[field], us=microseconds(entry[field])))
        if figure["limit"] and "rounds" in entry:
            field = figure["show"][0][0]
            scale = 1000 if field == "us" else 1
            times = median([s[field] * scale / s["limit"] for s in entry["rounds"]])
            cells.append("%.2f × the %s" % (times, "cache line" if figure["limit"] == "line" else "bare ring"))
        print("    %-24s %s" % (NAMES.get(key, key), "   ".join(cells)))
    for t in figure["targets"]:
        value = "no figure" if t["value"] is None else "%.2f%s" % (t["value"], t["unit"])
        bound = "%s %g%s" % ("≤" if t["at_most"] else "≥", t["bound"], t["unit"])
        mark = paint("32", "pass") if t["ok"] else paint("33", "short")
        print("    %s  %-48s %14s   target %s" % (mark, t["text"], value, bound))
    print()
    sys.stdout.flush()


def markdown(figures):
    """The targets as a table for a document."""
    lines = ["| figure | measured | target | |", "|---|---|---|---|"]
    for figure in figures:
        for t in figure["targets"]:
            value = "no figure" if t["value"] is None else "%.2f%s" % (t["value"], t["unit"])
            lines.append("| %s: %s | %s | %s %g%s | %s |" % (
                figure["title"], t["text"], value, "≤" if t["at_most"] else "≥", t["bound"], t["unit"],
                "pass" if t["ok"] else "short"))
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(prog="berth bench", description="Measure berth beside the kernel, in one run.")
    parser.add_argument("--quick", action="store_true", help="three short rounds instead of five")
    parser.add_argument("--rounds", type=int, metavar="N", help="that many rounds")
    parser.add_argument("--only", action="append", metavar="NAME", help="this figure; may be given several times")
    parser.add_argument("--list", action="store_true", help="name the figures")
    parser.add_argument("--json", metavar="FILE", help="write everything there too, each round of it")
    parser.add_argument("--markdown", metavar="FILE", help="write the targets there as a table")
    parser.add_argument("--build", metavar="DIR", help="the build directory (default: ../build beside this file)")
    args = parser.parse_args()
    if args.list:
        print("\n".join(FIGURES))
        return 0
    for name in args.only or []:
        if name not in FIGURES:
            parser.error("no figure \"%s\"; --list names them" % name)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be at least 1")

    begin = time.monotonic()
    end_cleanly_on_sigterm()
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    try:
        lab = Lab(*find_build(args.build))
    except Failed as error:
        print("berth bench: %s" % error, file=sys.stderr)
        return 1
    with lab:
        bench = Bench(lab, args)
        names = args.only or list(FIGURES)
        try:
            if names != ["limits"]:
                lab.daemon_start()
        except (Failed, OSError) as error:
            print("berth bench: no daemon: %s" % error, file=sys.stderr)
            return 1
        print("%s, %d CPUs, Linux %s; median of %d interleaved rounds"
              % (processor(), len(os.sched_getaffinity(0)), platform.release(), bench.rounds))
        busy = busy_share()
        if busy > 0.05:
            print("The machine is not idle: others use %.0f %% of its CPUs. The figures suffer." % (busy * 100))
        print()
        for name in names:
            first = len(bench.results)
            FIGURES[name](bench)
            for figure in bench.results[first:]:
                show(figure, colour)
            if lab.daemon and not lab.daemon.alive():
                print("berth bench: the daemon ended with %d: %s" % (lab.daemon.process.returncode, lab.daemon.said()),
                      file=sys.stderr)
                lab.daemon_start()
        targets = [t for f in bench.results for t in f["targets"]]
        failed = [v for f in bench.results for v in f["variants"].values() if "error" in v]
        print("%d of %d targets reached, %d measurements failed, %.0f s"
              % (sum(t["ok"] for t in targets), len(targets), len(failed), time.monotonic() - begin))
        if args.json:
            with open(args.json, "w") as f:
                json.dump({"machine": {"cpu": processor(), "busy_before": busy, "cpus": len(os.sched_getaffinity(0)),
                                       "kernel": platform.release()},
                           "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "rounds": bench.rounds,
                           "quick": args.quick, "figures": bench.results}, f, indent=1)
                f.write("\n")
        if args.markdown:
            with open(args.markdown, "w") as f:
                f.write(markdown(bench.results))
    return 1 if failed else 0


def busy_share():
    """How much of all CPUs is in use now, by others: nothing of ours runs yet but the daemon."""
    def ticks():
        with open("/proc/stat") as f:
            fields = [int(n) for n in f.readline().split()[1:9]]
        return sum(fields), fields[3] + fields[4]
    total, idle = ticks()
    time.sleep(0.5)
    total, idle = ticks()[0] - total, ticks()[1] - idle
    return 1 - idle / total if total > 0 else 0.0


def processor():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the table has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
