"""Programs that become another user: nothing that the lesser user can write is trusted by the greater, and it stays fast."""

import os
import pwd

import harness
from servers import HAPROXY, NGINX

DELAYS = os.path.exists(os.path.join(harness.BUILD, "tests", "stress", "delays"))
PYTHON = "/usr/bin/python3"

APACHE = """
ServerRoot {dir}
ServerName localhost
PidFile {dir}/httpd.pid
Mutex file:{dir} default
LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
LoadModule authz_core_module {modules}/mod_authz_core.so
User {user}
Group {group}
Listen 127.0.0.1:{port}
StartServers 3
DocumentRoot {dir}
ErrorLog /dev/stderr
"""
APACHE_MODULES = "/usr/lib/apache2/modules"

# What a process has mapped writable together with others: {inode: [start, end, name]}.
MAPS = """
import ctypes, errno, json, mmap, os, signal, socket, stat, struct, sys, time
from slowness import slow
from streams import exact

def shared_maps(pid="self"):
    found = {}
    with open(f"/proc/{pid}/maps") as f:
        for line in f:
            words = line.split(None, 5)
            if words[1][3] == "s" and words[1][1] == "w":
                start, end = (int(x, 16) for x in words[0].split("-"))
                found[words[4]] = [start, end, words[5].strip() if len(words) > 5 else ""]
    return found
"""

# A master that is root, with a connection and a listener; a worker of it that becomes nobody and then does all that it can.
ATTACK = MAPS + """
port, uid = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
listener = socket.create_server(("127.0.0.1", port), backlog=64)
print("listening", flush=True)
held = listener.accept()[0]                       # the client talks to the master on it all the time
spoils, told = os.pipe()

def attack(master):
    done = {}
    mine = shared_maps()
    done["maps"] = mine
    # the master's memory, by all its names
    opened = []
    for place in (f"/proc/{master}/mem", f"/proc/{master}/map_files", f"/proc/{master}/fd", f"/proc/{master}/maps", f"/proc/{master}/environ"):
        try:
            os.listdir(place) if os.path.isdir(place) else os.close(os.open(place, os.O_RDONLY))
            opened.append(place)
        except OSError:
            pass
    done["opened"] = opened
    class Iov(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
    junk = ctypes.create_string_buffer(b"\\xff" * 4096, 4096)
    here, there = Iov(ctypes.addressof(junk), 4096), Iov(held_at, 4096)
    done["written"] = libc.process_vm_writev(master, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    done["traced"] = libc.ptrace(16, master, 0, 0)
    # all descriptors: what a file of memory is it tries to map writable; flags are the description's
    memory, types = {}, {}
    for fd in range(3, 4096):
        try:
            st = os.fstat(fd)
        except OSError:
            continue
        types[fd] = st.st_mode
        if stat.S_ISREG(st.st_mode):
            try:
                mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).close()
                memory[fd] = st.st_ino
            except (OSError, ValueError):
                pass
    done["mapped"] = memory
    # the control socket: to be root's again, to listen in root's name, to speak for the dead, to change the daemon
    control = [fd for fd in types if stat.S_ISSOCK(types[fd]) and
               libc.getsockopt(fd, socket.SOL_SOCKET, socket.SO_TYPE, ctypes.byref(kind := ctypes.c_int()), ctypes.byref(ctypes.c_int(4))) == 0
               and kind.value == socket.SOCK_SEQPACKET]
    done["control"] = len(control)
    s = socket.socket(fileno=os.dup(control[0])) if control else None
    def ask(kind, body, fds=(), seq=77):
        s.setblocking(False)
        header = struct.pack("=HHIiI", kind, 16 + len(body), seq, 0, 0)
        socket.send_fds(s, [header + body], list(fds))
        for _ in range(int(slow(2) * 1000)):
            try:
                got, gfds, *_ = socket.recv_fds(s, 4096, 8)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            for fd in gfds:
                os.close(fd)
            if len(got) < 16:
                return None
            type_, _, got_seq, status, _ = struct.unpack("=HHIiI", got[:16])
            if got_seq == seq:
                return status
        return "silent"
    if s:
        r, w = os.pipe()
        listen = bytes(10) + b"\\xff\\xff\\x7f\\0\\0\\1" + struct.pack("=HBBIQQ", 22, 6, 4, 8, 1, 0)
        done["listen"] = ask(CTL["LISTEN"], listen, [w])
        done["pause"] = ask(CTL["PAUSE"], b"")
        for member in (0, 1, 2, 3):               # "my children", which then end
            a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            socket.send_fds(s, [struct.pack("=HHIiIIIII", CTL["CHILD"], 32, 0, 0, 0, member, 0, 0, 0)], [a.fileno()])
            a.close()
            b.close()
        done["detach"] = ask(CTL["DETACH"], b"")
        page = os.memfd_create("page", os.MFD_ALLOW_SEALING)
        net = socket.socket()
        hello = struct.pack("=IIII64s64s128sQQQ", MAGIC, VERSION, 1, 0, b"evil", b"", b"", 0, 0, 0)
        done["hello"] = ask(CTL["HELLO"], hello, [net.fileno(), page])
    os.write(told, json.dumps(done).encode())
    # and then it scribbles: over all it can write, into all it has open, with all flags turned round
    for fd in types:
        try:
            os.set_blocking(fd, True)
            if stat.S_ISFIFO(types[fd]) and fd > told:
                os.set_blocking(fd, False)
                for _ in range(600):
                    os.write(fd, os.urandom(64))
        except OSError:
            pass
        try:
            os.set_blocking(fd, True)
        except OSError:
            pass
    for start, end, name in mine.values():
        for at in range(start, end, 4096):
            if libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(4096), ctypes.byref(ctypes.c_char())) == 0 and end - start < 1 << 26:
                ctypes.memset(at, 0xff, 4096)
    os._exit(0)

held_at = id(held)
first = os.fork()
if first == 0:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    held.close()
    c = listener.accept()[0]                      # it serves first, as a worker does
    c.sendall(exact(c, 5))
    c.close()
    libc.prctl(4, 1, 0, 0, 0)                     # dumpable, as nginx makes itself
    attack(os.getppid())
pid, status = os.waitpid(first, 0)
os.set_blocking(spoils, False)
told_me = json.loads(os.read(spoils, 65536) or b"null")
ours = shared_maps()
told_me["common"] = sorted(set(ours) & set(told_me["maps"]))
told_me["common_files"] = sorted({os.stat(f"/proc/self/map_files/{e}").st_ino for e in os.listdir("/proc/self/map_files")} & set(told_me["mapped"].values()))
told_me["status"] = status
print(json.dumps(told_me), flush=True)
while data := held.recv(65536):                   # what the client says on the old connection comes back
    held.sendall(data)
for _ in range(20):
    c = listener.accept()[0]
    c.sendall(exact(c, 5))
    c.close()
print("good", flush=True)
"""

CLIENT = MAPS + """
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(20))
def once(n):
    c = socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(20))
    c.sendall(b"%05d" % n)
    assert exact(c, 5) == b"%05d" % n
    c.close()
once(0)                                           # the worker
print("served", flush=True)
sys.stdin.readline()
for n in range(50):
    block = bytes((n * 7 + i * i) % 251 for i in range(20000))
    s.sendall(block)
    assert exact(s, 20000) == block, n
s.close()
for n in range(20):
    once(n)
print("good", flush=True)
"""

HOLD = """
import socket, sys
from slowness import slow
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(20))
print("there", flush=True)
sys.stdin.readline()
"""

# A server of the kind of inetd: a child for each connection, which has it as 0, 1 and 2, becomes another user and then serves or executes.
INETD = """
import os, signal, socket, sys
port, uid, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
listener = socket.create_server(("127.0.0.1", port), backlog=64)
print("listening", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    c = listener.accept()[0]
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        for fd in (0, 1, 2):
            os.dup2(c.fileno(), fd)
        c.close()
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        if program:
            os.execvp(program[0], program)
        os.write(1, b"%d\\n" % os.getuid())
        while data := os.read(0, 65536):
            os.write(1, data)
        os._exit(0)
    c.close()
"""

INETD_CLIENT = """
import socket, sys
from slowness import slow
for n in range(int(sys.argv[3])):
    c = socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(20))
    block = bytes((n + i * i) % 251 for i in range(1 + n % 7 * 9000))
    c.sendall(block)
    c.shutdown(socket.SHUT_WR)
    got = b""
    while part := c.recv(65536):
        got += part
    assert got == sys.argv[2].encode() + b"\\n" + block, (n, got[:50], len(got), len(block))
print("good")
"""

# One connection for each request, by eight threads, until they are told to stop. Every one must be answered.
REQUESTS = """
import socket, sys, threading
from slowness import slow
over, counts = threading.Event(), [0] * 8
def run(i):
    while not over.is_set():
        c = socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(20))
        c.sendall(b"GET /hello HTTP/1.0\\r\\n\\r\\n")
        got = b""
        while part := c.recv(65536):
            got += part
        c.close()
        assert got.startswith(b"HTTP/1.1 200") and got.endswith(b"hello"), got
        counts[i] += 1
threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
for t in threads:
    t.start()
print("begun", flush=True)
sys.stdin.readline()
over.set()
for t in threads:
    t.join()
print("all good" if all(counts) else counts, flush=True)
"""

# A worker becomes another user while the daemon is stopped or gone.
WITHOUT = MAPS + """
port, uid, may_end = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "may end"
listener = socket.create_server(("127.0.0.1", port), backlog=64)
print("listening", flush=True)
held = [listener.accept()[0] for _ in range(2)]
for c in held:
    c.sendall(exact(c, 5))
print("held", flush=True)
sys.stdin.readline()                              # the daemon is in the state that it shall be in
pid = os.fork()
if pid == 0:
    began = time.monotonic()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    assert time.monotonic() - began < slow(8), time.monotonic() - began
    held[1].close()
    try:
        held[0].sendall(exact(held[0], 5))
    except OSError:
        assert may_end
    c = listener.accept()[0]
    c.sendall(exact(c, 5))
    c.close()
    os._exit(0)
held[0].close()
held[1].sendall(exact(held[1], 5))
print(os.waitpid(pid, 0)[1], flush=True)
held[1].sendall(exact(held[1], 5))
"""

TWO = MAPS + """
def ask(s, what):
    s.sendall(what)
    assert exact(s, 5) == what, what
s = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), slow(20)) for _ in range(2)]
ask(s[0], b"first")
ask(s[1], b"other")
print("asked", flush=True)
sys.stdin.readline()
try:
    ask(s[0], b"again")
except OSError:
    assert sys.argv[2] == "may end"
ask(s[1], b"more.")
sys.stdin.readline()
ask(s[1], b"last.")
print("good", flush=True)
"""

# Kills a worker on its way from one user to the other, at a moment that is another one each time.
KILLS = MAPS + """
port, uid, rounds = (int(x) for x in sys.argv[1:4])
listener = socket.create_server(("127.0.0.1", port), backlog=64)
inside = socket.create_connection(("127.0.0.1", port))
outside = listener.accept()[0]
for n in range(rounds):
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(go_w, b"x")
        os.setresuid(uid, uid, uid)
        while True:
            c = listener.accept()[0]
            c.sendall(b"worker")
            c.close()
    os.read(go_r, 1)
    end = time.monotonic() + (n % 40) * 0.0002
    while time.monotonic() < end:
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(go_r)
    os.close(go_w)
    outside.sendall(b"%05d" % n)
    assert exact(inside, 5) == b"%05d" % n
    c = socket.create_connection(("127.0.0.1", port), slow(10))
    s = listener.accept()[0]
    s.sendall(b"master")
    assert exact(c, 6) == b"master"
    c.close()
    s.close()
inside.close()
assert outside.recv(1) == b""
print("good", flush=True)
"""

# A child ends at its first store on its way from one user to the other, at its second, and so on until it gets there. Its parent,
# whose connections are of the same family, must not mind.
FAULTS = MAPS + """
port, uid, step = (int(x) for x in sys.argv[1:4])
listener = socket.create_server(("127.0.0.1", port), backlog=64)
inside = socket.create_connection(("127.0.0.1", port))
outside = listener.accept()[0]
other = socket.create_connection(("127.0.0.1", port))
theirs = listener.accept()[0]
died = lived = 0
n = 0
while lived < 3:
    n += 1 + n * step // 100
    os.environ["BERTH_FAULT_STORE"] = str(n)
    pid = os.fork()
    if pid == 0:
        os.setresuid(uid, uid, uid)
        other.sendall(b"x")
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    died += status != 0
    lived += status == 0
    if status == 0:
        assert exact(theirs, 1) == b"x"
    outside.sendall(b"%05d" % n)
    assert exact(inside, 5) == b"%05d" % n
    c = socket.create_connection(("127.0.0.1", port))
    s = listener.accept()[0]
    s.sendall(b"master")
    assert exact(c, 6) == b"master"
    c.close()
    s.close()
print(died, n, "good", flush=True)
"""


@harness.needs_root
@harness.needs_preload
class Users(harness.TestCase):
    limit = 100

    def setUp(self):
        super().setUp()
        os.chmod(self.runtime_dir, 0o755)
        self.running_daemon = self.daemon()
        self.port = self.free_port()
        self.nobody = pwd.getpwnam("nobody").pw_uid

    def uid_of(self, pid):
        with open(f"/proc/{pid}/status") as f:
            return int(f.read().split("Uid:")[1].split()[0])

    def family_maps(self, pid):
        """Inodes of what the process can write together with others."""
        with open(f"/proc/{pid}/maps") as f:
            lines = [line.split() for line in f]
        return {words[4] for words in lines if words[1].startswith("rw-s") and
                ("berth" in line_name(words) or int(words[0].split("-")[1], 16) - int(words[0].split("-")[0], 16) > 1 << 26)}

    def apart(self, server, workers):
        """The workers are another user, and have no memory of berth's in common with the server, nor with each other."""
        seen = self.family_maps(server)
        self.assertTrue(seen)
        for pid in workers:
            self.assertEqual(self.uid_of(pid), self.nobody)
            theirs = self.family_maps(pid)
            self.assertEqual(seen & theirs, set(), pid)
            seen |= theirs

    def test_a_worker_that_attacks_its_master(self):
        import fake_app
        program = f"CTL = {fake_app.CTL!r}\nMAGIC, VERSION = {fake_app.MAGIC}, {fake_app.VERSION}\n" + ATTACK
        master = self.start_under(PYTHON, "-c", program, self.port, self.nobody)
        self.wait_listening(self.port, master)
        client = self.start_under(PYTHON, "-c", CLIENT, self.port, stdin=harness.subprocess.PIPE)
        self.wait_until(lambda: "maps" in master.out or not master.running(), "the attack", 40)
        self.assertTrue(master.running(), f"{master}\n{client}")
        import json
        did = json.loads(master.out.splitlines()[1])
        self.assertEqual(did["common"], [], did)
        self.assertEqual(did["common_files"], [], did)
        self.assertEqual(did["opened"], [], did)
        self.assertEqual((did["written"], did["traced"]), (-1, -1), did)
        self.assertEqual(did["control"], 1, did)
        permission = fake_app.E["E_PERMISSION"]
        self.assertEqual((did["listen"], did["pause"], did["hello"]), (permission, permission, permission), did)
        self.assertEqual(did["detach"], 0, did)
        client.process.stdin.write(b"\n")
        client.process.stdin.flush()
        self.assertEqual(client.wait(30), 0, f"{master}\n{client}")
        self.assertEqual(master.wait(30), 0, f"{master}\n{client}")
        self.assertIn("good", client.out)
        self.assertIn("good", master.out)

    def test_killed_on_the_way(self):
        done = self.run_under(PYTHON, "-c", KILLS, self.port, self.nobody, harness.pick(150, 2000), seconds=90)
        self.assertEqual((done.code, done.out), (0, "good\n"), repr(done))

    def without_a_daemon(self, sig, before):
        """before: what happens to a connection of before that only the lesser user has."""
        master = self.start_under(PYTHON, "-c", WITHOUT, self.port, self.nobody, before, stdin=harness.subprocess.PIPE)
        self.wait_listening(self.port, master)
        client = self.start_under(PYTHON, "-c", TWO, self.port, before, stdin=harness.subprocess.PIPE)
        self.wait_until(lambda: "asked" in client.out and "held" in master.out, f"the connections\n{master}\n{client}")
        self.assertEqual(len(self.show("sessions")), 2)
        self.running_daemon.kill(sig)
        for program in (master, client):
            program.process.stdin.write(b"\n")
            program.process.stdin.flush()
        with harness.socket.create_connection(("127.0.0.1", self.port), harness.slowness.slow(30)) as c:  # by the kernel
            c.sendall(b"third")
            self.assertEqual(c.recv(5), b"third", f"{master}\n{client}")
        self.wait_until(lambda: "\n0\n" in master.out or not master.running(), "the worker's end")
        client.process.stdin.write(b"\n")
        client.process.stdin.flush()
        self.assertEqual(client.wait(30), 0, f"{master}\n{client}")
        self.assertEqual(master.wait(30), 0, f"{master}\n{client}")
        self.assertIn("\n0\n", master.out, master)

    def test_without_a_daemon(self):
        self.without_a_daemon(harness.signal.SIGKILL, "stays")
        self.running_daemon.wait()
        self.expect_leftover("control.sock", "daemon.lock")

    def test_while_the_daemon_stands_still(self):
        self.without_a_daemon(harness.signal.SIGSTOP, "may end")
        self.running_daemon.kill(harness.signal.SIGCONT)

    def fetch(self, what, n=40):
        done = self.run_under("curl", "-sS", "--fail", *[f"http://127.0.0.1:{self.port}/{what}"] * n)
        self.assertEqual(done.code, 0, repr(done))
        return done.out

    def under_berth(self, pids):
        """A connection to the server is a session with one of these."""
        client = self.start_under(PYTHON, "-c", HOLD, self.port, stdin=harness.subprocess.PIPE)
        self.wait_until(lambda: [s for s in self.show("sessions") if s["remote_state"]], f"a session\n{client}")
        self.assertTrue([w for w in self.show("workers") if w["pid"] in pids and w["outboxes"]], pids)
        client.process.communicate(b"\n")

    def serves(self, server, workers):
        """Through berth, and each of them apart."""
        self.assertEqual(self.fetch("hello"), "hello" * 40, repr(server))
        self.apart(server.pid, workers())
        self.under_berth(workers())
        self.assertEqual(self.fetch("hello"), "hello" * 40, repr(server))
        server.stop()

    def children(self, server, count):
        return self.wait_until(lambda: len(pids := list(harness.children_of(server.pid))) >= count and
                               all(self.uid_of(p) == self.nobody for p in pids) and pids, "the workers")

    @harness.needs("nginx", "curl")
    def test_nginx_with_workers_of_another_user(self):
        self.file("hello", "hello")
        conf = self.file("nginx.conf", "user nobody nogroup;" + NGINX.format(dir=self.scratch, port=self.port))
        server = self.start_under("nginx", "-e", "stderr", "-c", conf)
        self.wait_listening(self.port, server)
        self.serves(server, lambda: self.children(server, 2))

    @harness.needs("nginx")
    def test_nginx_under_load_gets_new_workers(self):
        """They come and go, each of them another user, and no request is lost."""
        self.file("hello", "hello")
        conf = self.file("nginx.conf", "user nobody nogroup;" + NGINX.format(dir=self.scratch, port=self.port))
        server = self.start_under("nginx", "-e", "stderr", "-c", conf)
        self.wait_listening(self.port, server)
        client = self.start_under(PYTHON, "-c", REQUESTS, self.port, stdin=harness.subprocess.PIPE)
        self.wait_until(lambda: "begun" in client.out, "the first requests")
        for _ in range(harness.pick(4, 40)):
            before = self.children(server, 2)
            server.kill(harness.signal.SIGHUP)
            self.wait_until(lambda: not set(before) & set(harness.children_of(server.pid)), "new workers", 30)
        self.apart(server.pid, self.children(server, 2))
        client.process.stdin.write(b"\n")
        client.process.stdin.flush()
        self.assertEqual(client.wait(30), 0, f"{client}\n{server}")
        self.assertIn("all good", client.out)
        server.stop()

    def test_server_of_the_kind_of_inetd(self):
        for program in ([], ["sh", "-c", "id -u; exec cat"]):
            server = self.start_under(PYTHON, "-c", INETD, self.port, self.nobody, *program)
            self.wait_listening(self.port, server)
            for under in (True, False):
                run = self.run_under if under else self.run_program
                done = run(PYTHON, "-c", INETD_CLIENT, self.port, self.nobody, harness.pick(20, 300))
                self.assertEqual((done.code, done.out), (0, "good\n"), f"{done!r}\n{server!r}")
            server.stop()

    @harness.needs("apache2", "curl")
    def test_apache_prefork(self):
        self.file("hello", "hello")
        conf = self.file("httpd.conf", APACHE.format(dir=self.scratch, port=self.port, modules=APACHE_MODULES, user="nobody", group="nogroup"))
        server = self.start_under("apache2", "-DFOREGROUND", "-f", conf)
        self.wait_listening(self.port, server)
        self.serves(server, lambda: self.children(server, 3))

    @harness.needs("haproxy", "curl")
    def test_haproxy_that_becomes_another_user(self):
        conf = self.file("haproxy.cfg", HAPROXY.format(settings="user nobody", port=self.port, name="hello"))
        server = self.start_under("haproxy", "-db", "-f", conf)
        self.wait_listening(self.port, server)
        self.assertEqual(self.uid_of(server.pid), self.nobody)
        self.assertEqual(self.fetch("hello"), "hello" * 40, repr(server))
        self.under_berth([server.pid])
        server.stop()

    @harness.needs("memcached")
    def test_memcached_as_another_user(self):
        server = self.start_under("memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", self.port, "-U", "0")
        self.wait_listening(self.port, server)
        self.wait_until(lambda: self.uid_of(server.pid) == self.nobody, "the user")
        ask = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10); " \
              "s.sendall(b'set a 0 0 3\\r\\nabc\\r\\nget a\\r\\nquit\\r\\n'); print(s.makefile('rb').read())"
        done = self.run_under(PYTHON, "-c", ask, self.port)
        self.assertIn("VALUE a 0 3\\r\\nabc", done.out, f"{done}\n{server}")
        server.stop()


class Delayed(Users):
    """With processes that end at any store."""

    def test_death_at_each_store(self):
        done = self.run_under(PYTHON, "-c", FAULTS, self.port, self.nobody, harness.pick(4, 0), seconds=90)
        self.assertEqual(done.code, 0, repr(done))
        self.assertIn("good", done.out)
        self.assertGreater(int(done.out.split()[0]), 50)


if not DELAYS:
    del Delayed  # it needs a build with -Dberth_delays=true: make check-delays


def line_name(words):
    return words[5] if len(words) > 5 else ""


if __name__ == "__main__":
    harness.main()
