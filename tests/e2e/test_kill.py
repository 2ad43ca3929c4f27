"""Ends of processes: what the peers see, and that nothing of the dead is left, in the living and in the daemon."""

import os

import harness

PYTHON = "/usr/bin/python3"
HERE = os.path.dirname(os.path.abspath(__file__))


@harness.needs_preload_into_python
class Deaths(harness.TestCase):
    def test_peers_see_what_tcp_would_show(self):
        """The same cases on the kernel and under berth: killed and exiting peers, with and without unread bytes."""
        self.daemon()
        script = os.path.join(HERE, "deaths.py")
        plain = self.run_program(PYTHON, script, "all", self.free_port())
        self.assertEqual(plain.code, 0, repr(plain))
        self.assertGreater(plain.out.count("\n"), 25, repr(plain))
        under = self.run_under(PYTHON, script, "all", self.free_port())
        self.assertEqual(under.code, 0, repr(under))
        self.assertEqual(plain.out.splitlines(), under.out.splitlines())


if __name__ == "__main__":
    harness.main()
