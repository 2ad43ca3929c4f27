"""The preload library: the same calls give the same answers, and real programs run on it, whichever end is under berth."""

import hashlib
import os
import re
import signal
import time

import harness

CONFORM = os.path.join(harness.BUILD, "tests", "e2e", "conform")

NGINX = """
daemon off; master_process on; worker_processes 2; pid {dir}/nginx.pid; error_log {dir}/error.log info;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; root {dir}/www; server {{ listen 127.0.0.1:{port}; }}
client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4;
scgi_temp_path {dir}/t5; }}
"""


@harness.needs_preload
class Calls(harness.TestCase):
    def test_each_call_answers_as_on_the_kernel(self):
        self.daemon()
        plain = self.run_program(CONFORM, seconds=30)
        self.assertEqual(plain.code, 0, repr(plain))
        self.assertGreater(plain.out.count("\n"), 300, repr(plain))
        under = self.run_under(CONFORM, seconds=30)
        self.assertEqual(under.code, 0, repr(under))
        self.assertEqual(plain.out.splitlines(), under.out.splitlines())

    def test_without_a_daemon_nothing_changes(self):
        plain = self.run_program(CONFORM, seconds=30)
        preloaded = self.run_program(CONFORM, seconds=30, env={"LD_PRELOAD": harness.SHIM})
        self.assertEqual(preloaded.code, 0, repr(preloaded))
        self.assertEqual(plain.out.splitlines(), preloaded.out.splitlines())


@harness.needs_preload
class Programs(harness.TestCase):
    """Each server under berth and not, with each client under berth and not."""

    def starters(self):
        return (("kernel", self.start, self.run_program), ("berth", self.start_under, self.run_under))

    def each_pair(self, serve, ask):
        self.daemon()
        for server_name, start, _ in self.starters():
            port = self.free_port()
            server = serve(start, port)
            self.wait_listening(port, server)
            for client_name, _, run in self.starters():
                with self.subTest(server=server_name, client=client_name):
                    ask(run, port)
            server.kill(signal.SIGTERM)
            server.wait(10)

    def www(self):
        www = os.path.join(self.scratch, "www")
        os.makedirs(www)
        data = os.urandom(3_000_000)
        with open(os.path.join(www, "big"), "wb") as f:
            f.write(data)
        os.chmod(self.scratch, 0o755)
        return www, hashlib.sha256(data).hexdigest()

    @harness.needs("redis-server", "redis-cli", "redis-benchmark")
    def test_redis(self):
        def serve(start, port):
            return start("redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1")

        def ask(run, port):
            cli = ("redis-cli", "-p", str(port))
            value = "x" * 100_000
            self.assertEqual(run(*cli, "-x", "set", "k", stdin=value).out, "OK\n")
            self.assertEqual(run(*cli, "get", "k").out, value + "\n")
            done = run("redis-benchmark", "-p", str(port), "-n", "5000", "-q", "-t", "set,get", "-P", "4")
            self.assertEqual(done.code, 0, repr(done))
            self.assertEqual(len(re.findall(r"requests per second", done.out)), 2, repr(done))
        self.each_pair(serve, ask)

    @harness.needs("nginx", "curl", "wrk")
    def test_nginx(self):
        _, want = self.www()

        def serve(start, port):
            conf = self.file(f"nginx-{port}.conf", NGINX.format(dir=self.scratch, port=port))
            return start(harness.which("nginx"), "-p", self.scratch, "-c", str(conf))

        def ask(run, port):
            copy = os.path.join(self.scratch, "copy")
            done = run("curl", "-s", "-S", "-o", copy, f"http://127.0.0.1:{port}/big")
            self.assertEqual(done.code, 0, repr(done))
            with open(copy, "rb") as f:
                self.assertEqual(hashlib.sha256(f.read()).hexdigest(), want)
            done = run("wrk", "-t1", "-c16", "-d1", f"http://127.0.0.1:{port}/none")
            self.assertEqual(done.code, 0, repr(done))
            self.assertNotIn("Socket errors", done.out)
            self.assertGreater(float(re.search(r"Requests/sec: *([0-9.]+)", done.out)[1]), 1000, repr(done))
        self.each_pair(serve, ask)

    @harness.needs("iperf3")
    def test_iperf3(self):
        def serve(start, port):
            return start("iperf3", "-s", "-p", str(port))

        def ask(run, port):
            for more in ((), ("-R",), ("-P", "4", "-Z"), ("-P", "4", "-R")):
                for _ in range(5):
                    done = run("iperf3", "-c", "127.0.0.1", "-p", str(port), "-n", "100M", "-J", *more)
                    self.assertEqual(done.code, 0, repr(done))
                    if "control message" not in done.json().get("error", ""):
                        break  # else it came while the server, between two tests, closed its listener to open another
                    time.sleep(0.2)
                self.assertIn("sum_received", done.json()["end"], repr(done))
                self.assertGreaterEqual(done.json()["end"]["sum_received"]["bytes"], 50_000_000) # the kernel's end may stop counting early
        self.each_pair(serve, ask)

    @harness.needs("memcached")
    def test_memcached(self):
        script = ("import socket,sys\n"
                  "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)\n"
                  "f = s.makefile('rwb')\n"
                  "f.write(b'set a 0 0 50000\\r\\n' + b'v' * 50000 + b'\\r\\nget a\\r\\n'); f.flush()\n"
                  "assert f.readline() == b'STORED\\r\\n'\n"
                  "assert f.readline() == b'VALUE a 0 50000\\r\\n'\n"
                  "assert f.read(50000) == b'v' * 50000\n"
                  "print('good')\n")

        def serve(start, port):
            return start("memcached", "-u", "root" if os.geteuid() == 0 else "nobody", "-l", "127.0.0.1", "-p", str(port),
                         "-U", "0", "-t", "2")

        def ask(run, port):
            done = run("/usr/bin/python3", "-c", script, str(port))
            self.assertEqual(done.out, "good\n", repr(done))
        self.each_pair(serve, ask)

    def test_python(self):
        www, want = self.www()
        script = ("import hashlib,sys,urllib.request\n"
                  "for i in range(3):\n"
                  "    data = urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[1]}/big', timeout=10).read()\n"
                  "    print(hashlib.sha256(data).hexdigest())\n")

        def serve(start, port):
            return start("/usr/bin/python3", "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", www)

        def ask(run, port):
            done = run("/usr/bin/python3", "-c", script, str(port))
            self.assertEqual(done.out.split(), [want] * 3, repr(done))
        self.each_pair(serve, ask)


SERVER = """
import os, selectors, socket, sys
s = socket.socket()
s.bind(("127.0.0.1", int(sys.argv[2])))
if sys.argv[1] == "chroot":
    os.chroot(sys.argv[3])
s.listen(8)
if os.fork():
    os.wait()
    sys.exit()
if sys.argv[1] == "setuid":
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sel = selectors.EpollSelector()
sel.register(s, selectors.EVENT_READ)
served = 0
while True:
    for key, _ in sel.select():
        if key.fileobj is s:
            sel.register(s.accept()[0], selectors.EVENT_READ)
            continue
        data = key.fileobj.recv(100)
        if not data:
            sys.exit()
        key.fileobj.send(data)
"""

CLIENT = """
import selectors, socket, sys, time
from slowness import slow
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(5))
s.setblocking(False)
sel = selectors.EpollSelector()
sel.register(s, selectors.EVENT_READ)
times = []
for i in range(60):
    before = time.monotonic()
    s.send(b"%d" % i)
    sel.select()
    assert s.recv(100) == b"%d" % i
    times.append(time.monotonic() - before)
print(sorted(times)[len(times) // 2])
"""


@harness.needs_preload_into_python
@harness.needs_root
class Privileges(harness.TestCase):
    """Who was root and is not any more, or has no /proc to open anything by, still wakes its peers, and they it."""

    def asleep(self, how):
        self.daemon()
        port = self.free_port()
        env = {"BERTH_SPIN_US": "0"}  # each message has to wake somebody
        server = self.start_under("/usr/bin/python3", "-c", SERVER, how, port, self.scratch, env=env)
        self.wait_listening(port, server)
        done = self.run_under("/usr/bin/python3", "-c", CLIENT, port, env=env)
        self.assertEqual(done.code, 0, repr(done))
        self.assertLess(float(done.out), harness.slow(0.02), f"{how}: as if nobody was woken: {done!r}")
        self.assertEqual(server.wait(10), 0, repr(server))

    def test_worker_that_is_root_no_more(self):
        self.asleep("setuid")

    def test_worker_without_proc(self):
        self.asleep("chroot")


if __name__ == "__main__":
    harness.main()
