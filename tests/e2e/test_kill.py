"""Ends of processes: what the peers see, and that nothing of the dead is left, in the living and in the daemon."""

import os
import random
import select
import signal
import subprocess
import time

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


KILLS = os.path.join(harness.BUILD, "tests", "stress", "kills")
VIEWS = ("apps", "workers", "listeners", "sessions", "segments")


def held(pid):
    """What a process holds: descriptors by kind, maps, resident KiB."""
    kinds = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            kind = os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0].removesuffix(" (deleted)")
        except OSError:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    with open(f"/proc/{pid}/maps") as f:
        maps = sum(1 for _ in f)
    with open(f"/proc/{pid}/statm") as f:
        resident = int(f.read().split()[1]) * 4
    return {"fds": kinds, "maps": maps, "resident": resident}


def least(a, b):
    """Of two counts of what is held, the smaller number of each."""
    if a is None:
        return b
    return {"fds": {kind: min(n, b["fds"].get(kind, 0)) for kind, n in a["fds"].items()},
            "maps": min(a["maps"], b["maps"]), "resident": min(a["resident"], b["resident"])}


def held_of_berth(pid):
    """The same of berth's memory alone: what a real program has of its own comes and goes with its work."""
    with open(f"/proc/{pid}/maps") as f:
        maps = sum("/memfd:berth-" in line for line in f)
    with open(f"/proc/{pid}/status") as f:
        resident = next(int(line.split()[1]) for line in f if line.startswith("RssShmem:"))
    return {**held(pid), "maps": maps, "resident": resident}


def settled(test, what, get, good, seconds=20):
    """get() until good() holds."""
    deadline = harness.Deadline(seconds)
    while True:
        late, value = deadline.over(), get()
        if good(value):
            return value
        if late:
            test.fail(f"{what} did not come back: {value}")
        time.sleep(0.2)


def memory_of_the_dead(pids):
    """Berth's memory that one of these processes maps though nobody is left who may write it: {(pid, inode): its name}. Whose
    it is has it mapped writable; everybody else may only read."""
    written, mapped = set(), {}
    for pid in pids:
        with open(f"/proc/{pid}/maps") as f:
            for line in f:
                words = line.split(maxsplit=5)
                if len(words) == 6 and "/memfd:berth-" in words[5]:
                    mapped[pid, words[4]] = words[5].strip()
                    if "w" in words[1]:
                        written.add(words[4])
    return {key: name for key, name in mapped.items() if key[1] not in written}


class Kills(harness.TestCase):
    """Libberth's own: survivors exchange checked data while others die at random moments."""

    limit = 240

    def count(self):
        return {view: len(self.show(view)) for view in VIEWS}

    @staticmethod
    def more(was, now):
        return (any(n > was["fds"].get(kind, 0) + 2 for kind, n in now["fds"].items()) or now["maps"] > was["maps"] + 4 or
                (not harness.SANITIZER and now["resident"] > was["resident"] * 1.1 + 2048))

    def kill_storm(self, kills, *args):
        daemon = self.daemon()
        err = open(os.path.join(self.scratch, "kills.err"), "w+")
        self.addCleanup(err.close)
        storm = subprocess.Popen([KILLS, *args], env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=err, text=True, bufsize=1)
        self.addCleanup(lambda: (storm.kill(), storm.wait(), storm.stdin.close(), storm.stdout.close()))

        def said():
            err.seek(0)
            return err.read()[-3000:]

        def run(n):
            storm.stdin.write(f"run {n}\n")
            deadline, got = harness.Deadline(60), []
            while not got and not deadline.over():
                got = select.select([storm.stdout], [], [], deadline.left())[0]
            self.assertTrue(got, f"{n} kills came to no end\n{said()}")
            self.assertEqual(storm.stdout.readline(), "done\n", said())
        words = storm.stdout.readline().split()
        survivors = list(zip(words[::2], map(int, words[1::2])))
        self.assertEqual(len(survivors), 4, said())

        # What a round leaves for good (tables as long as the most that were there at once, warm rings, heaps) is the yardstick
        # for the next. How many are there at once differs from round to round, so there may be a third and a fourth: what
        # leaks grows each time.
        everybody = [pid for _, pid in survivors] + [daemon.pid]
        workers, grew = len(survivors), []
        for turn in range(4):
            run(kills // 2)
            settled(self, "the daemon's tables", self.count,
                    lambda c: c["workers"] == c["apps"] == workers and c["listeners"] == 1 and c["segments"] < 12)
            # mappings of the dead stay for three seconds, and until somebody looks
            settled(self, "memory of the dead", lambda: memory_of_the_dead(everybody), lambda left: not left)
            # The survivors work on, so what they hold goes up and down: the least of what is seen within a while is
            # what they cannot do without. A sanitizer's allocator has anonymous mappings of its own, which come and go.
            now, grew, begin, deadline = {}, [], time.monotonic(), harness.Deadline(10)
            while time.monotonic() - begin < 2 or (grew and not deadline.over()):
                for pid in everybody:
                    now[pid] = least(now.get(pid), held_of_berth(pid) if harness.SANITIZER else held(pid))
                grew = [(pid, was[pid], now[pid]) for pid in everybody if turn and self.more(was[pid], now[pid])]
                time.sleep(0.1)
            if turn and not grew:
                break
            was = now
        self.assertEqual(grew, [], said())
        err.seek(0)
        broken = [line for line in err if " is reset: it" in line]  # nobody here breaks the rules, victims neither
        self.assertEqual(broken, [])
        storm.stdin.write("stop\n")
        self.assertEqual(storm.wait(30), 0, said() + storm.stdout.read())
        settled(self, "the daemon's tables", self.count, lambda c: not any(c.values()))
        self.assertNotIn("warn", daemon.err, repr(daemon))

    def test_killed_at_random_moments(self):
        self.kill_storm(harness.pick(1600, 6000), os.environ.get("BERTH_TEST_SEED", harness.pick("1", str(time.time_ns() % 1000000))), "1")


KEPT = """
import os, socket, sys
from slowness import slow
def exact(s, n):
    data = b""
    while len(data) < n:
        got = s.recv(n - len(data))
        assert got, "the stream ended"
        data += got
    return data
def check(s):
    data = os.urandom(50000)
    for i in range(20):
        s.sendall(data)
        assert exact(s, len(data)) == data, "wrong bytes"
kept = socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(10))
check(kept)
print("ok", flush=True)
for line in sys.stdin:
    check(kept)
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(10)) as s:
        check(s)
    print("ok", flush=True)
"""


@harness.needs_preload_into_python
class DaemonKilled(harness.TestCase):
    def client(self, port):
        client = subprocess.Popen([harness.BERTH, "run", "--", PYTHON, self.script, str(port)],
                                  env={**self.environment(), **self._under({}).get("env", {})}, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True, bufsize=1)
        self.addCleanup(lambda: (client.kill(), client.wait(), client.stdin.close(), client.stdout.close()))
        self.said(client)
        return client

    def said(self, client, word=""):
        if word:
            client.stdin.write(word + "\n")
        self.assertTrue(select.select([client.stdout], [], [], harness.slow(30))[0], f"silence after {word}")
        self.assertEqual(client.stdout.readline(), "ok\n", word)

    def test_sessions_go_on_and_a_new_daemon_serves_new_processes(self):
        self.script = self.file("kept.py", KEPT)
        daemon = self.daemon()
        port = self.free_port()
        server = self.start_under(PYTHON, "-c", harness.ECHO_SERVER, port)
        self.wait_listening(port, server)
        clients = [self.client(port) for _ in range(3)]
        self.assertEqual(len(self.show("sessions")), 3)
        daemon.kill(signal.SIGKILL)
        daemon.wait()
        for word in ("without a daemon", "once more"):
            for client in clients:
                self.said(client, word)
        self.daemon()
        for client in clients:
            self.said(client, "with a new daemon")
        late = self.client(port)  # of the old server the new daemon knows nothing: by way of the kernel
        self.said(late, "a new client")
        self.assertEqual(self.show("sessions"), [])
        other = self.free_port()
        new = self.start_under(PYTHON, "-c", harness.ECHO_SERVER, other)
        self.wait_listening(other, new)
        for _ in range(2):
            clients.append(self.client(other))
        self.assertEqual(len(self.show("sessions")), 2)
        for client in clients + [late]:
            self.said(client, "in the end")
            client.stdin.close()
            self.assertEqual(client.wait(20), 0)
        settled(self, "the new daemon's sessions", lambda: self.show("sessions"), lambda rows: not rows)


@harness.needs_preload
class Soak(harness.TestCase):
    """Real servers, and clients of mixed sizes that are stopped, resumed and killed. Nothing may grow."""

    limit = harness.pick(120, 400)

    def setUp(self):
        super().setUp()
        self.random = random.Random(int(os.environ.get("BERTH_TEST_SEED", "1")))

    def servers(self):
        www = os.path.join(self.scratch, "www")
        os.mkdir(www)
        for name, size in (("small", 600), ("large", 3000000)):
            self.file(f"www/{name}", os.urandom(size))
        self.ports = {name: self.free_port() for name in ("redis", "nginx", "memcached", "http", "kernel")}
        conf = self.file("nginx.conf", NGINX.format(dir=self.scratch, port=self.ports["nginx"]))
        commands = {
            "redis": ["redis-server", "--port", self.ports["redis"], "--save", "", "--appendonly", "no"],
            "nginx": ["nginx", "-c", conf, "-p", self.scratch, "-e", "stderr"],
            "memcached": ["memcached", "-p", self.ports["memcached"], "-U", "0", "-l", "127.0.0.1", "-u", "root"],
            "http": [PYTHON, "-m", "http.server", self.ports["http"], "--bind", "127.0.0.1", "-d", www]}
        started = {name: self.start_under(*command) for name, command in commands.items()}
        started["kernel"] = self.start("redis-server", "--port", self.ports["kernel"], "--save", "", "--appendonly", "no")
        for name, server in started.items():
            self.wait_listening(self.ports[name], server)
        return started

    def a_client(self):
        r, p = self.random, self.ports
        which = r.choice(("redis", "redis", "wrk", "curl", "memcached", "http", "to the kernel"))
        under = which == "to the kernel" or r.random() < 0.8
        if which in ("redis", "to the kernel"):
            command = ["redis-benchmark", "-q", "-p", p["kernel" if which != "redis" else "redis"], "-n", r.choice((300, 1500)),
                       "-c", r.choice((1, 7, 40)), "-d", r.choice((3, 700, 20000, 300000)), "-t", "set,get,lpush,lpop",
                       "-P", r.choice((1, 4))]
        elif which == "wrk":
            command = ["wrk", "-d", "1", "-c", r.choice((1, 20)), "-t", "1"]
            command += ["-H", "Connection: close"] if r.random() < 0.5 else []
            command.append(f"http://127.0.0.1:{p['nginx']}/{r.choice(('small', 'large'))}")
        elif which == "memcached":
            command = [PYTHON, self.memcached_client, p["memcached"], r.randrange(1 << 30)]
        else:
            server = "nginx" if which == "curl" else "http"
            command = ["curl", "-sS", "-f", "-o", "/dev/null"]
            for _ in range(r.choice((1, 5))):
                command += [f"http://127.0.0.1:{p[server]}/{r.choice(('small', 'large'))}", "-o", "/dev/null"]
        return (self.start_under if under else self.start)(*command)

    def soak(self, seconds):
        end, running, done = time.monotonic() + seconds, [], [0, 0]
        while time.monotonic() < end or running:
            if time.monotonic() < end and len(running) < 3:
                running.append((self.a_client(), self.random.choice(("live", "live", "stop", "kill")),
                                harness.Deadline(40)))
            time.sleep(self.random.random() * 0.05)
            for item in list(running):
                client, fate, deadline = item
                if fate == "kill" and self.random.random() < 0.1:
                    client.kill()
                    client.wait()
                elif fate == "stop" and self.random.random() < 0.1 and client.running():
                    client.kill(signal.SIGSTOP)
                    time.sleep(0.05)
                    client.kill(signal.SIGCONT)
                if not client.running():
                    running.remove(item)
                    self.assertIn(client.wait(), (0, -9) if fate == "kill" else (0,), repr(client))
                    done[fate == "kill"] += 1
                    self.programs.remove(client)
                elif deadline.over():
                    self.fail(f"no end after 40 s x {deadline.factor:.1f}: {client}")
        return done

    @harness.needs("redis-server", "redis-benchmark", "nginx", "wrk", "memcached", "curl")
    def test_programs_for_a_while(self):
        self.memcached_client = self.file("memcached.py", MEMCACHED)
        daemon = self.daemon()
        servers = self.servers()
        pids = {daemon.pid: "daemon", **{s.pid: name for name, s in servers.items() if name != "kernel"}}
        for pid in harness.children_of(servers["nginx"].pid):
            pids[pid] = "nginx worker"
        self.soak(harness.pick(6, 30))
        settled(self, "sessions", lambda: self.show("sessions"), lambda rows: not rows)
        before = {}  # of workers that share their load the one that has had more of it: next time it may be the other
        for pid, name in pids.items():
            now, was = held_of_berth(pid), before.get(name)
            before[name] = max(was, now, key=lambda held: held["resident"]) if was else now
        done = self.soak(harness.pick(9, 120))
        self.assertGreater(done[0], 10, done)
        settled(self, "sessions", lambda: self.show("sessions"), lambda rows: not rows)
        for pid, name in pids.items():
            was = before[name]
            settled(self, f"{name} {pid}, which held {was}", lambda p=pid: held_of_berth(p),
                    lambda now, w=was: all(n <= w["fds"].get(k, 0) + 8 for k, n in now["fds"].items()) and
                    now["maps"] <= w["maps"] + 30 and now["resident"] <= w["resident"] * 1.3 + 8192)
        for name, server in servers.items():
            self.assertTrue(server.running(), repr(server))


NGINX = """
daemon off; master_process on; worker_processes 2; pid {dir}/nginx.pid; error_log {dir}/error.log info;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; root {dir}/www; server {{ listen 127.0.0.1:{port}; }}
client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4;
scgi_temp_path {dir}/t5; }}
"""

MEMCACHED = """
import os, random, socket, sys
from slowness import slow
r = random.Random(int(sys.argv[2]))
def line(f):
    return f.readline().rstrip()
for _ in range(5):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(10)) as s, s.makefile("rb") as f:
        for i in range(r.choice((1, 100))):
            key = b"k%d" % r.randrange(1 << 40)
            data = os.urandom(r.choice((1, 100, 5000, 200000)))
            s.sendall(b"set %s 0 0 %d\\r\\n%s\\r\\n" % (key, len(data), data))
            assert line(f) == b"STORED"
            s.sendall(b"get %s\\r\\n" % key)
            assert line(f) == b"VALUE %s 0 %d" % (key, len(data))
            assert f.read(len(data) + 2) == data + b"\\r\\n"
            assert line(f) == b"END"
"""


if __name__ == "__main__":
    harness.main()
