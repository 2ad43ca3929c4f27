"""The daemon as a process, who may attach to it, and what it does about those who speak wrongly."""

import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import time
import unittest

import harness
from fake_app import CTL, E, HEADER, JOIN, LOCAL, VERSION, App, Closed, Memory, outbox_body


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class DaemonTest(harness.TestCase):
    def app(self, attach=True, **hello):
        app = App(self.runtime_dir)
        self.addCleanup(app.close)
        if attach:
            self.assertEqual(app.hello(**hello), 0)
        return app

    def assert_closed(self, app):
        while True:
            try:
                app.recv().close()
            except Closed:
                return


class Process(DaemonTest):
    def test_a_second_one_is_refused_with_the_pid_of_the_first(self):
        first = self.daemon()
        done = self.berth("daemon", "--runtime-dir", self.runtime_dir)
        self.assertEqual(done.code, 1)
        self.assertIn(f"pid {first.pid}\n", done.err)
        done = self.berth("daemon", "--background", "--runtime-dir", self.runtime_dir)
        self.assertEqual(done.code, 1)
        self.assertIn(f"pid {first.pid}\n", done.err)
        self.assertEqual(self.app(False).status()[0], 0)

    def test_clean_stop(self):
        for sig in (signal.SIGTERM, signal.SIGINT):
            program = self.daemon()
            self.assertEqual(oct(os.stat(self.runtime_dir + "/control.sock").st_mode & 0o777), "0o600")
            app = self.app()
            program.kill(sig)
            self.assertEqual(program.wait(), 0)
            self.assertEqual(os.listdir(self.runtime_dir), [])
            self.assert_closed(app)

    def test_killed_ones_leavings_are_replaced(self):
        for _ in range(5):
            program = self.daemon()
            self.app()
            program.kill(signal.SIGKILL)
            program.wait()
            self.assertEqual(sorted(os.listdir(self.runtime_dir)), ["control.sock", "daemon.lock"])
            with open(self.runtime_dir + "/daemon.lock") as f:
                self.assertEqual(int(f.read()), program.pid)
        self.daemon()
        self.app()

    def test_background_returns_when_it_answers(self):
        done = self.check_berth("daemon", "--background", "--runtime-dir", self.runtime_dir, "--log-level", "debug")
        self.assertEqual((done.out, done.err), ("", ""))
        app = self.app()
        pid = app.status()[1][1]
        with open(self.runtime_dir + "/daemon.lock") as f:
            self.assertEqual(int(f.read()), pid)
        app.close()
        os.kill(pid, signal.SIGTERM)
        self.wait_until(lambda: os.listdir(self.runtime_dir) == ["daemon.log"], "its end")
        with open(self.runtime_dir + "/daemon.log") as f:
            self.assertIn("serves", f.read())
        self.expect_leftover("daemon.log")

    def test_background_lets_go_of_what_its_caller_had_open(self):
        r, w = os.pipe()
        os.set_inheritable(w, True)
        done = subprocess.run([harness.BERTH, "daemon", "--background", "--auto", "--runtime-dir", self.runtime_dir],
                              close_fds=False, timeout=harness.slow(20))
        os.close(w)
        self.assertEqual(done.returncode, 0)
        self.assertTrue(select.select([r], [], [], harness.slow(0.5))[0], "the daemon holds its caller's pipe")
        os.close(r)

    def test_auto_leaves_when_nobody_needs_it(self):
        start = time.monotonic()
        program = self.daemon("--auto")
        app = self.app()
        time.sleep(1.5)
        self.assertTrue(program.running())
        app.close()
        closed = time.monotonic()
        self.assertEqual(program.wait(10), 0)
        self.assertGreater(time.monotonic() - closed, 0.9)
        self.assertGreater(time.monotonic() - start, 2)

    def test_it_stays_for_who_asked(self):
        program = self.daemon("--auto")
        child = subprocess.Popen(["/usr/bin/python3", "-c", f"""
import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from fake_app import *
a = App({self.runtime_dir!r})
assert a.ask("STAY", struct.pack("=II", 1, 0)).status == E["E_PERMISSION"]
assert a.ask("STAY", struct.pack("=II", os.getpid(), 0)).status == 0
assert a.ask("STAY", struct.pack("=II", os.getpid(), 0)).status == 0
a.close()
print("asked", flush=True)
os.execv("/bin/sleep", ["sleep", "60"])
"""], stdout=subprocess.PIPE)
        self.addCleanup(child.kill)
        self.assertEqual(child.stdout.readline(), b"asked\n")
        child.stdout.close()
        time.sleep(2)
        self.assertTrue(program.running())
        child.kill()
        child.wait()
        self.assertEqual(program.wait(10), 0)

    def test_idle_costs_nothing(self):
        program = self.daemon()
        apps = [self.app() for _ in range(20)]
        before = harness.cpu_seconds(program.pid)
        time.sleep(2)
        self.assertLess(harness.cpu_seconds(program.pid) - before, 0.02)
        if not harness.SANITIZER:
            self.assertLess(resident_kib(program.pid), 20 * 1024)
        for app in apps:
            app.close()

    def test_runtime_directory_that_others_may_write(self):
        os.chmod(self.runtime_dir, 0o777)
        done = self.berth("daemon", "--runtime-dir", self.runtime_dir)
        self.assertEqual(done.code, 1)
        self.assertIn(self.runtime_dir, done.err)
        self.assertIn("0777", done.err)
        os.chmod(self.runtime_dir, 0o700)

    @harness.needs_root
    def test_runtime_directory_of_somebody_else(self):
        os.chown(self.runtime_dir, 12345, -1)
        done = self.berth("daemon", "--runtime-dir", self.runtime_dir)
        self.assertEqual(done.code, 1)
        self.assertIn("owner 12345", done.err)
        os.chown(self.runtime_dir, 0, -1)

    def test_runtime_directory_that_is_none(self):
        path = self.file("a-file", "x")
        done = self.berth("daemon", "--runtime-dir", path)
        self.assertEqual(done.code, 1)
        self.assertIn("not a directory", done.err)
        done = self.berth("daemon", "--runtime-dir", self.scratch + "/no/such/parent")
        self.assertEqual(done.code, 1)
        self.assertIn("No such file", done.err)

    def full_disk(self):
        place = os.path.join(self.scratch, "full")
        os.mkdir(place)
        mounted = self.run_program("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", place)
        if mounted.code:
            self.skipTest(f"nothing can be mounted here: {mounted.err}")
        self.addCleanup(self.run_program, "umount", place)
        self.run_program("dd", "if=/dev/zero", f"of={place}/filler", "bs=1k", "count=65")
        return place

    @harness.needs_root
    def test_a_full_disk_is_told(self):
        place = self.full_disk()
        says = f"berth daemon: {place}/daemon.lock: No space left on device; free some or choose another directory with --runtime-dir"
        for flags in ((), ("--background",)):
            done = self.berth("daemon", "--runtime-dir", place, *flags)
            self.assertEqual((done.code, done.err), (1, says + "\n"), done)
            self.assertEqual(os.listdir(place), ["filler"])
        done = self.berth("run", "-d", place, "--", "echo", "still")
        self.assertEqual((done.code, done.out), (0, "still\n"), done)
        self.assertIn(f"({says})", done.err)
        self.assertEqual(os.listdir(place), ["filler"])

    def test_no_descriptor_for_the_background(self):
        for few, what in ((4, f"{self.runtime_dir}/daemon.log"), (5, "pipe")):
            done = self.run_program("/bin/sh", "-c", f"ulimit -n {few}; exec {harness.BUILD}/berth-daemon --background")
            self.assertEqual((done.code, done.err), (1, f"berth daemon: {what}: Too many open files\n"), done)
        self.expect_leftover("daemon.log")

    def test_flags(self):
        for args, says in ((["--sing"], "--help"), (["--log-level", "loud"], "'loud'"), (["more"], "'more'"),
                           (["--config", "/nonexistent"], "/nonexistent: No such file"), (["--config", "/etc"], "/etc is a directory\n")):
            done = self.berth("daemon", "--runtime-dir", self.runtime_dir, *args)
            self.assertEqual(done.code, 2)
            self.assertIn(says, done.err)


class Config(DaemonTest):
    def refused(self, text, line, says):
        path = self.file("berth.yaml", text)
        done = self.berth("daemon", "--runtime-dir", self.runtime_dir, "--config", path)
        self.assertEqual(done.code, 2, repr(done))
        self.assertIn(f"{path}:{line}: ", done.err)
        self.assertIn(says, done.err)

    def test_errors_have_file_and_line(self):
        self.refused("log-level: info\nsing: loud\n", 2, "unknown key 'sing'")
        self.refused("log-level: loud\n", 1, "'loud'")
        self.refused("log-level: info\nlog-level: info\n", 2, "second time")
        self.refused("socket:\n  mode: 0777\n", 2, "0777")
        self.refused("socket:\n  group: nosuchgroup\n", 2, "nosuchgroup")
        self.refused("socket: 5\n", 1, "mapping")
        self.refused("limits:\n  apps: many\n", 2, "'many'")
        self.refused("limits:\n  apps: 0\n", 2, "'0'")
        self.refused("limits:\n  apps: -3\n", 2, "'-3'")
        self.refused("limits:\n  sessions: 99999999999\n", 2, "sessions")
        self.refused("limits:\n  outbox-bytes: 4K\n", 2, "outbox-bytes")
        self.refused("limits:\n  outbox-bytes: 99999999G\n", 2, "99999999G")
        self.refused("limits:\n  cows: 4\n", 2, "'cows'")
        self.refused("namespaces: default\n", 1, "list")
        self.refused("namespaces:\n  - secret: x\n", 2, "id")
        self.refused("namespaces:\n  - id: a b\n", 2, "'a b'")
        self.refused("namespaces:\n  - id: a\n  - id: a\n", 3, "two namespaces")
        self.refused("namespaces:\n  - id: a\n    owner: nosuchuser\n", 2, "nosuchuser")
        self.refused("namespaces:\n  - id: a\n    secret: x\n    secret-file: y\n", 2, "not both")
        self.refused("namespaces:\n  - id: a\n    secret-file: /nonexistent\n", 2, "/nonexistent")
        open_file = self.file("secret", "x\n", 0o644)
        self.refused(f"namespaces:\n  - id: a\n    secret-file: {open_file}\n", 2, "chmod 600")
        self.refused("log-level: [info\n", 2, "")
        self.refused("- 1\n- 2\n", 1, "mapping")

    def test_what_is_configured_holds(self):
        secret = self.file("secret", "open sesame\nmore\n", 0o600)
        path = self.file("berth.yaml", f"""
namespaces:
  - id: plain
  - id: locked
    secret: "first"
    mode: 0666
  - id: filed
    secret-file: {secret}
limits: {{apps: 3, workers: 4, outbox-bytes: 2M, sessions: 1000}}
socket:
  mode: 0660
log-level: debug
""")
        self.daemon("--config", path)
        self.assertEqual(oct(os.stat(self.runtime_dir + "/control.sock").st_mode & 0o777), "0o660")
        rows = {r["namespace"]: r for r in self.show("namespaces")}
        self.assertEqual(sorted(rows), ["default", "filed", "locked", "plain"])
        self.assertEqual([rows[n]["mode"] for n in ("default", "locked")], ["0660", "0666"])
        self.assertEqual([rows[n]["secret"] for n in ("plain", "locked", "filed")], [False, True, True])
        for text in ("first", "sesame"):
            self.assertNotIn(text, json.dumps(rows))
        self.app(ns="plain")
        self.app(ns="locked", secret="first")
        self.app(ns="filed", secret="open sesame")
        self.assertEqual(self.app(False).hello(), E["E_LIMIT"])
        self.app(name="fake", ns="plain", flags=LOCAL | JOIN)
        self.assertEqual(self.app(False).hello(ns="plain", flags=LOCAL | JOIN), E["E_LIMIT"])


class Attach(DaemonTest):
    def test_not_attached(self):
        self.daemon()
        app = self.app(False)
        for kind in ("LISTEN", "INTRODUCE", "OUTBOX", "ANNOUNCE", "GET_OUTBOX", "GET_SEGMENT", "SEGMENT", "PORTS", "DETACH",
                     "UNLISTEN", "SHUT", "HIDE", "RETURN_PORTS", "RETIRE", "LEAVE", "BACKLOG", "CHILD"):
            with self.subTest(kind):
                length = {"LISTEN": 40, "UNLISTEN": 8, "SHUT": 8, "HIDE": 8, "BACKLOG": 8, "INTRODUCE": 16, "PORTS": 24, "RETURN_PORTS": 24, "DETACH": 0,
                          "CHILD": 16}.get(kind, 24)
                fds = [0] if kind in ("LISTEN", "OUTBOX", "SEGMENT", "CHILD") else []
                self.assertEqual(app.ask(kind, b"\0" * length, fds).status, E["E_NOT_ATTACHED"])
        self.assertEqual(app.hello(), 0)

    def test_each_refusal_has_its_code(self):
        program = self.daemon()
        self.assertEqual(self.app(False).ns("NS_ADD", "vault", secret="gold", mode=0o600), 0)
        app = self.app(False)
        self.assertEqual(app.hello(ns="nowhere"), E["E_UNKNOWN_NAMESPACE"])
        self.assertEqual(app.hello(version=VERSION + 1), E["E_VERSION"])
        self.assertEqual(app.ask("HELLO", struct.pack("=II", 0x48545242, 99)).status, E["E_VERSION"])
        self.assertEqual(app.hello(name=""), E["E_INVALID"])
        self.assertEqual(app.hello(flags=1 << 20), E["E_INVALID"])
        self.assertEqual(app.hello(ns="vault", secret="gold"), 0)
        self.assertEqual(app.hello(ns="vault", secret="gold"), E["E_ALREADY_ATTACHED"])
        for wrong in ("", "silver", "gol", "goldd"):
            app = self.app(False)
            self.assertEqual(app.hello(ns="vault", secret=wrong), E["E_WRONG_SECRET"])
            self.assert_closed(app)
        self.assertNotIn("gold", program.err)
        self.assertNotIn("silver", program.err)

    @harness.needs_root
    def test_owner_group_and_mode(self):
        os.chmod(self.base, 0o755)
        os.chmod(self.runtime_dir, 0o755)
        self.daemon("--config", self.file("c.yaml", "socket: {mode: 0666}\nnamespaces:\n"
                                          "  - {id: all}\n  - {id: mine, mode: 0600, owner: 12345}\n"
                                          "  - {id: group, mode: 0660, group: '23456'}\n"
                                          "  - {id: root, mode: 0600}\n"))
        script = f"""
import sys, os
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from fake_app import *
os.setgroups([int(g) for g in sys.argv[3].split(",") if g]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
def one(what):
    a = App({self.runtime_dir!r})
    try:
        return what(a)
    finally:
        a.close()
print([one(lambda a: a.hello(ns=ns)) for ns in ("all", "mine", "group", "root")],
      one(lambda a: a.ns("NS_ADD", "x")), one(lambda a: a.ns("NS_DEL", "all")),
      [r["namespace"] for r in one(lambda a: a.show("NAMESPACES"))], one(lambda a: a.show("APPS")))
"""
        no = E["E_PERMISSION"]
        self.app(ns="all", name="secretive")
        for uid, gid, groups, answers, seen in ((12345, 1, "", [0, 0, no, no], ["all", "mine", "default"]),
                                                (54321, 23456, "", [0, no, 0, no], ["all", "group", "default"]),
                                                (54321, 1, "7,23456", [0, no, 0, no], ["all", "group", "default"]),
                                                (54321, 1, "", [0, no, no, no], ["all", "default"])):
            done = self.run_program("/usr/bin/python3", "-c", script, uid, gid, groups)
            self.assertEqual(done.out.strip(), f"{answers} {no} {no} {seen} []", repr(done))

    def test_detach_and_attach_again(self):
        self.daemon()
        app = self.app()
        first = app.worker
        self.assertEqual(app.listen(port=80)[0], 0)
        self.assertEqual(app.ask("DETACH").status, 0)
        self.assertEqual(app.show("LISTENERS"), [])
        self.assertEqual(app.ask("DETACH").status, E["E_NOT_ATTACHED"])
        self.assertEqual(app.hello(), 0)
        self.assertNotEqual(app.worker, first)

    def test_join(self):
        self.daemon()
        a, b = self.app(name="web"), self.app(name="web", flags=LOCAL | JOIN)
        c, e = self.app(name="web"), self.app(name="other", flags=LOCAL | JOIN)
        self.assertEqual(a.app, b.app)
        self.assertEqual(len({a.app, c.app, e.app}), 3)
        self.assertEqual([r["workers"] for r in self.show("apps") if r["app"] == a.app], [2])
        a.close()
        self.wait_until(lambda: [r["workers"] for r in b.show("APPS") if r["app"] == b.app] == [1], "the end of a worker")

    def test_namespace_deleted(self):
        self.daemon()
        admin = self.app(False)
        self.assertEqual(admin.ns("NS_ADD", "gone"), 0)
        self.assertEqual(admin.ns("NS_ADD", "gone"), E["E_BUSY"])
        self.assertEqual(admin.ns("NS_ADD", "a/b"), E["E_INVALID"])
        self.assertEqual(admin.ns("NS_ADD", "x", mode=0o777), E["E_INVALID"])
        self.assertEqual(admin.ns("NS_ADD", "x", group="nosuchgroup"), E["E_INVALID"])
        self.assertEqual(admin.ns("NS_DEL", "never"), E["E_UNKNOWN_NAMESPACE"])
        app = self.app(ns="gone")
        self.assertEqual(app.listen(port=80)[0], 0)
        self.assertEqual(app.ns("NS_DEL", "gone"), 0)
        m = app.next_news()
        self.assertEqual((m.type, m.status), (CTL["EVICTED"], E["E_UNKNOWN_NAMESPACE"]))
        self.assert_closed(app)
        self.assertEqual(admin.show("LISTENERS"), [])
        self.assertEqual(self.app(False).hello(ns="gone"), E["E_UNKNOWN_NAMESPACE"])


class Hostile(DaemonTest):
    def refused(self, data, fds=()):
        """It is answered with PROTOCOL, and the connection ends."""
        app = self.app()
        app.send_raw(data, fds)
        self.assertEqual(app.recv().status, E["E_PROTOCOL"])
        self.assert_closed(app)

    def test_malformed_packets(self):
        self.daemon()
        r, w = os.pipe()
        self.refused(b"x")
        self.refused(HEADER.pack(CTL["STATUS"], 16, 1, 0, 0)[:15])
        self.refused(HEADER.pack(CTL["STATUS"], 17, 1, 0, 0))
        self.refused(HEADER.pack(CTL["STATUS"], 16, 0, 0, 0))
        self.refused(HEADER.pack(CTL["STATUS"], 20, 1, 0, 0) + b"1234")
        self.refused(HEADER.pack(0, 16, 1, 0, 0))
        self.refused(HEADER.pack(60000, 16, 1, 0, 0))
        self.refused(HEADER.pack(CTL["WELCOME"], 16, 1, 0, 0))
        self.refused(HEADER.pack(CTL["STATUS"], 16, 1, 0, 0), [r])
        self.refused(HEADER.pack(CTL["LISTEN"], 56, 1, 0, 0) + b"\0" * 40)
        self.refused(HEADER.pack(CTL["LISTEN"], 56, 1, 0, 0) + b"\0" * 40, [r])  # not its end for writing
        self.refused(HEADER.pack(CTL["LISTEN"], 56, 1, 0, 0) + b"\0" * 40, [w, w])
        self.refused(HEADER.pack(CTL["CHILD"], 32, 1, 0, 0) + b"\0" * 16, [r])
        self.refused(HEADER.pack(CTL["OUTBOX"], 40, 1, 0, 0) + b"\0" * 24, [r])
        self.refused(HEADER.pack(CTL["NS_ADD"], 280, 1, 0, 0) + b"\1" * 264)
        self.refused(b"\0" * 5000)
        os.close(r)
        os.close(w)
        app = self.app(False)
        app.sock.send(b"")
        self.assert_closed(app)
        self.assertEqual(self.app(False).status()[0], 0)

    def test_hello_with_wrong_descriptors(self):
        self.daemon()
        page, sock = Memory(8192), socket.socket()
        wrong, kick = os.pipe()
        event, other = os.eventfd(0), select.epoll()
        unsealed, small, garbage = Memory(8192, 0), Memory(4096), Memory(8192)
        struct.pack_into("=IH", page.map, 0, 0x45474150, 1)
        for m in (unsealed, small):
            struct.pack_into("=IH", m.map, 0, 0x45474150, 1)
        good = (sock.fileno(), page.fd)
        for fds in ((), good[:1], good + (kick,), (kick, page.fd), (sock.fileno(), kick), (sock.fileno(), wrong),
                    (sock.fileno(), unsealed.fd), (sock.fileno(), small.fd), (sock.fileno(), garbage.fd),
                    (sock.fileno(), sock.fileno()), (sock.fileno(), event), (other.fileno(), page.fd)):
            app = self.app(False)
            self.assertEqual(app.ask("HELLO", app.hello_body(), fds).status, E["E_PROTOCOL"], fds)
            self.assert_closed(app)
        app = self.app(False)
        self.assertEqual(app.ask("HELLO", app.hello_body(), good).status, 0)
        app = self.app(False)
        body = bytearray(app.hello_body())
        body[16:80] = b"n" * 64
        self.assertEqual(app.ask("HELLO", bytes(body), good).status, E["E_PROTOCOL"])
        for fd in (kick, wrong, event):
            os.close(fd)
        sock.close()

    def test_ends_of_sockets_that_lead_back(self):
        program = self.daemon()
        base = self.steady(program)
        app = self.app()
        app.send("CHILD", b"\0" * 8, [app.sock.fileno()])
        self.assert_closed(app)
        app.close()
        app = self.app()
        for end in (pair := socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)):
            app.send("CHILD", b"\0" * 8, [end.fileno()])
            end.close()
        app.send("CHILD", b"\0" * 8, [(lone := socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)).fileno()])
        lone.close()
        app.close()
        del pair
        self.wait_until(lambda: self.steady(program) <= base, f"descriptors back to {base}")

    def test_random_packets(self):
        program = self.daemon()
        base = self.steady(program)
        seed = int(time.time())
        rng = random.Random(seed)
        for _ in range(400):
            app = App(self.runtime_dir)
            try:
                if rng.random() < 0.7:
                    app.hello()
                for _ in range(rng.randrange(1, 8)):
                    kind = rng.choice([*CTL.values(), rng.randrange(65536)])
                    body = rng.randbytes(rng.choice([0, 4, 8, 16, 24, 32, 264, 328, rng.randrange(1000)]))
                    fds = rng.sample([0, 1, 2, app.sock.fileno()], rng.choice([0, 0, 1, 2, 3]))
                    size = HEADER.size + len(body) if rng.random() < 0.9 else rng.randrange(65536)
                    app.send_raw(HEADER.pack(kind, size, rng.randrange(3), 0, 0) + body, fds)
            except (OSError, Closed):
                pass
            app.close()
        self.assertTrue(program.running(), f"seed {seed}: {program}")
        self.wait_until(lambda: self.steady(program) <= base, f"descriptors back to {base} (seed {seed})")

    def steady(self, program):
        app = App(self.runtime_dir)
        for _ in range(3):  # an end that came before us may be acted on a round later
            app.status()
        n = descriptors(program.pid)
        app.close()
        return n

    def test_who_does_not_read_is_evicted_and_does_not_block_others(self):
        self.daemon()
        listener = self.app()
        reader = self.app()
        box = reader.outbox(1, listener.app)
        self.assertEqual(listener.get_outbox(box.handle)[0], 0)
        for _ in range(150):  # each RETIRE tells everybody who was given the outbox
            for i in range(1, 9):
                m = box.segment(i)
                reader.send("SEGMENT", outbox_body(box.handle, index=i), (m.fd,))
                m.close()
                reader.send("RETIRE", outbox_body(box.handle, index=i))
            self.assertEqual(reader.status()[0], 0)
        got = 0
        while not listener.quiet(0.3):  # queued by the daemon, none is lost
            self.assertEqual(listener.next_news().type, CTL["RETIRED"])
            got += 1
        self.assertEqual(got, 150 * 8)

    def test_replays_of_what_was_never_offered(self):
        daemon = self.daemon("--log", "error")
        acceptor, connector = self.app(name="acceptor"), self.app(name="connector")
        status, listener, _, port = acceptor.listen()
        self.assertEqual(status, 0)
        box = connector.outbox(1, acceptor.app)
        self.assertEqual(connector.introduce(listener, box)[0], 0)
        before = descriptors(daemon.pid)
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            for i in range(60):
                tcp = socket.socket()
                if i % 3:
                    tcp.connect(server.getsockname())
                sent = datagrams if i % 5 == 0 else tcp
                handle = box.handle + (i % 7 == 0)
                connector.send("REPLAY", struct.pack("=QIIII", handle, (0, i, 1 << 31)[i % 3], i, listener * (i % 2), 0),
                               (sent.fileno(),))
                tcp.close()
            self.assertEqual(connector.status()[0], 0)
            acceptor.close()

            def nothing_left():
                children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(daemon.pid)], capture_output=True, text=True).stdout
                return not children.strip() and descriptors(daemon.pid) <= before

            self.wait_until(nothing_left, "an end of the relays")

    def test_a_flood_does_not_starve_others(self):
        self.daemon()
        flooder = self.app()
        flooder.sock.setblocking(False)
        packet = HEADER.pack(CTL["UNLISTEN"], 24, 1, 0, 0) + struct.pack("=II", 77, 0)
        pid = os.fork()
        if pid == 0:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                try:
                    flooder.sock.send(packet)
                except BlockingIOError:
                    pass
            os._exit(0)
        calm = self.app(False)
        worst = 0
        for _ in range(100):
            before = time.monotonic()
            self.assertEqual(calm.status()[0], 0)
            worst = max(worst, time.monotonic() - before)
            time.sleep(0.005)
        os.waitpid(pid, 0)
        self.assertLess(worst, harness.slow(0.5))

    def test_thousands_come_and_are_killed(self):
        program = self.daemon()
        listener = self.app()
        _, number, _, _ = listener.listen(port=80)

        def cycle(n):
            for i in range(n):
                app = App(self.runtime_dir)
                self.assertEqual(app.hello(), 0)
                step = i % 5
                if step > 0:
                    app.listen(port=0)
                if step > 1:
                    box = app.outbox(1, listener.app, register=False)
                    self.assertEqual(app.introduce(number, box)[0], 0)
                    app.ports()
                if step > 2:
                    self.assertEqual(listener.get_outbox(box.handle)[0], 0)
                    mine = listener.outbox(i + 1 + self.made, app.app)
                    listener.send("ANNOUNCE", outbox_body(mine.handle, worker=app.worker))
                if step > 3:
                    app.fork().close()
                app.close()
                while listener.keep and len(listener.keep) > 2:
                    listener.keep.pop().close()
            self.made += n
            while not listener.quiet(0.05):
                listener.news.pop().close()
        self.made = 0
        cycle(200)
        fds, memory = self.steady(program), resident_kib(program.pid)
        cycle(2000)
        self.wait_until(lambda: self.steady(program) <= fds, f"descriptors back to {fds}, now {self.steady(program)}")
        if not harness.SANITIZER:
            self.assertLess(resident_kib(program.pid) - memory, 512)
        self.assertEqual(len(self.show("apps")), 1)
        self.assertEqual(len(self.show("listeners")), 1)
        self.assertEqual(self.show("segments"), [])


if __name__ == "__main__":
    unittest.main()
