"""Listeners that go from one program to the next: upgrades under load, and a service started by its first connection."""

import os
import shutil
import signal

import harness
from servers import HAPROXY

PYTHON = "/usr/bin/python3"

# A request per connection, one after the other, until it is told to stop; what went wrong, and who answered how often.
LOAD = """
import collections, select, socket, sys
from slowness import slow
answers = collections.Counter()
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(10)) as s:
            s.settimeout(slow(10))
            s.sendall(b"GET /name HTTP/1.0\\r\\n\\r\\n")
            answers[s.makefile("rb").read().split(b"\\r\\n\\r\\n")[-1].decode()] += 1
    except OSError as e:
        answers[repr(e)] += 1
print(dict(answers), flush=True)
"""

NGINX = """
worker_processes 2; pid {dir}/nginx.pid; error_log {dir}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
    fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    server {{ listen 127.0.0.1:{port}; location /name {{ return 200 "well"; }} }}
}}
"""

ADMIN = "stats socket {dir}/stats mode 600 level admin expose-fd listeners"

# By systemd's protocol: the listener is descriptor 3.
SERVICE = """
import socket
listener = socket.socket(fileno=3)
while True:
    s, _ = listener.accept()
    with s:
        s.recv(1000)
        s.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nwell")
"""

# uvicorn's workers are spawned, and accept from the listener that came with them.
ASGI = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b"well"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4"), (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
"""


@harness.needs_preload
class Handover(harness.TestCase):
    limit = 60

    def setUp(self):
        super().setUp()
        self.daemon()
        self.port = self.free_port()

    def worlds(self):
        return ((self.start_under, self.start_under), (self.start_under, self.start), (self.start, self.start_under))

    def load(self, start):
        read, write = os.pipe()
        load = start(PYTHON, "-c", LOAD, self.port, stdin=read)
        os.close(read)
        self.wait_until(lambda: "begun" in load.out, "the first request", 30)
        return load, write

    def answers(self, load, write):
        os.write(write, b"x")
        os.close(write)
        load.wait(30)
        return eval(load.out.split("begun\n", 1)[1])  # what LOAD printed

    def pid_in(self, name):
        try:
            with open(os.path.join(self.scratch, name)) as f:
                return int(f.read())
        except (OSError, ValueError):
            return 0

    @harness.needs("nginx")
    def test_nginx_upgrades_its_binary(self):
        for server, client in self.worlds():
            self.port = self.free_port()
            self.file("nginx.conf", NGINX.format(dir=self.scratch, port=self.port))
            # by its path: it executes itself again
            master = server(shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"), "-c", os.path.join(self.scratch, "nginx.conf"), "-p", self.scratch, "-e", "stderr")
            self.wait_listening(self.port)
            self.wait_until(lambda: self.pid_in("nginx.pid"), "nginx")
            old = self.pid_in("nginx.pid")
            load, write = self.load(client)
            os.kill(old, signal.SIGUSR2)
            self.wait_until(lambda: self.pid_in("nginx.pid") not in (0, old), "the new master", 30)
            new = self.pid_in("nginx.pid")
            os.kill(old, signal.SIGWINCH)  # its workers leave when they are done, and it stays
            self.wait_settled(lambda: len(harness.children_of(old)), "the old workers")
            os.kill(old, signal.SIGQUIT)
            self.wait_until(lambda: not harness.children_of(old) and not os.path.exists(f"/proc/{old}/exe"), "the old master", 30)
            answers = self.answers(load, write)
            self.assertEqual(list(answers), ["well"], f"{answers}\n{master}")
            os.kill(new, signal.SIGQUIT)
            self.wait_until(lambda: not os.path.exists(f"/proc/{new}/exe"), "the new master's end", 30)

    @harness.needs("nginx")
    def test_nginx_reloads(self):
        """Old workers end with what they have accepted; what is in the queue is the new ones'."""
        for server, client in self.worlds():
            self.port = self.free_port()
            self.file("nginx.conf", NGINX.format(dir=self.scratch, port=self.port))
            master = server("nginx", "-g", "daemon off;", "-c", os.path.join(self.scratch, "nginx.conf"), "-p", self.scratch, "-e", "stderr")
            self.wait_listening(self.port)
            self.wait_until(lambda: self.pid_in("nginx.pid"), "nginx")
            pid = self.pid_in("nginx.pid")
            self.wait_until(lambda: len(harness.children_of(pid)) == 2, "its workers")
            loads = [self.load(client) for _ in range(4)]
            for _ in range(4):
                before = set(harness.children_of(pid))
                os.kill(pid, signal.SIGHUP)
                self.wait_until(lambda: not before & set(harness.children_of(pid)), "the end of the old workers", 30)
            for load, write in loads:
                answers = self.answers(load, write)
                self.assertEqual(list(answers), ["well"], f"{answers}\n{master}")
            os.kill(pid, signal.SIGQUIT)
            master.wait(30)

    def haproxy(self, name):
        settings = ADMIN.format(dir=self.scratch)
        return self.file(name + ".cfg", HAPROXY.format(settings=settings, port=self.port, name=name))

    @harness.needs("haproxy")
    def test_haproxy_reloads(self):
        for server, client in self.worlds():
            self.port = self.free_port()
            first = server("haproxy", "-db", "-f", self.haproxy("one"))
            self.wait_listening(self.port, first)
            load, write = self.load(client)
            second = server("haproxy", "-db", "-f", self.haproxy("two"),
                            "-x", os.path.join(self.scratch, "stats"), "-sf", first.pid)
            first.wait(30)
            self.wait_until(lambda: second.running(), "the second")
            answers = self.answers(load, write)
            self.assertLessEqual(set(answers), {"one", "two"}, f"{answers}\n{first}\n{second}")
            load, write = self.load(client)
            self.assertEqual(list(self.answers(load, write)) or ["two"], ["two"])
            second.stop()

    @harness.needs("systemd-socket-activate")
    def test_a_service_is_started_by_its_first_connection(self):
        for server, client in self.worlds():
            self.port = self.free_port()
            service = server("systemd-socket-activate", "-l", f"127.0.0.1:{self.port}", PYTHON, "-c", SERVICE)
            self.wait_listening(self.port)
            load, write = self.load(client)
            self.wait_until(lambda: "python" in os.readlink(f"/proc/{service.pid}/exe"), "the service", 30)
            answers = self.answers(load, write)
            self.assertEqual(list(answers), ["well"], f"{answers}\n{service}")
            service.stop()

    @harness.needs("uvicorn")
    def test_uvicorns_workers_accept(self):
        self.file("service.py", ASGI)
        for server, client in self.worlds():
            self.port = self.free_port()
            service = server(PYTHON, "-m", "uvicorn", "--workers", "2", "--no-access-log", "--app-dir", self.scratch,
                             "--port", self.port, "service:app")
            self.wait_listening(self.port)
            self.wait_until(lambda: service.err.count("startup complete") == 2, "two workers", 40)
            load, write = self.load(client)
            self.wait_settled(lambda: load.running(), "some requests", 0.5)
            answers = self.answers(load, write)
            self.assertEqual(list(answers), ["well"], f"{answers}\n{service}")
            service.stop()


if __name__ == "__main__":
    harness.main()
