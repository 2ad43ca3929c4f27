"""Connections to a listener whose kernel socket is also held by a program that is not under berth: whoever accepts serves.

What nobody under berth accepts goes to the kernel's listener after a second, with what was written into it, and is served
once, whoever comes at the last moment.
"""

import os
import time

import harness

PYTHON = "/usr/bin/python3"

# Not under berth. Listens, starts a program under berth that has the listener, too, and passes its own input on to it.
# "accept": accepts from then on.
OUTSIDE = """
import socket, subprocess, sys, threading
berth, inside, port = sys.argv[1:4]
l = socket.create_server(("127.0.0.1", int(port)), backlog=256)
child = subprocess.Popen([berth, "run", "--", sys.executable, "-u", "-c", inside, str(l.fileno())],
                         pass_fds=[l.fileno()], stdin=subprocess.PIPE)
def serve(s):
    with s:
        while True:
            d = s.recv(1 << 16)
            if not d:
                break
            if d == b"bye":
                print("got bye", flush=True)
            else:
                s.sendall(b"o" * len(d))
def accept():
    while True:
        s, _ = l.accept()
        threading.Thread(target=serve, args=(s,), daemon=True).start()
for line in sys.stdin:
    if line == "accept\\n":
        threading.Thread(target=accept, daemon=True).start()
    else:
        child.stdin.write(line.encode())
        child.stdin.flush()
    if line == "end\\n":
        child.wait()
        print("ended", flush=True)
"""

# Writes and is gone, before anybody can have accepted.
GOES = """
import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1]))).sendall(b"bye")
"""

# Under berth. "one": serves one connection. "all TIME": all from that time on.
INSIDE = """
import socket, sys, threading, time
l = socket.socket(fileno=int(sys.argv[1]))
print("begun", flush=True)
def serve(s):
    with s:
        while True:
            d = s.recv(1 << 16)
            if not d:
                break
            s.sendall(b"i" * len(d))
def all(at):
    time.sleep(max(0, at - time.time()))
    while True:
        threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
for line in sys.stdin:
    what, *at = line.split()
    if what == "one":
        serve(l.accept()[0])
        print("served one", flush=True)
    elif what == "all":
        threading.Thread(target=all, args=(float(at[0]),), daemon=True).start()
    else:
        break
"""

# Connects, writes so much, and says who answered each byte. "block", "poll" (never blocks) or "fork" (a child goes on).
CLIENT = """
import os, select, socket, sys
from slowness import slow
port, size, how, number = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
all = []
for i in range(number):
    s = socket.create_connection(("127.0.0.1", port), slow(10))
    s.settimeout(slow(10))
    all.append(s)
print("connected", flush=True)
if how == "fork" and os.fork():
    os.wait()  # the child has it, too; who has offered it sees to it
    sys.exit()
for s in all:
    if how == "poll":
        s.setblocking(False)
    sent, got, answers = 0, 0, set()
    while got < size:
        if how == "poll":
            r, w, _ = select.select([s], [s] if sent < size else [], [], slow(10))
            assert r or w, "nothing comes"
        else:
            r, w = sent == size, sent < size
        if w:
            sent += s.send(b"x" * min(size - sent, 1 << 16))
        if r:
            d = s.recv(1 << 16)
            assert d, "the end"
            got += len(d)
            answers |= set(d.decode())
    s.close()
    print("answer", "".join(sorted(answers)), got, flush=True)
"""

# Under berth. Listens, starts a program that is not, which leaves the listener to its own child and ends; serves nobody.
LEAVES = """
import os, socket, subprocess, sys, time
l = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=16)
subprocess.run([sys.executable, "-c", sys.argv[2], str(l.fileno())], pass_fds=[l.fileno()], env=dict(os.environ, BERTH_OFF="1"))
print("left", flush=True)
sys.stdin.read()
"""

LEFT = """
import os, socket, sys
if os.fork():
    os._exit(0)
s, _ = socket.socket(fileno=int(sys.argv[1])).accept()
while d := s.recv(1 << 16):
    s.sendall(b"o" * len(d))
"""


@harness.needs_preload
class Replay(harness.TestCase):
    limit = 60

    def setUp(self):
        super().setUp()
        self.daemon()
        self.port = self.free_port()
        self.orders = -1
        self.addCleanup(lambda: self.orders < 0 or os.close(self.orders))

    def tell(self, *lines):
        os.write(self.orders, "".join(f"{line}\n" for line in lines).encode())

    def begin(self):
        """Both sides, and one connection served under berth: from then on the listener is found there."""
        read, self.orders = os.pipe()
        both = self.start(PYTHON, "-u", "-c", OUTSIDE, harness.BERTH, INSIDE, self.port, stdin=read)
        os.close(read)
        self.wait_until(lambda: "begun" in both.out, "the program under berth", 30)
        self.tell("one")
        self.assertEqual(self.client(1).out.splitlines()[-1], "answer i 1")
        self.assertIn(f"127.0.0.1:{self.port}", [x["endpoint"] for x in self.show("listeners")])
        return both

    def over(self, both):
        os.close(self.orders)
        self.orders = -1
        self.assertEqual(both.wait(20), 0, both)

    def client(self, size, how="block", number=1, wait=True):
        client = self.start_under(PYTHON, "-c", CLIENT, self.port, size, how, number)
        if wait:
            self.assertEqual(client.wait(40), 0, client)
        else:
            self.wait_until(lambda: "connected" in client.out, "the connection")
        return client

    def answers(self, client):
        self.assertEqual(client.wait(40), 0, client)
        return client.out.splitlines()[1:]

    def test_what_nobody_accepts_goes_to_who_does(self):
        both = self.begin()
        self.tell("accept")
        began = time.monotonic()
        client = self.client(10, wait=False)
        self.assertEqual(self.answers(client), ["answer o 10"])
        self.assertLess(time.monotonic() - began, harness.slow(5))
        self.assertEqual(self.show("listeners")[0]["endpoint"], f"127.0.0.1:{self.port}")
        began = time.monotonic()
        self.client(10, number=20)  # nobody else waits for what does not come
        self.assertLess(time.monotonic() - began, harness.slow(5))
        self.over(both)

    def test_bytes_that_were_written_before_arrive(self):
        for how in ("block", "poll", "fork"):
            with self.subTest(how=how):
                self.port = self.free_port()
                both = self.begin()
                self.tell("accept")
                client = self.client(400_000 if how != "fork" else 100_000, how, number=3)
                self.assertEqual(client.out.splitlines()[-3:], [f"answer o {400_000 if how != 'fork' else 100_000}"] * 3)
                self.over(both)

    def test_who_has_connected_and_ends(self):
        both = self.begin()
        self.tell("accept")
        client = self.start_under(PYTHON, "-c", GOES, self.port)
        self.assertEqual(client.wait(20), 0, client)
        self.wait_until(lambda: "got bye" in both.out, f"what it had written\n{client}", 5)
        self.over(both)

    def test_who_ends_leaves_what_waits_to_the_others(self):
        both = self.begin()
        client = self.client(10, number=5, wait=False)
        self.tell("end")
        self.wait_until(lambda: "ended" in both.out, "the end")
        self.tell("accept")
        self.assertEqual(self.answers(client), ["answer o 10"] * 5)
        self.over(both)

    def test_it_waits_as_in_a_backlog_where_nobody_accepts(self):
        both = self.begin()
        client = self.client(10, number=3, wait=False)
        time.sleep(3)
        self.tell(f"all {time.time()}")
        self.assertEqual(self.answers(client), ["answer i 10"] * 3)
        self.over(both)

    def test_each_is_served_once_at_the_last_moment(self):
        for i in range(harness.pick(4, 40)):
            self.port = self.free_port()
            both = self.begin()
            client = self.client(3000, "poll", number=40, wait=False)
            self.tell(f"all {time.time() + 0.85 + 0.06 * (i % 8)}", "accept")
            answers = self.answers(client)
            self.assertEqual(len(answers), 40)
            self.assertLessEqual(set(answers), {"answer i 3000", "answer o 3000"}, answers)
            self.over(both)

    def test_what_a_started_program_has_left_to_its_children(self):
        read, write = os.pipe()
        self.addCleanup(os.close, write)
        leaves = self.start_under(PYTHON, "-c", LEAVES, self.port, LEFT, stdin=read)
        os.close(read)
        self.wait_until(lambda: "left" in leaves.out, "the program")
        self.wait_until(lambda: self.show("listeners"), "the listener")
        self.assertEqual(self.client(10).out.splitlines()[1:], ["answer o 10"])


if __name__ == "__main__":
    harness.main()
