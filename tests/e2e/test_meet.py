"""Programs that meet for the first time, in the ways that event loops have: each pair is started afresh, many times over.

The first words between two processes are where most is still to be done (a segment to fetch, a peer to learn of), and each
of these programs looks in another way whether they have come. All play one game, which meet.c tells. Erlang's nodes and their
port mapper, epmd, play their own.

20 starts of each, 50 in `make soak`.
"""

import os
import signal
import subprocess

import harness

MEET = os.path.join(harness.BUILD, "tests", "e2e", "meet")
PYTHON = "/usr/bin/python3"
STARTS = 50 if harness.SOAK else 20

SELECTORS = """
import selectors, socket, sys
LAST, SILENCE = 60, 5
mode, role, first, port = sys.argv[1:]
look = getattr(selectors, mode)()
def line(n):
    return b"%d " % n + bytes([97 + n % 10]) * (n * 37 % 3000) + b"\\n"
class Over(Exception):
    pass
class Game:
    def __init__(self, s):
        self.s, self.next, self.have, self.out = s, 0, b"", b""
        s.setblocking(False)
        look.register(s, selectors.EVENT_READ, self)
        if first == role:
            self.say(0)
    def say(self, n):
        self.out, self.next = line(n), n + 1
        look.modify(self.s, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
    def event(self, events):
        if events & selectors.EVENT_WRITE:
            self.out = self.out[self.s.send(self.out):]
            if not self.out and self.next > 4:  # at first both are wanted all the time
                look.modify(self.s, selectors.EVENT_READ, self)
        if events & selectors.EVENT_READ:
            data = self.s.recv(10000)  # EAGAIN would be an error: it was readable
            if not data:
                assert self.next == LAST + 1 and not self.have, f"an end before line {self.next}"
                raise Over
            self.have += data
            if self.have.endswith(b"\\n"):
                assert self.have == line(self.next), f"not line {self.next}: {self.have[:50]}"
                self.have = b""
                if self.next == LAST:
                    raise Over
                self.say(self.next + 1)
class Listener:
    def __init__(self):
        self.l = socket.create_server(("127.0.0.1", int(port)))
        self.l.setblocking(False)
        look.register(self.l, selectors.EVENT_READ, self)
    def event(self, events):
        game = Game(self.l.accept()[0])
what = Listener() if role == "server" else Game(socket.create_connection(("127.0.0.1", int(port))))
try:
    while True:
        ready = look.select(SILENCE)
        assert ready, "nothing is ready"
        for key, events in ready:
            key.data.event(events)
except Over:
    print("met", flush=True)
    sys.stdin.read()
"""


@harness.needs_preload
class Games(harness.TestCase):
    limit = 600 if harness.SOAK else 240

    def meet(self, server, client):
        """server(first), client(first): the command of each, but for the port. The first word is each one's in turn."""
        self.daemon()
        for i in range(STARTS):
            first = ("server", "client")[i % 2]
            port = self.free_port()
            serving = self.start_under(*server(first), port)
            self.wait_listening(port, serving)
            asking = self.start_under(*client(first), port, stdin=subprocess.PIPE)
            if i == 0:  # the client closes: the session is still there
                self.wait_until(lambda: "met\n" in asking.out or not asking.running(), "the first game's end", 30)
                if asking.running():
                    self.assertEqual(len(self.show("sessions")), 1, f"it went by way of the kernel\n{serving}\n{asking}")
            asking.process.stdin.close()
            for program in (asking, serving):
                code = program.wait(30)
                self.assertEqual((code, program.out), (0, "met\n"),
                                 f"start {i + 1} of {STARTS}, first word: the {first}'s\n{serving}\n{asking}")
        self.assertEqual(self.show("sessions"), [])

    @staticmethod
    def selectors(mode, role):
        return lambda first: (PYTHON, "-c", SELECTORS, mode, role, first)

    @staticmethod
    def program(way, what):
        return lambda first: (MEET, way, what, first)

    def test_python_select(self):
        self.meet(self.selectors("SelectSelector", "server"), self.selectors("SelectSelector", "client"))

    def test_python_poll(self):
        self.meet(self.selectors("PollSelector", "server"), self.selectors("PollSelector", "client"))

    def test_python_epoll(self):
        self.meet(self.selectors("EpollSelector", "server"), self.selectors("EpollSelector", "client"))

    def test_nested_edges_and_an_eventfd(self):
        self.meet(self.program("nested", "serve"), self.program("nested", "ask"))

    def test_select_alone(self):
        self.meet(self.program("nested", "serve"), self.program("select", "ask"))

    def test_select_alone_with_python(self):
        self.meet(self.selectors("EpollSelector", "server"), self.program("select", "ask"))


CROWD = """
import random, selectors, socket, sys
random.seed(1)
mode, role, port = sys.argv[1:]
COUNT, SIZE = 30, 300_000
DATA = bytes(i * 31 >> 3 & 255 for i in range(SIZE))
look, left, vain = getattr(selectors, mode)(), COUNT, 0
class End:
    def __init__(self, s, out):
        self.s, self.out, self.got = s, out, 0
        s.setblocking(False)
        look.register(s, selectors.EVENT_READ | (selectors.EVENT_WRITE if out else 0), self)
def read(end):
    global vain
    try:
        return end.s.recv(65536 if role == "server" else random.randint(1, 100_000))
    except BlockingIOError:
        vain += 1
if role == "server":
    l = socket.create_server(("127.0.0.1", int(port)), backlog=100)
    l.setblocking(False)
    look.register(l, selectors.EVENT_READ, None)
else:
    for i in range(COUNT):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(("127.0.0.1", int(port)))
        End(s, DATA)
while left:
    ready = look.select(10)
    assert ready, "nothing is ready"
    for key, events in ready:
        end = key.data
        if end is None:
            End(l.accept()[0], b"")
            continue
        if events & selectors.EVENT_READ:
            data = read(end)
            if data == b"":
                look.unregister(end.s)
                end.s.close()
                left -= 1
                continue
            if data:
                if role == "server":
                    end.out += data
                else:
                    assert data == DATA[end.got:end.got + len(data)], "other bytes than were sent"
                end.got += len(data)
        if events & selectors.EVENT_WRITE and end.out:
            try:
                n = len(end.out) if role == "server" else random.randint(1, 100_000)
                end.out = end.out[end.s.send(end.out[:n]):]
            except BlockingIOError:
                pass
        if role == "client" and end.got == SIZE:
            look.unregister(end.s)
            end.s.close()
            left -= 1
        else:
            look.modify(end.s, selectors.EVENT_READ | (selectors.EVENT_WRITE if end.out else 0), end)
print("in vain:", vain)
"""


@harness.needs_preload
class Crowds(harness.TestCase):
    """Thirty connections at once, whose buffers grow while they are read: what was told to be readable is, when it is read."""

    def crowd(self, mode):
        self.daemon()
        for _ in range(5 if harness.SOAK else 3):
            port = self.free_port()
            server = self.start_under(PYTHON, "-c", CROWD, mode, "server", port)
            self.wait_listening(port, server)
            client = self.start_under(PYTHON, "-c", CROWD, mode, "client", port)
            for program in (client, server):
                code = program.wait(40)
                self.assertEqual((code, program.out), (0, "in vain: 0\n"), f"{server}\n{client}")

    def test_select(self):
        self.crowd("SelectSelector")

    def test_poll(self):
        self.crowd("PollSelector")

    def test_epoll(self):
        self.crowd("EpollSelector")


@harness.needs_preload
@harness.needs("erl", "epmd")
class Erlang(harness.TestCase):
    limit = 900 if harness.SOAK else 400

    def node(self, name, code, env):
        return self.start_under("erl", "-name", f"{name}@127.0.0.1", "-setcookie", "meet", "-start_epmd", "false", "-noinput",
                                "-kernel", "inet_dist_use_interface", "{127,0,0,1}", "-eval", code, env=env)

    def test_two_nodes(self):
        """b pings a, and has a ping b; what a gives back for a call is right, and a long term comes whole."""
        self.daemon()
        for i in range(STARTS):
            port = self.free_port()
            env = {"ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": "127.0.0.1", "HOME": self.scratch}
            mapper = self.start_under("epmd", "-port", str(port), "-address", "127.0.0.1", env=env)
            self.wait_listening(port, mapper)
            a = self.node("a", 'io:format("up~n").', env)
            self.wait_until(lambda: "up\n" in a.out or not a.running(), f"node a, start {i + 1}", 30)
            self.assertTrue(a.running() and mapper.running(), f"start {i + 1}\n{mapper}\n{a}")
            self.assertEqual(len(self.show("sessions")), 1, "a and epmd talk by way of the kernel")
            b = self.node("b", "A = 'a@127.0.0.1', pong = net_adm:ping(A), pong = rpc:call(A, net_adm, ping, [node()]), "
                               "L = lists:seq(1, 20000), L = lists:reverse(rpc:call(A, lists, reverse, [L])), "
                               'io:format("met~n"), rpc:cast(A, init, stop, []), init:stop().', env)
            told = f"start {i + 1} of {STARTS}\n{mapper}\n{a}\n{b}"
            self.assertEqual(b.wait(40), 0, told)
            self.assertEqual(b.out, "met\n", told)
            self.assertEqual(a.wait(40), 0, told)
            self.assertTrue(mapper.running(), f"epmd ended by itself, {told}")
            mapper.kill(signal.SIGTERM)
            mapper.wait(10)


if __name__ == "__main__":
    harness.main()
