"""test_posix.py - blocking calls as POSIX has them: small programs (tests/e2e/posix) print the same on the kernel and under
berth."""

import os

import harness

PROGRAMS = os.path.join(harness.BUILD, "tests", "e2e")


@harness.needs_preload
class Blocking(harness.TestCase):
    def compare(self, name, *args, lines):
        program = os.path.join(PROGRAMS, "posix-" + name)
        self.daemon()
        kernel = self.run_program(program, *args, seconds=60)
        self.assertEqual(kernel.code, 0, repr(kernel))
        self.assertGreaterEqual(kernel.out.count("\n"), lines, repr(kernel))
        under = self.run_under(program, *args, seconds=60)
        self.assertEqual(under.code, 0, repr(under))
        self.assertEqual(kernel.out.splitlines(), under.out.splitlines())

    def test_cancellation(self):
        self.compare("cancel", lines=40)

    def test_splice_and_sendfile(self):
        self.compare("splice", lines=80)

    def test_shutdown(self):
        self.compare("shutdown", lines=49)

    def test_use_before_connect_returns(self):
        self.compare("connect", lines=1)

    def test_data(self):
        self.compare("data", lines=180)

    def test_signals(self):
        self.compare("signals", lines=57)


if __name__ == "__main__":
    harness.main()
