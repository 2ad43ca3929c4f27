"""What the daemon knows and tells: listeners, introductions, outboxes, deaths, port leases, sessions. By a fake app."""

import ctypes
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

import harness
from fake_app import (ACCEPTED, CHUNK0, CHUNK_SLOTS, CLOSED, CTL, E, FREE, GLOBAL, INFO, JOIN, KERNEL, LOCAL, OFFERED, OPEN, REUSEPORT, SLOT, V6ONLY, App,
                      Closed, Memory, Outbox, address, outbox_body)
from test_daemon import DaemonTest

IN_USE = E["E_ADDRESS_IN_USE"]


class RegistryTest(DaemonTest):
    def setUp(self):
        super().setUp()
        self.process = self.daemon("--log-level", "debug")

    def pair(self):
        """A listener's app, a connector's app, and the connector's outbox, introduced."""
        server, client = self.app(name="server"), self.app(name="client")
        _, self.listener, _, self.port = server.listen(port=8080)
        box = client.outbox(1, server.app, register=False)
        self.assertEqual(client.introduce(self.listener, box)[0], 0)
        return server, client, box

    def news(self, app, kind):
        m = app.next_news()
        self.assertEqual(m.type, CTL[kind], m)
        return m

    def dead(self, app, kind="DEAD"):
        return self.news(app, kind).unpack("II")

    def segments(self, handle):
        name = f"{handle >> 32}.{handle & 0xffffffff}"
        return [r["segment"] for r in self.app(False).show("SEGMENTS") if r["outbox"] == name]


class Listen(RegistryTest):
    def matrix(self, cases, flags=(0, 0), same_app=False):
        for first, second, clash in cases:
            with self.subTest(f"{first} then {second}"):
                a = self.app()
                b = a if same_app else self.app()
                one, two = [(c, 0) if isinstance(c, str) else c for c in (first, second)]
                self.assertEqual(a.listen(one[0], 80, one[1] | flags[0])[0], 0)
                self.assertEqual(b.listen(two[0], 80, two[1] | flags[1])[0], IN_USE if clash else 0)
                self.assertEqual(b.listen(two[0], 81, two[1] | flags[1])[0], 0)
                a.close()
                b.close()
                other = self.app(False)
                self.wait_until(lambda: not other.show("LISTENERS"), "no listener")

    CASES = [("127.0.0.1", "127.0.0.1", True), ("127.0.0.1", "127.0.0.2", False), ("0.0.0.0", "127.0.0.1", True),
             ("127.0.0.1", "0.0.0.0", True), ("0.0.0.0", "0.0.0.0", True), ("::", "0.0.0.0", True),
             ("0.0.0.0", "::", True), ("::", "127.0.0.1", True), ("127.0.0.1", "::", True), ("::", "::1", True),
             ("::1", "127.0.0.1", False), ("::1", "0.0.0.0", False), (("::", V6ONLY), "0.0.0.0", False),
             ("0.0.0.0", ("::", V6ONLY), False), (("::", V6ONLY), "::1", True), (("::", V6ONLY), "127.0.0.1", False),
             ("::", ("::", V6ONLY), True), (("::", V6ONLY), "::", True), ("::1", "::1", True)]

    def test_matrix_between_apps(self):
        self.matrix(self.CASES)

    def test_matrix_within_an_app(self):
        self.matrix(self.CASES, same_app=True)

    def test_matrix_reuseport(self):
        self.matrix([(a, b, False) for a, b, _ in self.CASES], (REUSEPORT, REUSEPORT))
        self.matrix(self.CASES, (REUSEPORT, 0))
        self.matrix(self.CASES, (0, REUSEPORT))

    def test_matrix_where_the_kernel_has_decided(self):
        self.matrix([("127.0.0.1", "127.0.0.1", True), ("0.0.0.0", "127.0.0.1", False), ("::", "0.0.0.0", False),
                     ("0.0.0.0", "0.0.0.0", True)], (KERNEL, KERNEL))
        self.matrix([("127.0.0.1", "127.0.0.1", False)], (KERNEL, KERNEL), same_app=True)
        self.matrix([("127.0.0.1", "127.0.0.1", False)], (KERNEL | REUSEPORT, KERNEL | REUSEPORT))

    def test_workers_of_one_app_share(self):
        a, b = self.app(name="web"), self.app(name="web", flags=LOCAL | JOIN)
        self.assertEqual(a.listen(port=80)[0], 0)
        self.assertEqual(b.listen(port=80)[0], 0)
        self.assertEqual(b.listen(port=80)[0], IN_USE)
        self.assertEqual(b.listen("0.0.0.0", port=80)[0], IN_USE)

    def test_addresses(self):
        app = self.app()
        for where in ("93.184.216.34", "224.0.0.1", "255.255.255.255", "2001:db8::1", "ff02::1"):
            self.assertEqual(app.listen(where, 80)[0], E["E_ADDRESS"], where)
        self.assertEqual(app.listen(proto=17)[0], E["E_INVALID"])
        self.assertEqual(app.listen(flags=64)[0], E["E_INVALID"])
        self.assertEqual(app.listen(flags=KERNEL)[0], E["E_INVALID"])
        own = subprocess.run(["hostname", "-I"], stdout=subprocess.PIPE, text=True).stdout.split()
        for where in own:
            self.assertEqual(app.listen(where, 80)[0], 0, where)

    @harness.needs_root
    def test_addresses_come_and_go(self):
        app = self.app()
        self.assertEqual(app.listen("192.0.2.77", 80)[0], E["E_ADDRESS"])
        subprocess.run(["ip", "addr", "add", "192.0.2.77/32", "dev", "lo"], check=True)
        try:
            self.wait_until(lambda: app.listen("192.0.2.77", 80)[0] == 0, "the new address")
        finally:
            subprocess.run(["ip", "addr", "del", "192.0.2.77/32", "dev", "lo"], check=True)
        self.wait_until(lambda: app.listen("192.0.2.77", 81)[0] == E["E_ADDRESS"], "the address to go")

    @harness.needs_root
    def test_network_namespaces_do_not_meet(self):
        holder = self.netns()
        here = self.app()
        _, number, _, _ = here.listen(port=80)
        with open(f"/proc/{holder}/ns/net") as there, open("/proc/self/ns/net") as home:
            libc = ctypes.CDLL(None, use_errno=True)
            self.assertEqual(libc.setns(there.fileno(), 0), 0)
            try:
                probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            finally:
                self.assertEqual(libc.setns(home.fileno(), 0), 0)
        other = self.app(netns=probe)
        probe.close()
        self.assertEqual(other.listen(port=80)[0], 0)
        box = other.outbox(1, here.app, register=False)
        self.assertEqual(other.introduce(number, box)[0], E["E_REFUSED"])
        self.assertEqual(len({r["netns"] for r in here.show("LISTENERS")}), 2)

    def test_namespaces_do_not_meet(self):
        self.assertEqual(self.app(False).ns("NS_ADD", "blue"), 0)
        a, b = self.app(), self.app(ns="blue")
        _, number, _, _ = a.listen(port=80)
        self.assertEqual(b.listen(port=80)[0], 0)
        self.assertEqual(b.introduce(number, b.outbox(1, a.app, register=False))[0], E["E_REFUSED"])

    def test_port_zero(self):
        app = self.app()
        ports = {app.listen(port=0)[3] for _ in range(200)}
        self.assertEqual(len(ports), 200)
        self.assertTrue(all(10240 <= p <= 65535 for p in ports))

    def test_scope(self):
        server, app = self.app(), self.app(flags=GLOBAL)
        self.assertEqual(app.listen(port=80)[0], E["E_NO_ROUTE"])
        _, number, _, _ = server.listen(port=80)
        self.assertEqual(app.introduce(number, app.outbox(1, server.app, register=False))[0], E["E_NO_ROUTE"])

    def test_unlisten_and_epoch(self):
        server, client, box = self.pair()
        first = client.introduce(self.listener, box, with_fd=False)
        self.assertEqual(first[0], 0)
        self.assertEqual(server.listen(port=8080)[0], IN_USE)
        client.unlisten(self.listener)  # not its own: nothing happens
        self.assertEqual(client.introduce(self.listener, box, with_fd=False)[0], 0)
        server.unlisten(self.listener)
        self.assertEqual(server.status()[0], 0)
        self.assertEqual(client.introduce(self.listener, box, with_fd=False)[0], E["E_REFUSED"])
        _, number, epoch, _ = server.listen(port=8080)
        self.assertNotEqual(number, self.listener)
        self.assertGreater(epoch, first[2])
        server.send("BACKLOG", struct.pack("=II", number, 5))
        self.assertEqual(server.status()[0], 0)
        self.assertEqual(client.introduce(number, box, with_fd=False)[4], 5)

    def test_a_forked_child_keeps_the_listener(self):
        server, client, box = self.pair()
        child = server.fork()
        self.addCleanup(child.close)
        server.close()
        self.assertEqual(self.dead(child, "MEMBER_DEAD"), (server.worker, 0))
        self.assertEqual(client.introduce(self.listener, box, with_fd=False)[0], 0)
        child.unlisten(self.listener)
        self.assertEqual(child.status()[0], 0)
        self.assertEqual(client.introduce(self.listener, box, with_fd=False)[0], E["E_REFUSED"])

    def test_too_many(self):
        app = self.app()
        answers = [app.listen("127.%d.%d.1" % (i // 256, i % 256), 80)[0] for i in range(3200)]
        app.close()
        full = answers.index(E["E_LIMIT"])
        self.assertGreater(full, 3000)
        self.assertEqual(set(answers[full:]), {E["E_LIMIT"]})


class Introduce(RegistryTest):
    def test_what_it_hands_out(self):
        server, client, box = self.pair()
        m = client.ask("INTRODUCE", struct.pack("=IIQ", self.listener, 0, box.handle))
        self.assertEqual(m.unpack("IIII")[2:], (server.app, 16))
        os.write(m.fds[0], b"t" * 64)
        m.close()
        self.assertEqual(server.queue.read(), b"t" * 64)

    def test_refusals(self):
        server, client, box = self.pair()
        self.assertEqual(client.introduce(4711, box, with_fd=False)[0], E["E_REFUSED"])
        other = client.outbox(2, server.app, register=False)
        self.assertEqual(client.introduce(self.listener, other, with_fd=False)[0], E["E_BAD_HANDLE"])

    def bad_outbox(self, change):
        server, client = self.app(), self.app()
        _, number, _, _ = server.listen(port=0)
        box = client.outbox(1, server.app, register=False)
        change(box, client)
        self.assertEqual(client.introduce(number, box)[0], E["E_PROTOCOL"])
        self.assert_closed(client)

    def test_outboxes_that_are_not_what_they_say(self):
        def word(at, fmt, value):
            return lambda box, client: struct.pack_into("=" + fmt, box.memory.map, at, value)
        for at, fmt, value in ((0, "I", 1), (4, "H", 9), (8, "Q", 77), (16, "I", 3), (20, "I", 99), (24, "Q", 4096),
                               (32, "I", 99)):
            with self.subTest(at=at):
                self.bad_outbox(word(at, fmt, value))

        def foreign(box, client):
            box.handle = (client.worker + 1) << 32 | 1
            struct.pack_into("=Q", box.memory.map, 8, box.handle)
        self.bad_outbox(foreign)

        def unsealed(box, client):
            old, box.memory = box.memory, Memory(1 << 20, 0)
            box.memory.map[:4096] = old.map[:4096]
            old.close()
        self.bad_outbox(unsealed)

    @harness.needs_root
    def test_another_user(self):
        self.process.stop()
        os.chmod(self.runtime_dir, 0o755)
        self.process = self.daemon("--config", self.file("c.yaml", "socket: {mode: 0666}\n"))
        server = self.app()
        _, number, _, _ = server.listen(port=80)
        done = self.run_program("/usr/bin/python3", "-c", f"""
import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from fake_app import *
os.setgid(12345); os.setuid(12345)
a = App({self.runtime_dir!r})
print(a.hello(), a.introduce({number}, a.outbox(1, {server.app}, register=False))[0], a.listen(port=80, flags=REUSEPORT)[0],
      a.show("LISTENERS"), flush=True)
""")
        self.assertEqual(done.out, f"0 {E['E_PERMISSION']} {IN_USE} []\n", repr(done))


class Outboxes(RegistryTest):
    def test_who_may_have_it(self):
        server, client, box = self.pair()
        sibling, stranger = self.app(name="server", flags=LOCAL | JOIN), self.app()
        self.assertEqual(server.get_outbox(box.handle), (0, client.worker, client.app, 0, 3))
        self.assertEqual(sibling.get_outbox(box.handle)[0], 0)
        self.assertEqual(client.get_outbox(box.handle)[0], 0)
        self.assertEqual(stranger.get_outbox(box.handle)[0], E["E_PERMISSION"])
        m = stranger.ask("GET_SEGMENT", outbox_body(box.handle))
        self.assertEqual(m.status, E["E_PERMISSION"])
        self.assertEqual(server.get_outbox(box.handle + 1)[0], E["E_BAD_HANDLE"])
        stranger.send("ANNOUNCE", outbox_body(box.handle, worker=server.worker))
        self.assert_closed(stranger)

    def test_segments(self):
        server, client, box = self.pair()
        self.assertEqual(server.get_outbox(box.handle)[0], 0)
        waits = [server.send("GET_SEGMENT", outbox_body(box.handle, index=i)) for i in (2, 1, 2)]
        self.assertTrue(server.quiet(0.2))
        for i in (1, 2):
            m = box.segment(i)
            client.send("SEGMENT", outbox_body(box.handle, index=i), (m.fd,))
            m.close()
        self.assertEqual([server.reply(s).status for s in (waits[1], waits[0], waits[2])], [0, 0, 0])
        m = server.ask("GET_SEGMENT", outbox_body(box.handle, index=2))
        self.assertEqual(struct.unpack_from("=I", os.pread(m.fds[0], 64, 0))[0], 0x474e4952)
        m.close()
        self.assertEqual(server.ask("GET_SEGMENT", outbox_body(box.handle, index=5000)).status, E["E_INVALID"])
        client.send("RETIRE", outbox_body(box.handle, index=1))
        self.assertEqual(self.news(server, "RETIRED").unpack("QIII")[3], 1)
        self.assertEqual(self.segments(box.handle), [0, 2])
        m = box.segment(2)
        client.send("SEGMENT", outbox_body(box.handle, index=2), (m.fd,))  # it is there already
        m.close()
        self.assert_closed(client)

    def test_parked_requests_end_with_the_owner(self):
        server, client, box = self.pair()
        wait = server.send("GET_SEGMENT", outbox_body(box.handle, index=9))
        self.assertEqual(server.status()[0], 0)
        client.close()
        self.assertEqual(server.reply(wait).status, E["E_RESET"])

    def test_parked_requests_are_bounded(self):
        server, _, box = self.pair()
        for _ in range(1024):
            server.send("GET_SEGMENT", outbox_body(box.handle, index=9))
        self.assertEqual(server.ask("GET_SEGMENT", outbox_body(box.handle, index=9)).status, E["E_LIMIT"])

    def test_outbox_limit(self):
        self.process.stop()
        self.process = self.daemon("--config", self.file("c.yaml", "limits: {outbox-bytes: 1M}\n"))
        server, client, box = self.pair()
        m = box.segment(1)
        client.send("SEGMENT", outbox_body(box.handle, index=1), (m.fd,))
        m.close()
        self.assertEqual(client.recv().status, E["E_LIMIT"])
        self.assert_closed(client)

    def test_announce(self):
        server, client, _ = self.pair()
        back = server.outbox(1, client.app)
        server.send("ANNOUNCE", outbox_body(back.handle, worker=client.worker))
        m = self.news(client, "PEER")
        self.assertEqual((m.unpack("QIIIII")[:3], len(m.fds)), ((back.handle, server.worker, server.app), 3))
        self.assertTrue(os.readlink(f"/proc/self/fd/{m.fds[2]}").startswith("pipe:["))
        m.close()
        gone = self.app()
        gone.close()
        self.wait_until(lambda: len(server.show("WORKERS")) == 2, "its end")
        server.send("ANNOUNCE", outbox_body(back.handle, worker=gone.worker))
        self.assertEqual(server.status()[0], 0)
        server.send("ANNOUNCE", outbox_body(back.handle, worker=server.worker))
        self.assert_closed(server)


class Death(RegistryTest):
    def test_both_sides_are_told_once(self):
        server, client, box = self.pair()
        self.assertEqual(server.get_outbox(box.handle)[0], 0)
        back = server.outbox(1, client.app)
        server.send("ANNOUNCE", outbox_body(back.handle, worker=client.worker))
        self.news(client, "PEER").close()
        bystander = self.app()
        server.close()
        self.assertEqual(self.news(client, "LISTENER_GONE").unpack("II")[0], self.listener)
        self.assertEqual(self.dead(client), (server.worker, server.app))
        self.assertTrue(client.quiet())
        self.assertTrue(bystander.quiet(0.05))

    def test_offerers_hear_of_one_of_several_acceptors(self):
        server, client, box = self.pair()
        child = server.fork(5)
        self.addCleanup(child.close)
        self.assertEqual(child.child_hello(), 0)
        number, app = child.worker, server.app
        child.close()
        self.assertEqual(self.dead(client), (number, app))
        self.assertTrue(client.quiet())

    def test_what_it_had_sent_is_worked_off_first(self):
        for _ in range(50):
            server, client = self.app(), self.app()
            _, number, _, _ = server.listen(port=0)
            box = client.outbox(1, server.app, register=False)
            box.info(0, ("127.0.0.1", 4000), ("127.0.0.1", 80), listener=number)
            box.slot(0, OFFERED)
            client.send("STATUS")  # its answer is never read: the close then resets the connection
            client.send("OUTBOX", outbox_body(box.handle, facing=server.app), (box.memory.fd,))
            m = box.segment(1)
            client.send("SEGMENT", outbox_body(box.handle, index=1), (m.fd,))
            client.keep.append(m)
            client.sock.close()
            self.wait_until(lambda: len(server.show("WORKERS")) == 1, "its death")
            self.assertEqual(server.get_outbox(box.handle), (0, client.worker, client.app, 1, 3))
            m = server.ask("GET_SEGMENT", outbox_body(box.handle, index=1))
            self.assertEqual((m.status, len(m.fds)), (0, 1))
            m.close()
            server.close()
            client.close()
            other = self.app(False)
            self.wait_until(lambda: not other.show("WORKERS"), "both deaths")

    def family(self):
        """A pair whose client has forked a child, which is its member 5. The server was given the client's outbox."""
        server, client, box = self.pair()
        self.assertEqual(server.get_outbox(box.handle)[0], 0)
        child = client.fork(5)
        self.addCleanup(child.close)
        self.assertEqual(child.child_hello(), 0)
        return server, client, box, child

    def test_forked_child_goes_on_with_the_sessions(self):
        server, client, box, child = self.family()
        client.close()
        self.assertEqual(self.dead(child, "MEMBER_DEAD"), (client.worker, 0))
        self.assertTrue(server.quiet())
        self.assertEqual(server.get_outbox(box.handle)[3], 0)
        child.close()
        self.assertEqual(self.dead(server), (client.worker, client.app))

    def test_of_a_child_only_the_family_hears(self):
        server, client, box, child = self.family()
        number = child.worker
        grandchild = child.fork(6)
        self.addCleanup(grandchild.close)
        self.assertEqual(grandchild.status()[0], 0)
        child.close()
        for member in (client, grandchild):
            self.assertEqual(self.dead(member, "MEMBER_DEAD"), (number, 5))
        self.assertTrue(server.quiet())

    def test_a_child_that_leaves_the_outbox_holds_it_no_more(self):
        server, client, box, child = self.family()
        client.send("LEAVE", outbox_body(box.handle))  # its own it cannot leave
        server.send("LEAVE", outbox_body(box.handle))  # nor what it does not hold
        for _ in range(2):
            child.send("LEAVE", outbox_body(box.handle))
        for app in (client, server, child):
            self.assertEqual(app.status()[0], 0)
        self.assertTrue(server.quiet())
        client.close()
        self.assertEqual(self.dead(server), (client.worker, client.app))

    def test_the_last_holder_leaves_the_outbox(self):
        server, client, box, child = self.family()
        client.close()
        self.assertEqual(self.dead(child, "MEMBER_DEAD"), (client.worker, 0))
        self.assertTrue(server.quiet())
        child.send("LEAVE", outbox_body(box.handle))
        self.assertEqual(self.dead(server), (client.worker, client.app))
        self.assertEqual(child.status()[0], 0)

    def test_child_adds_to_the_parents_outbox(self):
        server, client, box = self.pair()
        child = client.fork()
        self.addCleanup(child.close)
        m = box.segment(1)
        child.send("SEGMENT", outbox_body(box.handle, index=1), (m.fd,))
        m.close()
        self.assertEqual(child.status()[0], 0)
        self.assertEqual(self.segments(box.handle), [0, 1])
        mine = self.app()
        m = box.segment(2)
        mine.send("SEGMENT", outbox_body(box.handle, index=2), (m.fd,))
        m.close()
        self.assert_closed(mine)

    def offer(self):
        """One that its connector does not live to see answered."""
        server, client, box = self.pair()
        box.info(0, ("127.0.0.1", 4000), ("127.0.0.1", 8080), listener=self.listener)
        box.slot(0, OFFERED)
        m = client.ask("INTRODUCE", struct.pack("=IIQ", self.listener, 0, box.handle))
        os.write(m.fds[0], b"t" * 64)
        queue = os.dup(m.fds[0])
        self.addCleanup(os.close, queue)
        m.close()
        client.close()
        return server, box, queue

    def test_offers_are_kept_while_somebody_may_take_them(self):
        server, box, _ = self.offer()
        time.sleep(3)
        self.assertEqual(server.get_outbox(box.handle)[3], 1)
        self.assertEqual(server.queue.read(), b"t" * 64)  # taken and forgotten: then it goes, after a few looks
        self.wait_until(lambda: server.get_outbox(box.handle)[0] == E["E_BAD_HANDLE"], "the outbox to go", 20)

    def test_offers_of_others_in_the_queue_keep_nothing(self):
        server, box, queue = self.offer()
        self.assertEqual(server.queue.read(), b"t" * 64)
        time.sleep(0.5)  # the daemon has looked, and seen that it was taken
        self.assertEqual(server.get_outbox(box.handle)[3], 1)
        os.write(queue, b"o" * 64)
        self.wait_until(lambda: server.get_outbox(box.handle)[0] == E["E_BAD_HANDLE"], "the outbox to go", 20)

    def test_sessions_are_kept_until_the_peer_is_done(self):
        server, client, box = self.pair()
        back = server.outbox(1, client.app)
        for i in range(2):
            box.info(i, ("127.0.0.1", 4000 + i), ("127.0.0.1", 8080), peer_outbox=back.handle, listener=self.listener)
            box.slot(i, OPEN, peer=1 << 32 | i, tail=100)
            back.info(i, ("127.0.0.1", 8080), ("127.0.0.1", 4000 + i), peer_outbox=box.handle, listener=self.listener)
            back.slot(i, ACCEPTED, peer=1 << 32 | i, head=40)
        self.assertEqual(server.status()[0], 0)
        client.close()
        self.wait_until(lambda: len(server.show("WORKERS")) == 1, "its death")
        self.assertEqual(server.get_outbox(box.handle)[3], 1)
        back.slot(0, CLOSED, peer=1 << 32 | 0)
        time.sleep(1)
        self.assertEqual(server.get_outbox(box.handle)[3], 1)
        back.slot(1, FREE)
        self.wait_until(lambda: server.get_outbox(box.handle)[0] == E["E_BAD_HANDLE"], "the outbox to go", 10)
        self.assertEqual(self.app(False).show("SEGMENTS"), [])

    def test_at_most_so_many_are_kept(self):
        server = self.app()
        _, number, _, _ = server.listen(port=80)
        handles = []
        for i in range(1100):
            client = App(self.runtime_dir)
            self.assertEqual(client.hello(), 0)
            box = client.outbox(1, server.app, register=False)
            box.info(0, ("127.0.0.1", 4000), ("127.0.0.1", 80), listener=number)
            box.slot(0, OFFERED)
            m = client.ask("INTRODUCE", struct.pack("=IIQ", number, 0, box.handle), (box.memory.fd,))
            if i == 0:
                os.write(m.fds[0], b"t" * 64)
            m.close()
            client.close()
            handles.append(box.handle)
        self.wait_until(lambda: len(server.show("WORKERS")) == 1, "all deaths")
        self.assertEqual(server.get_outbox(handles[0])[0], E["E_BAD_HANDLE"])
        self.assertEqual([server.get_outbox(h)[3] for h in handles[-1024:]], [1] * 1024)
        server.close()
        self.wait_until(lambda: self.app(False).show("SEGMENTS") == [], "the rest to go with the app")

    def test_sleepers_are_woken(self):
        libc = ctypes.CDLL(None, use_errno=True)
        server, client, box = self.pair()
        box.slot(7, OPEN, tail=1)
        m = server.ask("GET_OUTBOX", outbox_body(box.handle))
        size = 1 << 20
        libc.mmap.restype = ctypes.c_void_p
        base = libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, m.fds[0], ctypes.c_long(0))
        m.close()
        woken = []

        def sleeper(at, value):
            timeout = struct.pack("=qq", 20, 0)
            libc.syscall(202, ctypes.c_void_p(base + CHUNK0 + 7 * 64 + at), 0, value, timeout, None, 0)
            woken.append(time.monotonic())
        threads = [threading.Thread(target=sleeper, args=a) for a in ((0, 2), (16, 0))]
        for t in threads:
            t.start()
        time.sleep(0.3)
        self.assertEqual(woken, [])
        start = time.monotonic()
        client.close()
        for t in threads:
            t.join()
        self.assertLess(max(woken) - start, harness.slow(5))


class Ports(RegistryTest):
    def test_never_double(self):
        apps = [self.app() for _ in range(40)]
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        given = set()
        taken = {app.listen(port=0)[3] for app in apps}
        for i, app in enumerate(apps * 5):
            status, first, count = app.ports("127.0.0.%d" % (1 + i % 3), 1 + i * 7 % 90)
            self.assertEqual(status, 0)
            block = set(range(first, first + count))
            self.assertFalse(block & given)
            self.assertFalse(block & taken)
            self.assertTrue(10240 <= first and first + count <= 65536)
            self.assertFalse(block & set(range(low, high + 1)))
            given |= block

    def test_all_of_them_and_back(self):
        app = self.app()
        blocks = []
        while True:
            status, first, count = app.ports(count=1024)
            if status:
                break
            blocks.append((first, count))
        self.assertEqual(status, E["E_LIMIT"])
        self.assertGreater(len(blocks), 5)
        self.assertEqual(app.ports("::1", 64)[0], 0)  # another address has its own
        app.return_ports(*blocks[0])
        self.assertEqual(app.ports(count=1024)[0], 0)
        self.exhaust(app)
        other = self.app()
        other.return_ports(*blocks[0])  # not its own
        self.assertEqual(other.ports(count=1024)[0], E["E_LIMIT"])
        app.close()
        self.wait_until(lambda: other.ports(count=1024)[0] == 0, "the dead one's ports")

    def test_refusals(self):
        app = self.app()
        self.assertEqual(app.ports(count=0)[0], E["E_INVALID"])
        self.assertEqual(app.ports(count=2000)[0], E["E_INVALID"])
        self.assertEqual(app.ports("93.184.216.34")[0], E["E_ADDRESS"])
        self.assertEqual(app.ports("0.0.0.0")[0], E["E_ADDRESS"])

    def exhaust(self, app):
        while app.ports(count=1024)[0] == 0:
            pass
        while app.ports(count=64)[0] == 0:
            pass

    def test_kept_while_a_child_or_a_session_lives(self):
        server, client, box = self.pair()
        status, first, count = client.ports(count=64)
        self.assertEqual(status, 0)
        back = server.outbox(1, client.app)
        box.info(0, ("127.0.0.1", first), ("127.0.0.1", 8080), peer_outbox=back.handle)
        box.slot(0, OPEN, peer=1 << 32)
        back.info(0, ("127.0.0.1", 8080), ("127.0.0.1", first), peer_outbox=box.handle)
        back.slot(0, ACCEPTED, peer=1 << 32)
        child = client.fork()
        self.assertEqual(child.status()[0], 0)
        client.close()
        greedy = self.app()
        self.exhaust(greedy)
        child.close()
        self.dead_ends(greedy, first, gone=False)
        back.slot(0, FREE)
        self.dead_ends(greedy, first, gone=True)

    def dead_ends(self, greedy, first, gone):
        self.wait_until(lambda: len(greedy.show("WORKERS")) == 2, "the deaths")
        if gone:
            self.wait_until(lambda: greedy.ports(count=64)[0] == 0, "the lease")
        else:
            self.assertEqual(greedy.ports(count=64)[0], E["E_LIMIT"])


class Show(RegistryTest):
    limit = 240

    def test_sessions(self):
        server, client, box = self.pair()
        back = server.outbox(1, client.app)
        self.assertEqual(server.status()[0], 0)
        box.info(0, ("127.0.0.1", 4000), ("127.0.0.1", 8080), peer_outbox=back.handle)
        box.slot(0, OPEN, peer=1 << 32 | 5, tail=1000, head=70, ring=0x4000 << 16 | 16 << 10)
        back.info(5, ("127.0.0.1", 8080), ("127.0.0.1", 4000), peer_outbox=box.handle)
        back.slot(5, ACCEPTED, peer=1 << 32 | 0, tail=100, head=900)
        box.info(1, ("127.0.0.1", 4001), ("127.0.0.1", 8080))
        box.slot(1, OFFERED, tail=5)                      # nobody has answered
        box.info(2, ("127.0.0.1", 4002), ("127.0.0.1", 8080))
        box.slot(2, OFFERED)                              # answered, and not yet seen
        back.info(6, ("127.0.0.1", 8080), ("127.0.0.1", 4002), peer_outbox=box.handle)
        back.slot(6, ACCEPTED, peer=1 << 32 | 2)
        box.info(3, ("127.0.0.1", 4003), ("127.0.0.1", 8080), peer_outbox=back.handle)
        box.slot(3, OPEN, peer=9 << 32 | 5)               # names another generation
        box.info(4, ("127.0.0.1", 4004), ("127.0.0.1", 8080), peer_outbox=12345)
        box.slot(4, OPEN, peer=0xffffffffffffffff, tail=2**62, head=2**61)
        box.slot(5, 200)
        rows = {r["local"]: r for r in server.show("SESSIONS")}
        self.assertEqual(sorted(rows), [f"127.0.0.1:{p}" for p in range(4000, 4005)])
        row = rows["127.0.0.1:4000"]
        self.assertEqual({k: row[k] for k in ("remote", "local_app_name", "remote_app_name", "local_state", "remote_state",
                                              "tx_bytes", "rx_bytes", "tx_fill", "rx_fill", "tx_ring", "rx_ring")},
                         {"remote": "127.0.0.1:8080", "local_app_name": "client", "remote_app_name": "server",
                          "local_state": "open", "remote_state": "accepted", "tx_bytes": 1000, "rx_bytes": 100,
                          "tx_fill": 100, "rx_fill": 30, "tx_ring": 65536, "rx_ring": 0})
        self.assertEqual([rows[f"127.0.0.1:{p}"]["remote_state"] for p in (4001, 4002, 4003, 4004)],
                         ["none", "accepted", "none", "none"])
        self.assertEqual(len(server.show("SESSIONS")), 5)
        client.close()
        self.wait_until(lambda: {r["local_state"] for r in server.show("SESSIONS")} == {"dead"}, "the state of a dead one")

    def test_a_hundred_thousand(self):
        n, chunk, per = 100000, CHUNK_SLOTS * 128, CHUNK_SLOTS
        server, client = self.app(name="server"), self.app(name="client")
        boxes = []
        for app, other in ((client, server), (server, client)):
            size = (1 << 20) + (n // per + 1) * chunk
            size = (size + 4095) // 4096 * 4096
            box = Outbox(app, 1, other.app, size)
            app.keep.append(box)
            chunks = n // per + 1
            struct.pack_into("=I", box.memory.map, 36, chunks)
            places = [CHUNK0] + [(1 << 20) + i * chunk for i in range(1, chunks)]
            for i in range(1, chunks):
                struct.pack_into("=Q", box.memory.map, 4096 + i * 8, places[i] // 4096 << 16 | 15 << 10)
            boxes.append((box, places))
        here = address("127.0.0.1")
        for (box, places), (other, _), state in ((*boxes, OPEN), (*boxes[::-1], ACCEPTED)):
            for i in range(n):
                at = places[i // per] + i % per * 64
                SLOT.pack_into(box.memory.map, at, 200, 0, 100, 0, 0, state, 0, 0, 0, 1, 1 << 32 | (i * 7919) % n
                               if state == OPEN else 1 << 32 | self.inverse(i, n), 0)
                INFO.pack_into(box.memory.map, at + per * 64, here, here, i % 65536, 80, 6, 4, 0, 1, 1, other.handle, 0)
        for app, other, (box, _) in ((client, server, boxes[0]), (server, client, boxes[1])):
            app.send("OUTBOX", outbox_body(box.handle, facing=other.app), (box.memory.fd,))
            self.assertEqual(app.status()[0], 0)
        start = time.monotonic()
        rows = server.show("SESSIONS")
        print(f"100,000 sessions shown in {time.monotonic() - start:.2f} s", file=sys.stderr)
        self.assertEqual(len(rows), n)
        self.assertTrue(all(r["remote_state"] == "accepted" for r in rows))
        start = time.monotonic()
        client.close()
        self.wait_until(lambda: len(server.show("WORKERS")) == 1, "the death")
        print(f"a death with 100,000 sessions in {time.monotonic() - start:.2f} s", file=sys.stderr)

    @staticmethod
    def inverse(i, n):
        return i * pow(7919, -1, n) % n


if __name__ == "__main__":
    unittest.main()
