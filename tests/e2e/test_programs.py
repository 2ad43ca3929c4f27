"""A user's day: programs that people run on one host, both ends under berth and each end alone on the kernel."""

import hashlib
import os

import harness
from servers import NGINX

PYTHON = "/usr/bin/python3"

# Many short connections, one after the other; prints what they were answered.
MANY = """
import collections, socket, sys
from slowness import slow
answers = collections.Counter()
for _ in range(int(sys.argv[2])):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(10)) as s:
        s.settimeout(slow(20))
        s.sendall(b"abc\\n")
        answers[s.makefile("rb").read()] += 1
print(dict(answers))
"""

# A one-shot listener fires once, whichever world the connection comes from, and again only when it is armed again.
ONE_SHOT = """
import itertools, os, select, socket, subprocess, sys, time
from slowness import slow
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64)
listener.setblocking(False)
once = select.EPOLLIN | select.EPOLLONESHOT
ep = select.epoll()
ep.register(listener, once)
CALL = f"import socket, sys; s = socket.create_connection(('127.0.0.1', {sys.argv[1]}), 5); print(flush=True); sys.stdin.read()"

def call(world):
    env = {k: v for k, v in os.environ.items() if world == "berth" or k != "LD_PRELOAD"}
    caller = subprocess.Popen([sys.executable, "-c", CALL], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert caller.stdout.readline() == b"\\n"
    return caller

def accept():
    end = time.monotonic() + slow(5)
    while time.monotonic() < end:
        try:
            return listener.accept()[0]
        except BlockingIOError:
            time.sleep(0.001)
    raise AssertionError("no connection")

for first, second in itertools.product(("kernel", "berth"), repeat=2):
    callers = [call(first)]
    events = ep.poll(slow(5))
    assert events == [(listener.fileno(), select.EPOLLIN)], (first, second, events)
    callers.append(call(second))
    assert ep.poll(0.1) == [], (first, second, "fired twice")
    ep.modify(listener, once)
    events = ep.poll(slow(5))
    assert len(events) == 1, (first, second, events)
    sessions = [accept(), accept()]
    assert ep.poll(0.05) == [], (first, second, "fired without being armed")
    ep.modify(listener, once)
    begin = time.process_time()
    assert ep.poll(0.3) == [], (first, second, "nobody is there")
    assert time.process_time() - begin < 0.2, "it spins"
    for c in callers:
        c.communicate(b"")
    for s in sessions:
        s.close()
print("good")
"""

WSGI = """
def app(env, start):
    body = env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0))
    start("200 OK", [("Content-Type", "text/plain")])
    return [body or b"hello world\\n"]
"""

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server nginx 127.0.0.1:{behind} check inter 200ms
"""


@harness.needs_preload
class Programs(harness.TestCase):
    limit = 110

    def setUp(self):
        super().setUp()
        self.daemon()
        self.data = os.urandom(3_000_000)
        self.file("big", self.data)
        self.sum = hashlib.md5(self.data).hexdigest()

    def pairs(self):
        """(start, run) for the server's and the client's world."""
        under, kernel = (self.start_under, self.run_under), (self.start, self.run_program)
        return ((under[0], under[1]), (under[0], kernel[1]), (kernel[0], under[1]))

    def ok(self, done):
        self.assertEqual(done.code, 0, repr(done))
        return done

    def got(self, name="got"):
        with open(os.path.join(self.scratch, name), "rb") as f:
            return f.read()

    def exec_server(self, *command, answer):
        for start, run in self.pairs():
            port = self.free_port()
            server = start(*(str(word).format(port=port) for word in command))
            self.wait_listening(port, server)
            done = self.ok(run(PYTHON, "-c", MANY, port, 100))
            self.assertEqual(done.out.strip(), repr({answer: 100}), f"{done}\n{server}")
            server.stop()

    @harness.needs("ncat")
    def test_ncat_executes_a_command_for_each_connection(self):
        self.exec_server("ncat", "-lk", "127.0.0.1", "{port}", "-c", "echo hello", answer=b"hello\n")

    @harness.needs("socat")
    def test_socat_executes_a_program_for_each_connection(self):
        self.exec_server("socat", "TCP-LISTEN:{port},fork,bind=127.0.0.1,reuseaddr", "SYSTEM:read line; echo hello",
                         answer=b"hello\n")

    @harness.needs("socat", "md5sum")
    def test_socat_half_closes(self):
        for start, run in self.pairs():
            port = self.free_port()
            server = start("socat", f"TCP-LISTEN:{port},fork,bind=127.0.0.1,reuseaddr", "EXEC:md5sum")
            self.wait_listening(port, server)
            for _ in range(5):
                done = self.ok(run("socat", "-t10", "-", f"TCP:127.0.0.1:{port}", stdin=self.data))
                self.assertIn(self.sum, done.out, repr(done))
            server.stop()

    @harness.needs("haproxy", "nginx", "curl")
    def test_haproxy_in_front_of_nginx(self):
        for start, run in self.pairs():
            port, behind = self.free_port(), self.free_port()
            nginx = start("nginx", "-e", "stderr", "-c", self.file("nginx.conf", NGINX.format(dir=self.scratch, port=behind)))
            self.wait_listening(behind, nginx)
            proxy = start("haproxy", "-db", "-f", self.file("haproxy.cfg", HAPROXY.format(port=port, behind=behind)))
            self.wait_listening(port, proxy)
            self.ok(run("curl", "-sS", "--fail", "--retry", "5", "--retry-connrefused", "--retry-delay", "1",
                        f"http://127.0.0.1:{port}/big", "-o", "got"))
            self.assertEqual(self.got(), self.data)
            self.ok(run("curl", "-sS", "--fail", "-Z", "--parallel-max", "20", f"http://127.0.0.1:{port}/big?[1-40]", "-o", "got#1"))
            for i in range(1, 41):
                self.assertEqual(self.got(f"got{i}"), self.data, i)
            proxy.stop()
            nginx.stop()

    @harness.needs("gunicorn", "curl")
    def test_gunicorn_with_three_workers(self):
        self.file("hello.py", WSGI)
        for start, run in self.pairs():
            port = self.free_port()
            server = start("gunicorn", "-w", "3", "-b", f"127.0.0.1:{port}", "--chdir", self.scratch, "hello:app")
            self.wait_listening(port, server)
            for _ in range(3):
                self.ok(run("curl", "-sS", "--fail", "--data-binary", "@big", f"http://127.0.0.1:{port}/", "-o", "got"))
                self.assertEqual(self.got(), self.data)
            self.ok(run("curl", "-sS", "--fail", "-Z", "--parallel-max", "20", f"http://127.0.0.1:{port}/[1-60]", "-o", "got#1"))
            for i in range(1, 61):
                self.assertEqual(self.got(f"got{i}"), b"hello world\n", i)
            server.stop()

    @harness.needs("redis-server", "redis-cli")
    def test_redis_with_a_replica(self):
        fill = "for i = 1, 20000 do redis.call('set', i, string.rep('v', i % 300)) end"
        for start, run in self.pairs():
            port, second = self.free_port(), self.free_port()

            def redis(at, *more, start=start):
                server = start("redis-server", "--port", at, "--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay",
                               "0", "--dir", self.scratch, "--dbfilename", f"{at}.rdb", *more)
                self.wait_listening(at, server)
                return server

            def ask(at, *words, run=run):
                return self.ok(run("redis-cli", "-p", at, *words)).out.strip()
            first = redis(port)
            ask(port, "eval", fill, "0")
            replica = redis(second, "--replicaof", "127.0.0.1", port)
            self.wait_until(lambda: ask(second, "dbsize") == "20000", "the replica", 20)
            ask(port, "set", "late", "x")
            self.assertEqual(ask(port, "wait", "1", "5000"), "1")
            self.assertEqual(ask(second, "get", "late"), "x")
            replica.stop()
            first.stop()

    def test_one_shot_listener_in_both_worlds(self):
        done = self.ok(self.run_under(PYTHON, "-c", ONE_SHOT, self.free_port()))
        self.assertIn("good", done.out, repr(done))


if __name__ == "__main__":
    harness.main()
