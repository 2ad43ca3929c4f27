"""What the command asks of a daemon, with nobody under berth."""

import os
import signal
import unittest

import harness


class Command(harness.TestCase):
    def test_second_daemon_is_refused_with_the_pid(self):
        first = self.daemon()
        second = self.berth("daemon")
        self.assertEqual(second.code, 1, repr(second))
        self.assertIn(str(first.pid), second.err)
        self.assertTrue(first.running())

    def test_daemon_stops_cleanly(self):
        for sig in (signal.SIGTERM, signal.SIGINT):
            daemon = self.daemon()
            daemon.kill(sig)
            self.assertEqual(daemon.wait(10), 0, repr(daemon))
            self.assertEqual(os.listdir(self.runtime_dir), [])

    def test_show_of_nothing(self):
        self.daemon()
        for what in ("apps", "workers", "listeners", "sessions", "segments"):
            self.assertEqual(self.show(what), [])
            self.assertEqual(self.check_berth("show", what).out, f"no {what}\n")
        names = self.show("namespaces")
        self.assertEqual(len(names), 1)
        self.assertIn("default", names[0].values())

    def test_version_asks_the_daemon(self):
        daemon = self.daemon()
        done = self.check_berth("version")
        self.assertIn(f"pid {daemon.pid},", done.out)

    def test_namespaces(self):
        self.daemon()
        secret = self.file("secret", "open sesame\nsecond line\n")
        self.check_berth("ns", "add", "red")
        self.check_berth("ns", "add", "blue", "--secret-file", secret, "--mode", "0600")
        self.check_berth("ns", "add", "green", "--secret-stdin", stdin="another\n")
        shown = self.check_berth("show", "namespaces").out
        for name in ("default", "red", "blue", "green"):
            self.assertIn(name, shown)
        everything = shown + self.check_berth("show", "namespaces", "--json").out
        self.assertNotIn("sesame", everything)
        self.assertNotIn("another", everything)

        again = self.berth("ns", "add", "red")
        self.assertEqual(again.code, 1)
        self.assertIn("'red'", again.err)
        self.check_berth("ns", "del", "red")
        gone = self.berth("ns", "del", "red")
        self.assertEqual(gone.code, 1)
        self.assertIn("no namespace 'red'", gone.err)
        nobody = self.berth("ns", "add", "x", "--group", "no-such-group")
        self.assertEqual(nobody.code, 1, repr(nobody))

    def test_long_and_wrong_runtime_directories(self):
        place = os.path.join(self.scratch, "open")
        os.mkdir(place)
        os.chmod(place, 0o777)
        done = self.berth("daemon", "--runtime-dir", place)
        self.assertNotEqual(done.code, 0)
        self.assertIn(place, done.err)
        file = self.file("file", "")
        done = self.berth("daemon", "--runtime-dir", file)
        self.assertNotEqual(done.code, 0)
        self.assertIn(file, done.err)
        done = self.berth("daemon", "--runtime-dir", self.scratch + "/" + "x" * 90)
        self.assertNotEqual(done.code, 0)
        self.assertIn("too long", done.err)


if __name__ == "__main__":
    unittest.main()
