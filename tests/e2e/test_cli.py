"""The berth command by itself: help, wrong uses, and what is said where there is no daemon."""

import os
import re
import unittest

import harness

COMMANDS = ["run", "daemon", "show", "ns", "bench", "version"]


class Cli(harness.TestCase):
    def refused(self, *args, says, **more):
        done = self.berth(*args, **more)
        self.assertEqual(done.code, 2, repr(done))
        self.assertIn(says, done.err)
        self.assertIn("--help", done.err)
        self.assertEqual(done.out, "")

    def test_help_of_each_command(self):
        overview = self.check_berth("help").out
        self.assertEqual(overview, self.check_berth("--help").out)
        for command in COMMANDS:
            self.assertRegex(overview, rf"(?m)^  {command} ")
            text = self.check_berth(command, "--help").out
            self.assertTrue(text.lower().startswith("usage: berth " + command), text)
            self.assertEqual(text, self.check_berth("help", command).out)
        of_help = self.check_berth("help", "help").out
        for word in ("--help", "-h"):
            self.assertEqual(self.check_berth("help", word).out, of_help)

    def test_nothing_at_all(self):
        done = self.berth()
        self.assertEqual(done.code, 2)
        self.assertIn("Usage: berth", done.err)

    def test_wrong_uses(self):
        self.refused("sing", says="'sing'")
        self.refused("--sing", says="'--sing'")
        self.refused("help", "sing", says="'sing'")
        for command in ("run", "show", "ns", "version"):
            self.refused(command, "--sing", says="'--sing'")
            self.refused(command, "-%", says="'-%'")
            self.refused(command, "--runtime-dir", says="'--runtime-dir' needs a value")
        self.refused("show", says="what?")
        self.refused("show", "songs", says="'songs'")
        self.refused("show", "apps", "workers", says="'workers'")
        self.refused("show", "apps", "--json=1", says="'--json' takes no value")
        self.refused("show", "apps", "-d", "", says="--runtime-dir is empty")
        self.refused("show", "apps", "-d", "/" + "x" * 120, says="too long")
        self.refused("run", says="which program?")
        self.refused("run", "-n", "", "true", says="namespace ''")
        self.refused("run", "-n", "x" * 64, "true", says="64 characters")
        self.refused("run", "-s", "/nonexistent/secret", "true", says="/nonexistent/secret")
        self.refused("ns", says="add or del?")
        self.refused("ns", "keep", "a", says="'keep'")
        self.refused("ns", "add", says="Name the namespace")
        self.refused("ns", "add", "a", "b", says="one namespace")
        self.refused("ns", "add", "", says="0 characters")
        self.refused("ns", "add", "x" * 64, says="64 characters")
        self.refused("ns", "add", "a b", says="named 'a b'")
        self.refused("ns", "add", "a b", says="letters, digits, dots, hyphens and underscores")
        self.refused("ns", "add", "a", "--mode", "0777", says="'0777'")
        self.refused("ns", "add", "a", "--group", "g" * 64, says="64 characters")
        self.refused("ns", "add", "a", "-s", "/nonexistent/secret", says="/nonexistent/secret")
        self.refused("ns", "add", "a", "-S", "-s", "f", says="exclude each other")
        self.refused("ns", "add", "a", "-S", says="no secret", stdin="")
        self.refused("ns", "add", "a", "-S", says="is empty", stdin="\n")
        self.refused("ns", "add", "a", "-S", says="longer than 127", stdin="s" * 128 + "\n")
        self.refused("ns", "del", "a", "-m", "0600", says="del takes no flag")
        self.refused("version", "now", says="'now'")

    def test_two_hyphens_are_no_value(self):
        for option in ("-d", "-n", "-s", "--runtime-dir", "--namespace", "--secret-file"):
            self.refused("run", option, "--", "true", says=f"'{option}' needs a value")
        for option in ("-d", "-s", "-g", "-m"):
            self.refused("ns", "add", "a", option, "--", says=f"'{option}' needs a value")
        for command in (("show", "apps"), ("pause",), ("resume",), ("version",), ("daemon",)):
            self.refused(*command, "-d", "--", says="'-d' needs a value")
            self.refused(*command, "--runtime-dir=--", says="'--runtime-dir' needs a value")
        self.refused("daemon", "--config", "--", says="'--config' needs a value")
        self.assertEqual(os.listdir(self.scratch), [])

    def test_the_daemon_refuses_in_the_same_words(self):
        for args in (("--frob",), ("-%",), ("--runtime-dir",), ("--help=1",), ("more",)):
            said = [self.berth(command, *args).err for command in ("version", "daemon")]
            self.assertEqual(said[0].replace("version", "daemon"), said[1])
            self.assertIn("See 'berth daemon --help'.", said[1])

    def test_without_a_daemon(self):
        for args in (("show", "apps"), ("ns", "add", "a"), ("ns", "del", "a")):
            done = self.berth(*args)
            self.assertEqual(done.code, 1, repr(done))
            self.assertIn(f"no daemon answers in {self.runtime_dir}", done.err)
        done = self.check_berth("version")
        self.assertRegex(done.out, r"^berth \d+\.\d+\.\d+\n")
        self.assertIn("no daemon", done.out)

    def test_output_that_cannot_be_written(self):
        done = self.run_program("/bin/sh", "-c", f"exec {harness.BERTH} help run >/dev/full")
        self.assertEqual(done.code, 1, repr(done))
        self.assertIn("No space left", done.err)


class ManPages(harness.TestCase):
    """A flag in --help is in the man page and the other way round."""

    def flags(self, text):
        return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text.replace("\\-", "-")))

    def test_same_flags(self):
        folder = os.path.join(harness.TOP, "docs", "man")
        pages = {"run": "berth-run.1", "show": "berth-show.1", "ns": "berth-ns.1", "daemon": "berth-daemon.8"}
        for command, page in pages.items():
            with open(os.path.join(folder, page)) as f:
                # what follows .TP: the list of flags, not the text that may name those of others
                man = self.flags("\n".join(re.findall(r"\.TP\n(.*)", f.read())))
            text = self.flags(self.check_berth(command, "--help").out)
            self.assertTrue(text)
            self.assertEqual(man, text, page)


class Uris(harness.TestCase):
    """What docs/uri.md says of errors is what the examples print."""

    def refused(self, uri):
        done = self.run_program(os.path.join(harness.BUILD, "examples", "echo-client"), uri)
        self.assertEqual(done.code, 2, done)
        return done.err

    def test_errors_are_those_of_the_document(self):
        with open(os.path.join(harness.TOP, "docs", "uri.md")) as f:
            text = f.read()
        uri, shown = re.search(r"`echo-client (\S+)` says\n\n((?: {4}.*\n)+)", text).groups()
        self.assertEqual(self.refused(uri), re.sub("(?m)^ {4}", "", shown))
        rows = re.findall(r"(?m)^\| `([^`]+)` \| (.+) \| (.+) \|$", text)
        self.assertGreater(len(rows), 15)
        for uri, place, message in rows:
            said, again, arrow = self.refused(uri).splitlines()
            self.assertEqual((said, again), ("echo-client: " + message, "  " + uri))
            at = uri[arrow.index("^") - 2:][:1]
            self.assertEqual(at, "" if place == "end" else re.search("`(.)`", place).group(1), uri)


class Installed(harness.TestCase):
    def install(self):
        done = self.run_program("meson", "install", "-C", harness.BUILD, "--no-rebuild", "--quiet", "--destdir", self.scratch)
        self.assertEqual(done.code, 0, done)

    def find(self, *ends):
        found = [os.path.join(folder, f) for folder, _, files in os.walk(self.scratch) for f in files]
        return [f for f in found if f.endswith(ends)]

    def test_bench_by_its_path(self):
        """berth bench measures the berth that it is of, where none is in PATH."""
        self.install()
        (berth,) = self.find("/bin/berth")
        (harness_py,) = self.find("/bench/harness.py")
        with open(os.path.join(os.path.dirname(harness_py), "run.py"), "w") as f:
            f.write("import harness\nprint(harness.find_build()[0])\n")
        done = self.run_program(berth, "bench", env={"PATH": "/usr/bin:/bin"})
        self.assertEqual((done.code, done.out), (0, berth + "\n"), done)

    def test_uninstall_says_whether_anything_was_there(self):
        self.install()
        self.assertTrue(self.find("/bin/berth"))
        for says in ("berth is uninstalled", "nothing of what was installed"):
            done = self.run_program("make", "-C", harness.TOP, f"BUILD={harness.BUILD}", f"DESTDIR={self.scratch}", "uninstall")
            self.assertEqual(done.code, 0, done)
            self.assertIn(says, done.out)
            self.assertEqual(done.out.count("uninstalled") + done.out.count("nothing"), 1, done)
            self.assertEqual(self.find("/bin/berth"), [])

    def test_links_of_the_documents_lead_somewhere(self):
        """In the source tree and where `make install` puts them."""
        self.install()
        places = [folder for folder, _, files in os.walk(self.scratch) if "README.md" in files]
        self.assertEqual(len(places), 1)
        for top in (harness.TOP, places[0]):
            pages = [os.path.join(top, name) for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
            pages += [os.path.join(top, "docs", n) for n in os.listdir(os.path.join(top, "docs")) if n.endswith(".md")]
            for page in pages:
                with open(page) as f:
                    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", f.read())
                for link in links:
                    self.assertTrue(os.path.exists(os.path.join(os.path.dirname(page), link)), f"{page}: {link}")


if __name__ == "__main__":
    unittest.main()
