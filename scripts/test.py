#!/usr/bin/python3
"""test.py - run every test and say how it went; the last line is "N passed, M failed".

Two sources of tests. What meson knows (cmocka programs and any other) runs through `meson test`; the single cmocka
tests are counted from its log, since one program holds many. The end-to-end tests, tests/e2e/test_*.py, run two files
at a time, each in a process of its own, which tells each result in a line of JSON (see tests/e2e/run.py).
A program that dies, hangs or tells nothing is one failed test more: nothing is ever counted as passed by silence.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests", "e2e", "lib"))
sys.dont_write_bytecode = True
import slowness  # noqa: E402

E2E_FILE_SECONDS = 900  # a whole file; each test has a limit of its own
SOAK_FILE_SECONDS = 5400
SHOWN = 6000  # characters of what a failed test has written, from its beginning and from its end

stopping = threading.Event()  # no further file is begun, and those under way are ended


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = []   # (name, text)
        self.skipped = []  # (name, reason)

    def ok(self):
        self.passed += 1

    def fail(self, name, text):
        text = text.strip()
        if len(text) > 2 * SHOWN:  # a program that wrote all the time
            text = f"{text[:SHOWN]}\n[... {len(text) - 2 * SHOWN} characters ...]\n{text[-SHOWN:]}"
        self.failed.append((name, text))
        print(f"FAILED  {name}", flush=True)

    def skip(self, name, reason):
        self.skipped.append((name, reason))

    def line(self):
        text = f"{self.passed} passed, {len(self.failed)} failed"
        return text + (f", {len(self.skipped)} skipped" if self.skipped else "")


CMOCKA = re.compile(r"^\[\s+(OK|FAILED|SKIPPED|ERROR)\s+\] (\S+)$", re.M)
CMOCKA_RUN = re.compile(r"^\[ RUN\s+\] (\S+)$", re.M)
CMOCKA_SUMMARY = re.compile(r"^\[==========\] .*test\(s\) run\.$", re.M)


def count_cmocka(name, out, err, returncode, tally):
    """True when the output was cmocka's and has been counted."""
    started = CMOCKA_RUN.findall(out)
    if not started:
        return False
    results = {}
    for text in (out, err):
        for word, test in CMOCKA.findall(text):
            # cmocka repeats failures in its summary, and prints a failed setup as ERROR
            results[test] = word if results.get(test) in (None, "OK") else results[test]
    failures = 0
    for test in started:
        word = results.get(test)
        if word == "OK":
            tally.ok()
        elif word == "SKIPPED":
            tally.skip(f"{name}: {test}", "the test says so")
        else:
            failures += 1
            why = "never came to an end" if word is None else word.lower()
            tally.fail(f"{name}: {test}", f"{why}, exit status {returncode}\n{err[-6000:]}")
    if not failures and (returncode != 0 or not CMOCKA_SUMMARY.search(out)):
        tally.fail(name, f"exit status {returncode} after {len(started)} tests\n{out[-2000:]}\n{err[-6000:]}")
    return True


def run_meson(args, tally):
    log = os.path.join(args.build, "meson-logs", "testlog.json")
    if os.path.exists(log):
        os.unlink(log)
    command = ["meson", "test", "-C", args.build, "--no-rebuild", "--num-processes", "2"]
    if args.suite:
        for suite in args.suite:
            command += ["--suite", suite]
    command += ["--timeout-multiplier", f"{slowness.factor() * (5 if args.sanitizer else 1):.2f}"]
    if args.only:
        names = subprocess.run(["meson", "test", "-C", args.build, "--no-rebuild", "--list"],
                               capture_output=True, text=True, check=True).stdout.split("\n")
        names = [n.split(" / ")[-1].strip() for n in names]
        names = [n for n in names if n and args.only in n]
        if not names:
            return
        command += names
    print("running the programs of", args.build, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL)
    if not os.path.exists(log):
        if "No tests defined" in done.stdout or "No suitable tests" in done.stdout:
            return
        tally.fail("meson test", done.stdout)
        return
    with open(log) as f:
        for line in f:
            test = json.loads(line)
            name = test["name"].split(" / ")[-1]
            out, err = test.get("stdout") or "", test.get("stderr") or ""
            result, code = test["result"], test.get("returncode")
            if args.verbose:
                print(f"  {result:8} {test['duration']:7.2f} s  {name}", flush=True)
            if result == "SKIP":
                tally.skip(name, (out + err).strip().split("\n")[-1] or "the test says so")
            elif result == "TIMEOUT":
                tally.fail(name, f"no end after {test['duration']:.0f} s\n{out[-3000:]}\n{err[-3000:]}")
            elif count_cmocka(name, out, err, code, tally):
                pass
            elif result == "OK":
                tally.ok()
            else:
                tally.fail(name, f"{result}, exit status {code}\n{out[-3000:]}\n{err[-3000:]}")


def run_e2e_file(path, args, tally):
    name = os.path.basename(path)
    env = dict(os.environ, BERTH_TEST_BUILD=os.path.abspath(args.build))
    if args.sanitizer:
        env["BERTH_TEST_SANITIZER"] = args.sanitizer
    read_fd, write_fd = os.pipe()
    command = [sys.executable, os.path.join(TOP, "tests", "e2e", "run.py"), path, str(write_fd)]
    if args.test:
        command.append(args.test)
    limit = slowness.slow(SOAK_FILE_SECONDS if args.soak else E2E_FILE_SECONDS)
    start = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[write_fd], env=env, cwd=TOP,
                             start_new_session=True)
    os.close(write_fd)
    ended, running = False, None
    results = b""
    try:
        # results come by a pipe; the end of the pipe is the end of the process and all it left behind
        os.set_blocking(read_fd, False)
        while True:
            if time.monotonic() - start > limit or stopping.is_set():
                break
            try:
                piece = os.read(read_fd, 65536)
            except BlockingIOError:
                piece = None
            if piece == b"":
                break
            if piece is None:
                if child.poll() is not None:
                    try:
                        results += os.read(read_fd, 1 << 20)
                    except BlockingIOError:
                        pass
                    break
                time.sleep(0.02)
                continue
            results += piece
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if child.poll() is None:
            child.terminate()  # it clears away what it has begun
            try:
                child.wait(timeout=slowness.slow(20))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        os.close(read_fd)
    for line in results.decode().split("\n"):
        if not line:
            continue
        told = json.loads(line)
        what = told["what"]
        if what == "start":
            running = told["test"]
            continue
        if what == "end":
            ended = True
            continue
        running = None
        full = f"{name}: {told['test']}"
        if args.verbose:
            print(f"  {what:8} {told['seconds']:7.2f} s  {full}", flush=True)
        if what == "ok":
            tally.ok()
        elif what == "skip":
            tally.skip(full, told["text"])
        else:
            tally.fail(full, told["text"])
    if not ended:
        at = f" in {running}" if running else ""
        tally.fail(name, f"ended before its time{at}: exit status {child.returncode}")


def run_e2e(args, tally):
    if args.suite and "e2e" not in args.suite:
        return
    folder = os.path.join(TOP, "tests", "e2e")
    files = [file for file in sorted(os.listdir(folder), reverse=True)
             if file.startswith("test_") and file.endswith(".py") and (not args.only or args.only in file)]

    def work():
        while files and not stopping.is_set():
            file = files.pop()
            print("running", file, flush=True)
            try:
                run_e2e_file(os.path.join(folder, file), args, tally)
            except Exception:  # else its tests would be missing, and nothing would say so
                tally.fail(file, traceback.format_exc())

    side_by_side = [threading.Thread(target=work) for _ in range(min(args.jobs, len(files)))]
    if len(side_by_side) > 1:  # each is other work to the rest
        os.environ["BERTH_TEST_SLOWNESS"] = f"{min(slowness.factor() * 1.5, slowness.MOST):.2f}"
    for thread in side_by_side:
        thread.start()
    try:
        for thread in side_by_side:
            thread.join()
    finally:
        stopping.set()
        for thread in side_by_side:
            thread.join()


def main():
    parser = argparse.ArgumentParser(description="Runs berth's tests.")
    parser.add_argument("--build", default="build", help="build directory (build)")
    parser.add_argument("--suite", action="append", choices=["unit", "e2e"], help="only this suite: unit or e2e; may be repeated")
    parser.add_argument("--only", help="only programs and files with this in their name")
    parser.add_argument("--test", help="of end-to-end files, only tests with this in their name")
    parser.add_argument("--sanitizer", choices=["address", "thread"], help="what the build is instrumented with")
    parser.add_argument("--jobs", type=int, default=2, help="files of end-to-end tests at a time: mostly they wait (2)")
    parser.add_argument("--soak", action="store_true", help="all seeds, long runs and big sets; takes an hour or so")
    parser.add_argument("--summary", help="append the last line to this file, and each failure to FILE.failures")
    parser.add_argument("--verbose", action="store_true", help="a line for each test")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error("--jobs: at least one at a time")
    os.chdir(TOP)

    for variable, value in (("ASAN_OPTIONS", "abort_on_error=0:detect_stack_use_after_return=1"),
                            ("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1"),
                            ("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1")):
        os.environ.setdefault(variable, value)

    def stop(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, stop)
    if args.soak:
        os.environ["BERTH_TEST_SOAK"] = "1"
    if slowness.factor() > 1.2:
        print(f"This machine is busy or slow: limits are {slowness.factor():.1f} times what they are on a quiet one.")

    tally = Tally()
    start = time.monotonic()
    run_meson(args, tally)
    run_e2e(args, tally)

    reasons = {}
    for name, reason in tally.skipped:
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        print(f"skipped, {reason}:\n  " + "\n  ".join(names))
    for name, text in tally.failed:
        print(f"\n=== FAILED {name}\n{text}")
    if not tally.passed and not tally.failed:
        tally.failed.append(("no test ran", ""))
        print("no test ran")
    print(f"\n{time.monotonic() - start:.0f} s, {args.build}")
    print(tally.line(), flush=True)
    if args.summary:
        with open(args.summary, "a") as f:
            f.write(tally.line() + "\n")
        with open(args.summary + ".failures", "a") as f:
            for name, text in tally.failed:
                f.write(f"=== FAILED {name} ({args.build})\n{text}\n")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
