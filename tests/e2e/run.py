#!/usr/bin/python3
"""run.py FILE FD [PART] - runs the tests of one file, telling each result as a line of JSON on descriptor FD.

By hand a file runs as any unittest does: /usr/bin/python3 tests/e2e/test_run.py -v
"""

import importlib.util
import json
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


class Result(unittest.TestResult):
    def __init__(self, out):
        super().__init__()
        self.out = out
        self.start = 0.0
        self.told = False

    def tell(self, what, test, text=""):
        line = {"what": what, "test": test.id().split(".", 1)[-1] if hasattr(test, "id") else str(test), "text": text,
                "seconds": time.monotonic() - self.start}
        os.write(self.out, (json.dumps(line) + "\n").encode())
        self.told = True

    def startTest(self, test):
        super().startTest(test)
        self.start = time.monotonic()
        self.tell("start", test)
        self.told = False

    def addSuccess(self, test):
        super().addSuccess(test)
        self.tell("ok", test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.tell("fail", test, self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.tell("fail", test, self.errors[-1][1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.tell("skip", test, reason)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.tell("fail", subtest, self._exc_info_to_string(err, test))


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


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
                               if part in t.id())
    suite.run(result)
    result.tell("end", path)


if __name__ == "__main__":
    main()
