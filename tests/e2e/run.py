#!/usr/bin/python3
"""run.py FILE FD [PART] - runs the tests of one file, telling each result as a line of JSON on descriptor FD.

By hand a file runs as any unittest does: /usr/bin/python3 tests/e2e/test_run.py -v
"""

import importlib.util
import json
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


class Result(unittest.TestResult):
    """Tells each test's beginning and, once, its end: a test that fails twice (itself, and in its cleanup) is one."""

    def __init__(self, out):
        super().__init__()
        self.out = out
        self.start = time.monotonic()
        self.running = False
        self.problems, self.reasons = [], []

    def tell(self, what, test, text=""):
        name = test.id().split(".", 1)[-1] if hasattr(test, "id") else str(test)
        line = {"what": what, "test": name, "text": text, "seconds": time.monotonic() - self.start}
        os.write(self.out, (json.dumps(line) + "\n").encode())

    def startTest(self, test):
        super().startTest(test)
        self.start = time.monotonic()
        self.running = True
        self.problems, self.reasons = [], []
        self.tell("start", test)

    def stopTest(self, test):
        super().stopTest(test)
        self.running = False
        if self.problems:
            self.tell("fail", test, "\n".join(self.problems))
        elif self.reasons:
            self.tell("skip", test, self.reasons[0])
        else:
            self.tell("ok", test)

    def problem(self, test, text):
        if self.running:
            self.problems.append(text)
        else:  # of a class or module: no test was begun
            self.tell("fail", test, text)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.problem(test, self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.problem(test, self.errors[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.problem(test, f"{subtest.id()}\n{self._exc_info_to_string(err, test)}")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.problem(test, "passed, though it is marked as one that fails")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if self.running:
            self.reasons.append(reason)
        else:
            self.tell("skip", test, reason)


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def left_out(test):
    """What only `make soak` has the time for."""
    method = getattr(type(test), getattr(test, "_testMethodName", ""), None)
    return not os.environ.get("BERTH_TEST_SOAK") and (getattr(type(test), "soak_only", False) or
                                                      getattr(method, "soak_only", False))


def main():
    path, out = sys.argv[1], int(sys.argv[2])
    os.set_inheritable(out, False)  # what a test leaves running must not hold the pipe
    part = sys.argv[3] if len(sys.argv) > 3 else ""
    result = Result(out)
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    suite = unittest.TestSuite(t for t in flatten(unittest.defaultTestLoader.loadTestsFromModule(module))
                               if part in t.id() and not left_out(t))

    def stop(*_):
        """The test that runs fails and clears away what it began; no other is begun."""
        result.stop()
        raise RuntimeError("the tests are stopped")
    signal.signal(signal.SIGTERM, stop)
    suite.run(result)
    result.tell("end", path)


if __name__ == "__main__":
    main()
