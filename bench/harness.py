"""Private surroundings for measuring: a runtime directory, a daemon, servers and clients, and nothing left behind.

Everything that is started goes through Lab: its own temporary directory, its own process groups, free ports, a time
limit for each program. Lab.close() ends exactly what was started and removes the directory. Standard library only.
"""
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A measurement that gave no number; the text says why."""


def end_cleanly_on_sigterm():
    """Otherwise the interpreter would go without closing the Lab."""
    def leave(number, _frame):
        raise SystemExit(128 + number)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def find_build(given=None):
    """Where the berth command is, and the directory of the measuring programs: a build tree, or an installation.

    `berth bench` tells by BERTH_BUILD in which directory it lies itself."""
    own = os.environ.get("BERTH_BUILD")
    if not given and os.path.exists(os.path.join(HERE, "limits")):
        berth = os.path.join(own, "berth") if own else shutil.which("berth")
        if berth:
            return berth, HERE
        raise Failed("no berth command in PATH")
    place = os.path.abspath(given or own or os.path.join(HERE, "..", "build"))
    if not os.path.exists(os.path.join(place, "bench", "limits")):
        raise Failed("no build in %s; run make first, or name one with --build" % place)
    return os.path.join(place, "berth"), os.path.join(place, "bench")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Program:
    """One started program and all it starts, a process group of their own."""

    def __init__(self, command, env, cwd, log):
        self.name = os.path.basename(command[-1 if len(command) == 1 else 0])
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=out, start_new_session=True, preexec_fn=_die_with_parent)

    def said(self):
        with open(self.log, "rb") as f:
            return f.read().decode(errors="replace").strip()[-500:]

    def alive(self):
        return self.process.poll() is None

    def stop(self, grace=3):
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                pass
        try:  # the group still exists when a child outlived the leader
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            pass


class Lab:
    def __init__(self, berth, tools):
        self.berth = berth
        self.tools = tools
        self.dir = tempfile.mkdtemp(prefix="berth-bench-")
        self.runtime = os.path.join(self.dir, "run")
        os.mkdir(self.runtime, 0o700)
        self.env = dict(os.environ, BERTH_RUNTIME_DIR=self.runtime, LC_ALL="C")
        self.env.pop("LD_PRELOAD", None)
        self.programs = []
        self.daemon = None
        self.counter = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        for program in reversed(self.programs):
            program.stop()
        self.programs = []
        shutil.rmtree(self.dir, ignore_errors=True)

    # ---- starting things ----

    def start(self, command, env=None):
        self.counter += 1
        program = Program(command, dict(self.env, **(env or {})), self.dir, "%s/log.%d" % (self.dir, self.counter))
        self.programs.append(program)
        return program

    def stop(self, program):
        program.stop()
        if program in self.programs:
            self.programs.remove(program)

    def run(self, command, timeout, together=1):
        """Run to the end, give back its standard output; with `together`, that many at once and a list."""
        processes = [subprocess.Popen(command, env=self.env, cwd=self.dir, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                      preexec_fn=_die_with_parent) for _ in range(together)]
        try:
            outputs = [self._finish(process, command, timeout) for process in processes]
        finally:
            for process in processes:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                if process.poll() is None:
                    process.communicate()
        return outputs[0] if together == 1 else outputs

    @staticmethod
    def _finish(process, command, timeout):
        name = os.path.basename(command[0])
        if name == "berth" and "--" in command:
            name = os.path.basename(command[command.index("--") + 1]) + " under berth"
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed("%s did not end within %d s" % (name, timeout))
        out, err = out.decode(errors="replace"), err.decode(errors="replace").strip()
        if process.returncode != 0:
            said = (err or out.strip()).splitlines()
            raise Failed("%s ended with %d: %s" % (name, process.returncode, said[-1] if said else "(silent)"))
        return out

    def under(self, world, command):
        """The command as it is, or to be run under berth."""
        return [self.berth, "run", "--"] + command if world == "run" else command

    def daemon_start(self):
        if self.daemon and self.daemon.alive():
            return
        self.daemon = self.start([self.berth, "daemon"])
        path = os.path.join(self.runtime, "control.sock")
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                try:
                    s.connect(path)
                    return
                except OSError:
                    pass
            if not self.daemon.alive():
                raise Failed("berth daemon ended with %d: %s" % (self.daemon.process.returncode, self.daemon.said()))
            time.sleep(0.02)
        raise Failed("berth daemon does not answer at %s" % path)

    # ---- the measuring programs ----

    def tool(self, name, *args, world=None, timeout=60, together=1):
        path = os.path.join(self.tools, name)
        if not os.path.exists(path):
            raise Failed("%s is not built" % name)
        out = self.run(self.under(world, [path] + [str(a) for a in args]), timeout, together)
        try:
            return json.loads(out) if together == 1 else [json.loads(o) for o in out]
        except ValueError:
            raise Failed("%s printed %r" % (name, out[-200:]))

    # ---- servers ----

    def wait_port(self, port, program):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if not program.alive():
                raise Failed("%s ended with %d: %s" % (program.name, program.process.returncode, program.said()))
            with socket.socket() as s:
                s.settimeout(1)
                try:
                    s.connect(("127.0.0.1", port))
                    return
                except OSError:
                    time.sleep(0.02)
        raise Failed("%s does not listen on port %d: %s" % (program.name, port, program.said()))

    def redis(self, world, cpu=None):
        port = free_port()
        program = self.start(pinned(cpu) + self.under(world, [
            need("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--daemonize", "no", "--dir", self.dir]))
        self.wait_port(port, program)
        return program, port

    def nginx(self, world):
        port = free_port()
        self.counter += 1
        home = "%s/nginx.%d" % (self.dir, self.counter)
        os.makedirs(home + "/html")
        with open(home + "/html/index.html", "w") as f:
            f.write("<html><body>" + "berth " * 90 + "</body></html>\n")
        temporary = "".join("  %s_temp_path %s/%s;\n" % (kind, home, kind)
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        with open(home + "/nginx.conf", "w") as f:
            # Root's workers stay root: cut-through is between processes of one user.
            f.write("%sdaemon off;\nworker_processes 2;\npid %s/pid;\nerror_log %s/error.log;\n"
                    "events { worker_connections 1024; }\n"
                    "http {\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 100000000;\n"
                    "  open_file_cache max=100;\n%s"
                    "  server { listen 127.0.0.1:%d; root %s/html; }\n}\n"
                    % ("user root;\n" if os.geteuid() == 0 else "", home, home, temporary, port, home))
        program = self.start(self.under(world, [need("nginx"), "-e", home + "/error.log", "-p", home,
                                                "-c", home + "/nginx.conf"]))
        self.wait_port(port, program)
        return program, port

    # ---- clients; each gives a rate ----

    def redis_get(self, world, port, clients, pipeline, seconds, cpu=None):
        """GETs a second. A short run first tells how many make up the time asked for."""
        def once(n):
            out = self.run(pinned(cpu) + self.under(world, [
                need("redis-benchmark"), "-h", "127.0.0.1", "-p", str(port), "-t", "get", "-c", str(clients),
                "-P", str(pipeline), "-n", str(n), "--csv"]), 60)
            found = re.search(r'^"GET[^"]*","?([0-9.]+)', out, re.M)
            if not found:
                raise Failed("redis-benchmark printed %r" % out[-200:])
            return float(found.group(1))
        rate = once(2000 * pipeline)
        return {"rate": once(max(1000, int(rate * seconds)))}

    def beside_hogs(self, count, work):
        """While so many processes compute without end."""
        hogs = [self.start([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        try:
            return work()
        finally:
            for hog in hogs:
                self.stop(hog)

    def wrk(self, world, port, connections, seconds, close):
        out = self.run(self.under(world, [
            need("wrk"), "-t", "1", "-c", str(connections), "-d", "%ds" % max(1, round(seconds))]
            + (["-H", "Connection: close"] if close else []) + ["http://127.0.0.1:%d/" % port]), 60)
        found = re.search(r"Requests/sec:\s+([0-9.]+)", out)
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
        if not found or float(found.group(1)) == 0 or bad:
            raise Failed("wrk printed %r" % out[-300:])
        result = {"rate": float(found.group(1))}
        if errors and sum(int(n) for n in errors.groups()):
            result["errors"] = sum(int(n) for n in errors.groups())
        return result

    def iperf3(self, world, seconds):
        port = free_port()
        server = self.start(self.under(world, [need("iperf3"), "-s", "-1", "-p", str(port), "-B", "127.0.0.1"]))
        try:
            # Its first connection is the test, so it must not be probed.
            end = time.monotonic() + 10
            while not _listening(port):
                if not server.alive() or time.monotonic() > end:
                    raise Failed("iperf3 server: %s" % (server.said() or "does not listen"))
                time.sleep(0.02)
            out = self.run(self.under(world, [need("iperf3"), "-c", "127.0.0.1", "-p", str(port), "-t",
                                              str(max(1, round(seconds))), "-J"]), 60)
            try:
                return {"rate": json.loads(out)["end"]["sum_received"]["bits_per_second"] / 1e9}
            except (ValueError, KeyError):
                raise Failed("iperf3 printed %r" % out[-200:])
        finally:
            self.stop(server)


def _listening(port):
    with open("/proc/net/tcp") as f:
        return any(":%04X 00000000:0000 0A" % port in line for line in f)


PACKAGE_OF = {"redis-server": "redis-server", "redis-benchmark": "redis-tools", "redis-cli": "redis-tools",
              "nginx": "nginx-light", "wrk": "wrk", "iperf3": "iperf3"}


def pinned(cpu):
    """What makes a command run on the n-th CPU that we may use; None: on any."""
    cpus = sorted(os.sched_getaffinity(0))
    return [] if cpu is None else [need("taskset"), "-c", str(cpus[cpu % len(cpus)])]


def need(program):
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
    if not path:
        raise Failed("%s is not installed (Debian package %s)" % (program, PACKAGE_OF.get(program, program)))
    return path


def median(values):
    return statistics.median(values)
