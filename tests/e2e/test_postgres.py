"""PostgreSQL: a server that forks for each connection and does its work in signal handlers. It does not run as root."""

import glob
import os
import pwd
import signal
import time

import harness

BIN = max(glob.glob("/usr/lib/postgresql/*/bin"), default="/usr/bin")
CONF = """
port = {port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
max_connections = {connections}
"""


@harness.needs_preload
@harness.needs(f"{BIN}/postgres", f"{BIN}/pgbench", f"{BIN}/psql", "setpriv")
class Postgres(harness.TestCase):
    connections = 50

    def setUp(self):
        super().setUp()
        self.become = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            self.become = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
            os.chown(self.runtime_dir, user.pw_uid, user.pw_gid)
        data = os.path.join(self.scratch, "data")
        os.mkdir(data)
        if self.become:
            os.chown(data, user.pw_uid, user.pw_gid)
        done = self.run_program(*self.become, f"{BIN}/initdb", "-D", data, "-A", "trust", "-U", "test", "-N", "--locale=C")
        self.assertEqual(done.code, 0, repr(done))
        self.port = self.free_port()
        with open(os.path.join(data, "postgresql.conf"), "a") as f:
            f.write(CONF.format(port=self.port, connections=self.connections))
        self.data = data

    def command(self, under, program, *args):
        return [*self.become, *([harness.BERTH, "run", "--"] if under else []), f"{BIN}/{program}", *args]

    def serve(self, under):
        self.server = self.start(*self.command(under, "postgres", "-D", self.data))
        self.wait_listening(self.port, self.server)
        self.wait_until(lambda: "ready to accept" in self.server.err, "the server", 20)

    def client(self, under, program, *args, seconds=20):
        return self.run_program(*self.command(under, program, "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", *args, "postgres"),
                                seconds=seconds)

    def check(self, *args, **more):
        done = self.client(*args, **more)
        self.assertEqual(done.code, 0, f"{done!r}\n{self.server!r}")
        return done.out

    def bench(self, under, *args):
        out = self.check(under, "pgbench", "-n", *args)
        self.assertIn("number of failed transactions: 0", out)
        return int(out.split("transactions actually processed: ")[1].split("/")[0].split()[0])

    def ask(self, under):
        self.assertEqual(self.check(under, "psql", "-XAtc", "select 6*7", seconds=10), "42\n")

    def stop_fast(self):
        # a backend whose client has just left would be told to end, and log that it was
        self.wait_until(lambda: not self.backends(), "the backends' ends", 10)
        self.server.kill(signal.SIGINT)
        self.assertEqual(self.server.wait(15), 0, repr(self.server))
        self.assertIn("database system is shut down", self.server.err)
        self.assertNotIn("Bad file descriptor", self.server.err)
        self.assertNotIn("FATAL", self.server.err)

    def backends(self):
        return [pid for pid, line in harness.children_of(self.server.pid).items() if "127.0.0.1" in line]

    def test_both_ends(self):
        self.serve(True)
        self.check(True, "pgbench", "-i", "-q")
        self.assertGreater(self.bench(True, "-c", "8", "-T", "2", "-C"), 20)
        bench = self.start(*self.command(True, "pgbench", "-n", "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", "-c", "8",
                                         "-T", "2", "postgres"))
        self.wait_until(lambda: len(self.show("sessions")) >= 8 or not bench.running(), "8 sessions")
        self.assertTrue(bench.running(), repr(bench))  # else the kernel carries them
        self.assertEqual(bench.wait(20), 0, f"{bench!r}\n{self.server!r}")
        self.assertIn("number of failed transactions: 0", bench.out)
        for _ in range(15):
            self.ask(True)
        self.stop_fast()

    def test_each_end_alone(self):
        for server, client in ((True, False), (False, True)):
            self.serve(server)
            self.check(client, "pgbench", "-i", "-q")
            self.assertEqual(self.bench(client, "-c", "4", "-t", "10", "-C"), 40)
            self.assertEqual(self.bench(client, "-c", "4", "-t", "100"), 400)
            for _ in range(3):
                self.ask(client)
            self.stop_fast()

    def test_backends_killed(self):
        """The server then ends all others and begins anew; no client may wait for ever."""
        self.serve(True)
        self.check(True, "pgbench", "-i", "-q")
        for _ in range(3):
            bench = self.start(*self.command(True, "pgbench", "-n", "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", "-c", "6",
                                             "-T", "20", "postgres"))
            self.wait_until(lambda: len(self.backends()) >= 6 or not bench.running(), "the backends")
            time.sleep(0.1)
            said = self.server.err.count("ready to accept")
            os.kill(self.backends()[0], signal.SIGKILL)
            self.assertNotEqual(bench.wait(10), 0, repr(bench))
            self.wait_until(lambda: self.server.err.count("ready to accept") > said, "the server once more", 10)
            self.ask(True)
        self.server.kill(signal.SIGINT)
        self.assertEqual(self.server.wait(15), 0, repr(self.server))


class ManyConnections(Postgres):
    """A family of hundreds of processes."""

    connections = 520
    test_both_ends = test_each_end_alone = test_backends_killed = None

    def test_a_hundred_clients(self):
        self.serve(True)
        self.check(True, "pgbench", "-i", "-q")
        bench = self.start(*self.command(True, "pgbench", "-n", "-S", "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", "-c",
                                         "100", "-j", "2", "-T", "4", "postgres"))
        self.wait_until(lambda: len(self.show("sessions")) >= 100 or not bench.running(), "100 sessions", 30)
        self.assertTrue(bench.running(), f"{bench!r}\n{self.server!r}")  # else the kernel carries them
        # each backend has its own, so that a message wakes one of them and not all
        owners = lambda: {pid for row in self.show("sessions") for pid in (row["local_pid"], row["remote_pid"])}
        self.wait_until(lambda: len(owners()) >= 90 or not bench.running(), "sessions in the backends' own outboxes", 20)
        self.assertTrue(bench.running(), f"{bench!r}\n{self.server!r}")
        self.assertEqual(bench.wait(40), 0, f"{bench!r}\n{self.server!r}")
        self.assertIn("number of failed transactions: 0", bench.out)
        self.assertEqual(self.bench(True, "-c", "100", "-j", "2", "-t", "2"), 200)  # writing; in the places of the first
        self.ask(True)
        self.stop_fast()

    def test_five_hundred_connections(self):
        """All of them alive at once, each with queries of its own."""
        self.serve(True)
        self.check(True, "pgbench", "-i", "-q")
        bench = self.start(*self.command(True, "pgbench", "-n", "-S", "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", "-c", "500",
                                         "-j", "2", "-t", "3", "postgres"))
        most = 0
        while bench.running():
            most = max(most, len(self.show("sessions")))
            time.sleep(0.2)
        self.assertEqual(bench.wait(90), 0, f"{bench!r}\n{self.server!r}")
        self.assertIn("transactions actually processed: 1500/1500", bench.out)
        self.assertIn("number of failed transactions: 0", bench.out)
        self.assertGreaterEqual(most, 450)  # else the kernel carries them
        self.ask(True)
        self.assertNotIn("berth[", self.server.err)


@harness.needs_root
@harness.needs("runuser", "su")
class StartedByRoot(Postgres):
    """`berth run` is root's, and what it starts becomes the database's user, each in another way. The daemon is that user's."""

    test_backends_killed = None

    def setUp(self):
        super().setUp()
        daemon = self.start(*self.become, harness.BERTH, "daemon")
        self.wait_until(lambda: self.daemon_answers() or not daemon.running(), "the daemon", 10)

    def command(self, under, program, *args):
        become = {"postgres": self.become, "pgbench": ["runuser", "-u", "postgres", "--"],
                  "psql": ["su", "postgres", "-s", "/bin/sh", "-c", 'exec "$0" "$@"', "--"]}[program]
        return [*([harness.BERTH, "run", "--"] if under else []), *become, f"{BIN}/{program}", *args]



if __name__ == "__main__":
    harness.main()
