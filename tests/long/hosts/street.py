"""The street: three hosts with networks of their own, behind one bridge, and nginx in front."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.kit.proxy import FILES, HOSTS, HTTP, MAIN, SITE, changed
from tests.kit.servers import NO_CONTROL_SOCKET, ROOT, free_port, wait_until

#: The address of the street itself, with the Redis and nginx, for the hosts.
HERE = "10.78.0.1"

COUNT = 3

#: What comes before a program that is to run in a network of its own. The user stays the same:
#: PostgreSQL does not run as root, and root starts it as another user.
UNSHARE = ("unshare", "--net")
if os.geteuid() != 0:
    UNSHARE += ("--map-current-user", "--keep-caps")

#: Seconds after which the nginx of the street gives up a silent host. The streams' heartbeats
#: come each second.
SILENCE = 5

#: Seconds after which nginx asks another host than one that does not answer: see docs/deploy.rst.
REACHED = 2


def enter(module: str, argv: list[str]) -> None:
    """Begin the program *module* again in a network of its own, unless it runs in one already."""
    if "--inside" not in argv:
        os.chdir(ROOT)
        command = [*UNSHARE, sys.executable, "-m", module, "--inside", *argv]
        os.execvp(command[0], command)


def _ip(*words: str, of: int | None = None) -> None:
    """``ip`` with *words*, in the network of the process *of*; None means the street's own."""
    inside = [] if of is None else ["nsenter", f"--net=/proc/{of}/ns/net"]
    subprocess.run([*inside, "ip", *words], check=True)


class Host:
    """One host: a network with a cable to the street, and a gunicorn with *workers* in it."""

    def __init__(
        self, number: int, worker_class: str, config: dict[str, Any], workers: int
    ) -> None:
        self.address = f"10.78.0.{10 + number}"
        self.is_cut = False
        self._cable = f"host{number}"
        self._worker_class = worker_class
        self._config = config
        self._workers = workers
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by stop()
        self._text = b""
        self.process: subprocess.Popen[bytes] | None = None
        # It holds the network.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def start(self) -> None:
        """Lay the cable, and start gunicorn."""
        pid = self._holder.pid
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{pid}/ns/net").readlink() != own, "the host's network")
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "out", "netns", str(pid))
        _ip("link", "set", self._cable, "master", "street", "up")
        _ip("link", "set", "lo", "up", of=pid)
        _ip("address", "add", f"{self.address}/24", "dev", "out", of=pid)
        _ip("link", "set", "out", "up", of=pid)
        worker = self._worker_class
        worker = "ssestream.gunicorn.SseWorker" if worker == "SseWorker" else worker
        gunicorn = [sys.executable, "-m", "gunicorn", "-k", worker, "--workers", str(self._workers)]
        gunicorn += ["-b", f"{self.address}:8000", "-c", "tests/servers/apps/reload.conf.py"]
        self.process = subprocess.Popen(
            self.inside(*gunicorn, *NO_CONTROL_SOCKET, "tests.servers.apps.channels:app"),
            cwd=ROOT,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "CHANNELS_CONFIG": json.dumps(self._config),
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_until(
            lambda: self.log().count("Booting worker") == self._workers, f"{self.address} to serve"
        )

    def inside(self, *command: str) -> list[str]:
        """*command*, to be run in the network of this host."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *command]

    def cut_off(self) -> None:
        """Pull the cable: nobody is told that the host is gone."""
        _ip("link", "set", self._cable, "down")
        self.is_cut = True

    def come_back(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self._cable, "up")
        self.is_cut = False

    def reload(self) -> None:
        """Replace the workers, as an operator does, and wait until new ones serve."""
        assert self.process is not None
        before = self.log().count("Booting worker")
        self.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: self.log().count("Booting worker") >= before + self._workers, "the new workers"
        )

    def log(self) -> str:
        if not self._log.closed:
            self._log.seek(0)
            self._text = self._log.read()
        return self._text.decode(errors="replace")

    def stop(self) -> None:
        for process in (self.process, self._holder):
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        # The kernel takes the cable away, too, but later: another host may need its name.
        subprocess.run(["ip", "link", "delete", self._cable], capture_output=True, check=False)
        self.log()
        self._log.close()


class Street:
    """All hosts, and nginx in front of them on 127.0.0.1. It stands for one server in the tests."""

    def __init__(
        self, worker_class: str, config: dict[str, Any], count: int = COUNT, workers: int = 2
    ) -> None:
        self.hosts = [Host(number, worker_class, config, workers) for number in range(count)]
        self.port = free_port()
        self.nginx: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.mkdtemp(prefix="ssestream-hosts-")

    @staticmethod
    def pave() -> None:
        """Make the bridge that the hosts' cables end at. The hosts find Redis behind it."""
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "street", "type", "bridge")
        _ip("address", "add", f"{HERE}/24", "dev", "street")
        _ip("link", "set", "street", "up")

    def start(self) -> None:
        for host in self.hosts:
            host.start()
        folder = Path(self._folder)
        upstream = FILES[SITE + HOSTS]
        servers = "\n".join(f"    server {host.address}:8000 max_fails=0;" for host in self.hosts)
        upstream = re.sub(r"    server .*;\n    server .*;", servers, upstream)
        before, _, site = FILES[SITE].partition("server {\n    listen 443")
        pauses = before[before.index("# Milliseconds") : before.index("server {\n    listen 80")]
        site = changed(
            "server {\n    listen 443" + site,
            (
                ("listen 443 ssl http2;", f"listen 127.0.0.1:{self.port};"),
                ("    ssl_certificate /etc/ssl/certs/example.com.pem;\n", ""),
                ("    ssl_certificate_key /etc/ssl/private/example.com.key;\n", ""),
                (
                    "proxy_read_timeout 60s;",
                    f"proxy_read_timeout {SILENCE}s; proxy_connect_timeout {REACHED}s;",
                ),
            ),
        )
        text = HTTP.format(
            user="root", folder=folder, main=FILES[MAIN], site=upstream + pauses + site
        )
        (folder / "nginx.conf").write_text(text)
        with (folder / "nginx.log").open("ab") as log:
            self.nginx = subprocess.Popen(
                [shutil.which("nginx") or "/usr/sbin/nginx", "-p", folder, "-c", "nginx.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """What all hosts have logged."""
        return "".join(host.log() for host in self.hosts)

    def events(self, **match: Any) -> list[dict[str, Any]]:
        """What the app of any host has told."""
        found = [json.loads(text) for text in re.findall(r"@event (.*)\n", self.log())]
        return [event for event in found if all(event.get(k) == v for k, v in match.items())]

    def stop(self) -> None:
        if self.nginx is not None:
            self.nginx.terminate()
            self.nginx.wait()
        for host in self.hosts:
            host.stop()
        # Another host may get the address of one of these.
        _ip("neighbour", "flush", "dev", "street")
        shutil.rmtree(self._folder, ignore_errors=True)
