"""Programs that cannot be followed run on the kernel from their first call, whole; what is not recognised fails, and says so."""

import os
import platform
import unittest

import harness

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "own_calls.c")
X86 = platform.machine() == "x86_64"

GO = """
package main

// #include <stdio.h>
// #include <sys/socket.h>
// static void from_c(void) { int fd = socket(AF_INET, SOCK_STREAM, 0); printf("c %d\\n", fd >= 0); fflush(stdout); }
import "C"
import ("fmt"; "net")

func main() {
	C.from_c()
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go func() { c, _ := net.Dial("tcp", l.Addr().String()); c.Write([]byte("hello")); c.Close() }()
	c, _ := l.Accept()
	b := make([]byte, 9)
	n, _ := c.Read(b)
	fmt.Println(string(b[:n]))
}
"""

# a listener goes to the program with a connection that waits; two more come later
HEIR = """
import os, socket, sys
program, how = sys.argv[1:]
l = socket.create_server(("127.0.0.1", 0))
l.set_inheritable(True)
waits = socket.create_connection(l.getsockname())
waits.send(b"early")
arguments = [program, "serve", str(l.fileno()), "3"]
if how == "spawn":
    pid = os.posix_spawn(program, arguments, os.environ)
else:
    pid = os.fork()
    if pid == 0:
        os.execv(program, arguments)
print(waits.recv(9))
for word in (b"one", b"two"):
    c = socket.create_connection(l.getsockname())
    c.send(word)
    print(c.recv(9))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

# a connection of berth's goes to the program under a number above 2
EXEC = """
import os, socket, sys
l = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(l.getsockname())
s = l.accept()[0]
c.send(b"before")
print(s.recv(9))
c.send(b"after")
s.set_inheritable(True)
pid = os.fork()
if pid == 0:
    c.close()
    l.close()
    os.execv(sys.argv[1], [sys.argv[1], "serve", str(s.fileno()), "0"])
s.close()
print(c.recv(9), c.recv(9))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

# a connection of berth's on the program's standard input and output
INETD = """
import socket, subprocess, sys
l = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(l.getsockname())
s = l.accept()[0]
child = subprocess.Popen(sys.argv[1:], stdin=s, stdout=s)
s.close()
l.close()
data = b""
while piece := c.recv(9999):
    data += piece
print(data.decode(), end="")
sys.exit(child.wait())
"""

# how many listeners of berth's there are while it has one
NODE = f"""
const net = require("net"), {{execFileSync}} = require("child_process");
const server = net.createServer(c => c.end("hi")).listen(0, "127.0.0.1", () => {{
  const c = net.connect(server.address().port, "127.0.0.1");
  c.on("data", data => {{
    console.log(data.toString());
    console.log(JSON.parse(execFileSync("{harness.BERTH}", ["show", "--json", "listeners"])).length);
    process.exit();
  }});
}});
"""

RIGHT = """connect: 0 0
send: 4 4
A: got 4 "to-A"
A: gave 4
A: back 4 "back"
B: got 4 "to-B"
B: gave 4
B: back 4 "back"
"""


@harness.needs_preload
class Alone(harness.TestCase):
    def build(self, *how, cc="cc", after=()):
        program = os.path.join(self.scratch, "program")
        done = self.run_program(cc, "-O2", "-w", *how, "-o", program, SOURCE, *after)
        self.assertEqual(done.code, 0, repr(done))
        return program

    def right(self, program, why, *before):
        """The kernel's bytes, and one line that says why."""
        done = self.run_under(*before, program)
        self.assertEqual((done.code, done.out), (0, RIGHT), repr(done))
        self.assertEqual(len(done.err.splitlines()), 1 if why else 0, repr(done))
        self.assertIn(why, done.err)

    def silent_below(self, program):
        """Below another program it is alone just the same, and nothing is said on its standard error."""
        done = self.run_under("sh", "-c", f"{program}; exit $?")
        self.assertEqual((done.code, done.out, done.err), (0, RIGHT, ""), repr(done))

    def test_by_libc(self):
        """The same program is followed if it uses libc: all that is told below comes from what is different there."""
        program = self.build()
        self.right(program, "")
        self.right(program, "", "/lib64/ld-linux-x86-64.so.2" if X86 else "/lib/ld-linux-aarch64.so.1")

    def test_own_calls(self):
        program = self.build("-DOWN")
        self.right(program, "program makes system calls of its own")
        self.silent_below(program)
        self.right(program, "makes system calls of its own", "/lib64/ld-linux-x86-64.so.2" if X86 else "/lib/ld-linux-aarch64.so.1")

    def test_own_calls_in_a_library(self):
        """of the program's; those that lie beside libc are a distribution's, and use libc"""
        library = os.path.join(self.scratch, "libown.so")
        done = self.run_program("cc", "-O2", "-w", "-DOWN", "-Dmain=program", "-shared", "-fPIC", "-o", library, SOURCE)
        self.assertEqual(done.code, 0, repr(done))
        program = os.path.join(self.scratch, "main")
        source = self.file("main.c", "int program(int, char **); int main(int n, char **v) { return program(n, v); }\n")
        done = self.run_program("cc", "-o", program, source, library)
        self.assertEqual(done.code, 0, repr(done))
        self.right(program, "main makes system calls of its own")

    def test_liburing(self):
        program = self.build("-DRING", after=("-luring",))
        self.right(program, "program is linked with liburing")
        self.silent_below(program)

    def test_liburing_static(self):
        self.right(self.build("-DRING", after=("-l:liburing.a",)), "program makes system calls of its own")

    def test_ring_by_number(self):
        self.right(self.build("-DNUMBER"), "program uses io_uring")

    def test_libuv_does_without(self):
        """whether or not it is known by name: its programs are followed, and are told that there are no rings"""
        done = self.run_under(self.build("-DNUMBER", "-DLIBUV"))
        self.assertEqual((done.out, done.err), ("no ring: Function not implemented\n", ""), repr(done))

    @unittest.skipUnless(harness.which("node"), "needs node")
    def test_node_is_followed(self):
        done = self.run_under("node", "-e", NODE)
        self.assertEqual((done.code, done.out, done.err), (0, "hi\n1\n", ""), repr(done))

    def test_liburing_loaded_late(self):
        """There are sockets of berth's already: it is told that there are no rings, and does without."""
        done = self.run_under(self.build("-DRING", "-DLATE"))
        self.assertEqual((done.out, done.err), ("no ring: Function not implemented\n", ""), repr(done))

    def test_static(self):
        self.right(self.build("-static"), "statically linked")

    @harness.needs("musl-gcc")
    def test_musl(self):
        self.right(self.build(cc="musl-gcc"), "linked with musl")

    @unittest.skipUnless(X86 and harness.which("x86_64-linux-gnu-gcc") and os.path.exists("/usr/include/x86_64-linux-gnu/gnu/stubs-32.h"),
                         "needs gcc -m32")
    def test_another_machine(self):
        self.right(self.build("-m32"), "built for another kind of machine")

    @unittest.skipUnless(harness.which("go"), "needs Go")
    def test_go_with_c(self):
        source = self.file("main.go", GO)
        program = os.path.join(self.scratch, "gc")
        env = {"GOCACHE": os.path.join(self.scratch, "cache"), "GO111MODULE": "off", "HOME": self.scratch}
        done = self.run_program("go", "build", "-o", program, source, env=env, seconds=120)
        self.assertEqual(done.code, 0, repr(done))
        done = self.run_under(program)
        self.assertEqual(done.out, "c 1\nhello\n", repr(done))
        self.assertIn("makes system calls of its own", done.err)

    def test_what_such_a_program_starts_is_followed(self):
        count = ("sh", "-c", "grep -c libberth-preload /proc/self/maps")
        builds = [((), {"cc": "musl-gcc"}), (("-static",), {}), (("-DOWN",), {})]
        for how, more in builds:
            with self.subTest(how=how, **more):
                done = self.run_under(self.build(*how, **more), "run", *count)
                self.assertRegex(done.out, r"^[1-9]", repr(done))
                self.assertLessEqual(len(done.err.splitlines()), 1, repr(done))

    def test_such_a_program_inherits(self):
        """A listener with what waits there, and a connection: the kernel's, and right, for who cannot be followed."""
        for how, more in [(("-static",), {}), ((), {"cc": "musl-gcc"}), (("-DOWN",), {}), (("-DRING", "-l:liburing.a"), {})]:
            program = self.build(*(h for h in how if h[:2] != "-l"), after=[h for h in how if h[:2] == "-l"], **more)
            for way in ("exec", "spawn"):
                with self.subTest(how=how, way=way, **more):
                    done = self.run_under("/usr/bin/python3", "-c", HEIR, program, way)
                    self.assertEqual((done.code, done.out, done.err), (0, "b'early'\nb'one'\nb'two'\n", ""), repr(done))
            with self.subTest(how=how, way="connection", **more):
                done = self.run_under("/usr/bin/python3", "-c", EXEC, program)
                self.assertEqual((done.code, done.out, done.err), (0, "b'before'\nb'after' b''\n", ""), repr(done))
            with self.subTest(how=how, way="inetd", **more):
                done = self.run_under("/usr/bin/python3", "-c", INETD, program)
                self.assertEqual((done.code, done.out), (0, RIGHT), repr(done))

    def test_script_of_a_script(self):
        program = self.build("-static")
        inner = self.file("inner", f"#!{program} nothing\n", 0o755)  # "run" would run inner again, and so on
        outer = self.file("outer", f"#!{inner}\n", 0o755)
        done = self.run_under(outer)
        self.assertEqual(done.code, 0, done)
        self.assertIn("statically linked", done.err)

    def test_nothing_is_lost_on_a_placeholder(self):
        """Calls that berth does not see, on descriptors of berth's: each fails, none reaches another's socket."""
        program = self.build("-DWRITTEN")
        done = self.run_under(program, "fails")
        self.assertEqual((done.out, done.err), ("all fail\n", ""), repr(done))
        done = self.run_under(program)
        self.assertEqual(done.out, "connect: -22 -22\nsend: -32 -32\nA: nobody came\nB: nobody came\n", repr(done))

    def test_undecided_socket_over_exec(self):
        """A program that is not followed gets one that it can use."""
        program = self.file("over.py", f"""
import os, socket, sys
l = socket.create_server(("127.0.0.1", 0))
s = socket.socket()
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
os.dup2(s.fileno(), 9)
code = "import socket; s = socket.socket(fileno=9); print(s.family.name, s.getsockopt(6, 1)); s.connect(('127.0.0.1', %d)); s.send(b'x')" % l.getsockname()[1]
env = dict(os.environ, BERTH_OFF="1")
if os.fork() == 0:
    os.execve("/usr/bin/python3", ["python3", "-c", code], env)
c = l.accept()[0]
print(c.recv(9), flush=True)
os.wait()
""")
        done = self.run_under("/usr/bin/python3", program)
        self.assertEqual((done.code, done.out.splitlines()), (0, ["AF_INET 1", "b'x'"]), repr(done))


if __name__ == "__main__":
    unittest.main()
