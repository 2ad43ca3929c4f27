"""Sessions that go where the preload library cannot follow: executed programs, libc's stdio, other processes;
and the descriptors that are not to be had."""

import harness

PYTHON = "/usr/bin/python3"

# Says "hello", then sends back what comes, then "bye" after the end.
ECHO = """
import socket, sys, threading
def serve(c):
    try:
        c.sendall(b"hello\\n")
        while data := c.recv(65536):
            c.sendall(data)
        c.sendall(b"bye\\n")
    except OSError:
        print("reset", flush=True)
    c.close()
l = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""

# As inetd does it: a process for each connection, which executes a program on it. Other descriptors stay open in it.
INETD = """
import os, signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
l = socket.create_server(("127.0.0.1", int(sys.argv[1])))
l.set_inheritable(True)
while True:
    c = l.accept()[0]
    if os.fork() == 0:
        os.dup2(c.fileno(), 0)
        os.dup2(c.fileno(), 1)
        c.close()
        os.execvp(sys.argv[2], sys.argv[2:])
    c.close()
"""

CLIENT = """
import hashlib, os, socket, sys, threading
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
data = os.urandom(1 << 20)
def send():
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
t = threading.Thread(target=send)
t.start()
got = b""
while part := s.recv(65536):
    got += part
t.join()
print(got == data)
"""

STDIO = """
import ctypes, socket, sys
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.fgets.restype = ctypes.c_char_p
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
f = ctypes.c_void_p(libc.fdopen(s.fileno(), b"r+"))
line = ctypes.create_string_buffer(100)
print(libc.fgets(line, 100, f))
libc.fprintf(f, b"number %d\\n", 42)
libc.fflush(f)
print(libc.fgets(line, 100, f))
libc.dprintf(s.fileno(), b"and %d\\n", 43)
print(libc.fgets(line, 100, f))
"""

RIGHTS = """
import os, socket, subprocess, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
assert s.recv(100) == b"hello\\n"
a, b = socket.socketpair()
taker = 'import socket; u = socket.socket(fileno=0); fd = socket.recv_fds(u, 9, 1)[1][0]; s = socket.socket(fileno=fd);' \
        's.sendall(b"over here\\\\n"); print(s.recv(100)); s.shutdown(1); print(s.recv(100), s.recv(1))'
env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
p = subprocess.Popen([sys.executable, "-c", taker], stdin=b, env=env)
socket.send_fds(a, [b"x"], [s.fileno()])
s.close()
sys.exit(p.wait())
"""


# Meets its client, then has no descriptor left for the next connection.
FULL = """
import os, select, socket
from slowness import slow
l = socket.create_server(("127.0.0.1", 0))
e = select.epoll()
e.register(l, select.EPOLLIN)
if os.fork() == 0:
    w = socket.create_connection(l.getsockname())
    w.recv(1)
    s = socket.create_connection(l.getsockname())
    s.settimeout(slow(10))
    print(s.recv(10), flush=True)
    os._exit(0)
w = l.accept()[0]
w.send(b"x")
held = []
assert e.poll(slow(5))
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
for i in range(3):
    try:
        l.accept()
    except OSError as error:
        print(error.strerror, e.poll(1)[0][1], flush=True)
for fd in held:
    os.close(fd)
c = l.accept()[0]
c.sendall(b"late")
os.wait()
"""


@harness.needs_preload
class Leave(harness.TestCase):
    def serve(self, script, *args):
        # no daemon of the test's own: the automatic one stays until the last relay has heard of its peer's end
        port = self.free_port()
        server = self.start_under(PYTHON, "-c", script, port, *args)
        self.wait_listening(port, server)
        return port, server

    def under(self, *command):
        done = self.run_under(*command, seconds=20)
        self.assertEqual((done.code, done.err), (0, ""), repr(done))
        return done.out

    def test_shell(self):
        """bash prints by stdio on a descriptor that it puts over 1, and gives it to programs."""
        port, _ = self.serve(ECHO)
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; read -r a <&3; printf 'one\\n' >&3; read -r b <&3; " \
                 "echo two >&3; c=$(head -1 <&3); echo $a $b $c"
        self.assertEqual(self.under("bash", "-c", script), "hello one two\n")
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; head -1 <&3"
        self.assertEqual(self.under("bash", "-c", script), "hello\n")

    def test_executed_on_a_connection(self):
        port, _ = self.serve(INETD, "cat")
        for run in (self.run_under, self.run_program):
            self.assertEqual(run(PYTHON, "-c", CLIENT, port).out, "True\n")

    def test_executed_program_that_ends_at_once(self):
        port, _ = self.serve(INETD, "echo", "good day")
        script = f"import socket; s = socket.create_connection(('127.0.0.1', {port}));" \
                 "print(s.recv(100), s.recv(100)); s.close()"
        self.assertEqual(self.under(PYTHON, "-c", script), "b'good day\\n' b''\n")

    def test_child_process_with_a_connection(self):
        port, _ = self.serve(ECHO)
        script = f"import socket, subprocess; s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'more\\n');" \
                 "print(subprocess.run(['head', '-2'], stdin=s, capture_output=True).stdout)"
        self.assertEqual(self.under(PYTHON, "-c", script), "b'hello\\nmore\\n'\n")

    def test_the_process_itself_executes_a_program(self):
        port, _ = self.serve(ECHO)
        script = f"import os, socket; s = socket.create_connection(('127.0.0.1', {port})); s.set_inheritable(True);" \
                 "os.execlp('sh', 'sh', '-c', f'read a <&{s.fileno()}; echo $a')"
        self.assertEqual(self.under(PYTHON, "-c", script), "hello\n")

    def test_stdio(self):
        port, _ = self.serve(ECHO)
        self.assertEqual(self.under(PYTHON, "-c", STDIO, port), "b'hello\\n'\nb'number 42\\n'\nb'and 43\\n'\n")

    def test_descriptor_sent_to_another_process(self):
        port, _ = self.serve(ECHO)
        self.assertEqual(self.under(PYTHON, "-c", RIGHTS, port), "b'over here\\n'\nb'bye\\n' b''\n")

    def test_reset_goes_through(self):
        port, server = self.serve(ECHO)
        script = f"import os, socket, time; s = socket.create_connection(('127.0.0.1', {port})); os.dup2(s.fileno(), 0);" \
                 "s.sendall(b'x' * 100); time.sleep(0.3)"  # what came back is never read: the kernel resets
        self.under(PYTHON, "-c", script)
        self.wait_until(lambda: "reset" in server.out, "the reset")

    def test_no_descriptor_left_for_a_connection(self):
        """It waits in the queue, and the listener stays ready, until there is one."""
        self.daemon()
        want = "Too many open files 1\n" * 3 + "b'late'\n"
        self.assertEqual(self.run_program(PYTHON, "-c", FULL).out, want)
        self.assertEqual(self.under(PYTHON, "-c", FULL), want)

    def test_epoll_goes_on(self):
        port, _ = self.serve(ECHO)
        script = f"import os, select, socket; s = socket.create_connection(('127.0.0.1', {port})); e = select.epoll();" \
                 "e.register(s, select.EPOLLIN); assert e.poll(5); s.recv(9); os.dup2(s.fileno(), 0); assert not e.poll(0);" \
                 "s.sendall(b'x'); assert e.poll(5) == [(s.fileno(), select.EPOLLIN)]; print(s.recv(9))"
        self.assertEqual(self.under(PYTHON, "-c", script), "b'x'\n")


if __name__ == "__main__":
    harness.main()
