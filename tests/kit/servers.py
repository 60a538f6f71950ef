"""Real servers in processes of their own, and raw clients to treat them badly."""

import contextlib
import ctypes
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gunicorn.config import make_settings

ROOT = Path(__file__).parents[2]

#: The servers on which the client's socket is in reach.
SERVERS = (
    "gevent",
    "gevent_pywsgi",
    "gthread",
    "sync",
    "pywsgi",
    "flask",
    "waitress",
    "SseWorker",
)

#: uWSGI's ways to serve many streams, with the options of each. The client's socket is in reach.
UWSGI = {
    "uwsgi-gevent": ("--gevent", "64", "--gevent-monkey-patch"),
    "uwsgi-threads": ("--enable-threads", "--threads", "64"),
}

#: More servers on which the socket is in reach. What runs on `SERVERS` runs on them in long rows.
MORE_SERVERS = ("cheroot", *UWSGI)

#: Debian's Apache with mod_wsgi, of which the link names the Python that it is made for.
APACHE = Path("/usr/sbin/apache2")
MODULES = Path("/usr/lib/apache2/modules")
MOD_WSGI = MODULES / "mod_wsgi.so"

#: The kinds that do not say which port they have found.
NEED_A_PORT = ("waitress", "hypercorn", "cheroot", "granian", "mod_wsgi", *UWSGI)

PATIENCE = 60.0

#: Seconds for which two looks that follow each other count at most.
_LOOK = 1.0

#: For a gunicorn that would make a socket to be spoken to by; 23 does not know of it.
NO_CONTROL_SOCKET = ("--no-control-socket",) if "control_socket_disable" in make_settings() else ()


def _stay_deaf(number: int, frame: Any) -> None:
    """Do as `signal.SIG_IGN` does, in this process alone."""


# A shell starts a background job with the first two signals ignored, and nohup ignores the third.
# An ignored signal stays ignored in every program that the job starts, and tests stop such
# programs by these signals. A function as the handler is not passed on: the programs begin with
# the defaults.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _stay_deaf)


_PYWSGI = """
from gevent import monkey; monkey.patch_all()
import importlib, sys
from gevent.pywsgi import WSGIServer
module, _, name = sys.argv[1].partition(":")
server = WSGIServer(("127.0.0.1", 0), getattr(importlib.import_module(module), name), log=None)
server.start()
print("Listening at: http://127.0.0.1:%d" % server.server_port, file=sys.stderr, flush=True)
server.serve_forever()
"""


# A daemon process, which has what a signal or a touched script says to it. `folder` is the server's
# own, and Apache's user may read it.
_MOD_WSGI = """
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
Mutex file:{folder} default
ErrorLog /dev/stderr
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {modules}/mod_wsgi.so
User nobody
Group nogroup
WSGISocketPrefix {folder}/wsgi
WSGIDaemonProcess app threads={threads} python-path={path} display-name=%{{GROUP}}
WSGIProcessGroup app
WSGIApplicationGroup %{{GLOBAL}}
WSGIScriptAlias / {folder}/app.wsgi
<Directory {folder}>
    Require all granted
</Directory>
"""


class Patience:
    """*seconds* of looking for *what*.

    A machine that stands still for a minute takes a second of them: what is looked for stood, too.
    """

    def __init__(self, seconds: float, what: str) -> None:
        self._left, self._looked_at = seconds, time.monotonic()
        self._error = f"waited {seconds} s in vain for {what}"

    def look(self) -> None:
        """Raise `AssertionError` if the seconds are used up."""
        now = time.monotonic()
        self._left -= min(now - self._looked_at, _LOOK)
        self._looked_at = now
        assert self._left > 0, self._error


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Return what *condition* gives as soon as that is true; fail after *seconds*."""
    patience = Patience(seconds, what)
    while not (result := condition()):
        patience.look()
        time.sleep(0.005)
    return result


class Server:
    """One server process.

    *kind* is one of `SERVERS` or `UWSGI`, or ``"uvicorn"``, ``"hypercorn"``, ``"cheroot"``,
    ``"granian"`` or ``"mod_wsgi"``.
    """

    def __init__(
        self,
        kind: str,
        app: str,
        *,
        env: dict[str, str] | None = None,
        args: tuple[str, ...] = (),
        port: int = 0,
        threads: int = 64,
    ) -> None:
        self.kind = kind
        self._app = app
        self._args = args
        own = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        self.env = {**os.environ, **own, **(env or {})}
        self._threads = threads
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        #: The folder of Apache's files; None for another server.
        self.apache_folder: Path | None = None
        # Apache opens it a second time, so each writer appends.
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by stop()
        self._text = b""

    def _command(self) -> list[str]:
        python = sys.executable
        bind = f"127.0.0.1:{self.port}"
        if self.kind == "pywsgi":
            return [python, "-c", _PYWSGI, self._app]
        if self.kind == "flask":
            port = str(self.port)
            return [python, "-m", "flask", "--app", self._app, "run", "-p", port, *self._args]
        if self.kind == "waitress":
            threads = f"--threads={self._threads}"
            listen = f"--listen={bind}"
            return [python, "-m", "waitress", listen, threads, *self._args, self._app]
        if self.kind in UWSGI:
            # The path of the environment's Python, which uWSGI itself would resolve at a reload.
            program = [str(Path(python).with_name("uwsgi")), "--binary-path", python]
            options = ["--master", "--die-on-term", *UWSGI[self.kind]]
            if "--socket" not in self._args:
                options += ["--http-socket", bind]
            return [*program, *options, *self._args, "--module", self._app]
        if self.kind == "uvicorn":
            return [python, "-m", "uvicorn", "--port", str(self.port), *self._args, self._app]
        if self.kind == "hypercorn":
            return [python, "-m", "hypercorn", "-b", bind, *self._args, self._app]
        if self.kind == "cheroot":
            threads = f"--threads={self._threads}"
            return [python, "-m", "cheroot", f"--bind={bind}", threads, *self._args, self._app]
        if self.kind == "granian":
            options = ["--interface=wsgi", f"--port={self.port}"]
            options += [f"--blocking-threads={self._threads}", *self._args]
            return [python, "-m", "granian", *options, self._app]
        if self.kind == "mod_wsgi":
            return [str(APACHE), "-f", str(self._configure_apache()), "-DFOREGROUND"]
        worker = "ssestream.gunicorn.SseWorker" if self.kind == "SseWorker" else self.kind
        command = [python, "-m", "gunicorn", "-k", worker, "-b", bind, *NO_CONTROL_SOCKET]
        if self.kind == "gthread":
            command += ["--threads", str(self._threads)]
        return [*command, *self._args, self._app]

    def _configure_apache(self) -> Path:
        """Write the files of Apache into a folder of their own."""
        folder = self.apache_folder = Path(tempfile.mkdtemp(prefix="mod_wsgi"))
        folder.chmod(0o755)
        module, _, name = self._app.partition(":")
        (folder / "app.wsgi").write_text(f"from {module} import {name} as application\n")
        path = ":".join([*self.env["PYTHONPATH"].split(":"), sysconfig.get_path("purelib")])
        text = _MOD_WSGI.format(
            folder=folder, port=self.port, modules=MODULES, threads=self._threads, path=path
        )
        conf = folder / "apache.conf"
        conf.write_text(text)
        return conf

    def start(self) -> "Server":
        if self.kind in NEED_A_PORT and not self.port:
            self.port = free_port()
        self.process = subprocess.Popen(
            self._command(),
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        found = wait_until(self._listening, f"{self.kind} to listen")
        self.port = int(found[1])
        if self.kind not in ("pywsgi", "flask", "uvicorn", *NEED_A_PORT):
            wait_until(lambda: "Booting worker" in self.log(), "a worker")
        return self

    def _listening(self) -> re.Match[str] | None:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.kind} did not start:\n{self.log()}"
        if self.kind in UWSGI:
            spawned = "spawned uWSGI worker" in self.log()
            return re.search(r"bound to TCP address [\d.]+:(\d+)", self.log()) if spawned else None
        if self.kind in ("cheroot", "granian", "mod_wsgi"):
            # They do not say it, or before they can take anybody.
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return re.match(r"(?=(\d+))", str(self.port))
            return None
        return re.search(r"https?://[\w.\[\]:]*?:(\d+)", self.log())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """Everything that the server and its app have printed so far."""
        if not self._log.closed:
            self._text = os.pread(self._log.fileno(), 1 << 26, 0)
        return self._text.decode(errors="replace")

    def events(self, **match: Any) -> list[dict[str, Any]]:
        """What the app has told by `servers.apps.tell`, oldest first, where it has *match*."""
        found = []
        # What follows the last newline is still being written.
        for line in self.log().split("\n")[:-1]:
            _, mark, text = line.partition("@event ")
            if mark:
                event = json.loads(text)
                if all(event.get(key) == value for key, value in match.items()):
                    found.append(event)
        return found

    def wait_for(self, **match: Any) -> dict[str, Any]:
        """The first such event, waited for."""
        wait_until(lambda: self.events(**match), f"{match} from {self.kind}")
        return self.events(**match)[0]

    def worker_pid(self) -> int:
        """The process that serves: the worker of gunicorn or uWSGI, or the server itself."""
        mark = r"(?:Booting worker with pid: |spawned uWSGI worker \d+ \(pid: )(\d+)"
        booted = re.findall(mark, self.log())
        assert self.process is not None
        return int(booted[-1]) if booted else self.process.pid

    def end(self) -> None:
        """Tell it to stop by itself, so that whatever it has to say is said."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """End it and its workers, by its own handle and at once.

        How a server stops by itself is for the tests of that: it takes gunicorn a
        second, and most tests start one.
        """
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log()
        self._log.close()
        if self.apache_folder is not None:
            shutil.rmtree(self.apache_folder, ignore_errors=True)


def ask(
    port: int,
    path: str,
    method: str = "GET",
    connect: Callable[..., Any] = socket.create_connection,
    patience: float = PATIENCE,
) -> bytes:
    """The body of a 200 for *path*. *connect* may be gevent's, so that other greenlets go on."""
    with connect(("127.0.0.1", port), timeout=patience) as sock:
        sock.sendall(f"{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
        received = b""
        while data := sock.recv(1 << 20):
            received += data
    if not received:
        raise ConnectionResetError("closed without an answer")
    head, _, body = received.partition(b"\r\n\r\n")
    assert b" 200 " in head.partition(b"\r\n")[0], received[:500]
    return body


def ask_json(server: Server, path: str) -> Any:
    """What a 200 for *path* of *server* says in JSON."""
    return json.loads(ask(server.port, path))


# Linux gives the ports below 32768 to no socket by itself: neither for port 0 nor for a connection.
# So only another test process could take one between its choice and its use. Each process
# counts from another number, so two hardly ever choose the same port at the same time.
_numbers = itertools.count(random.SystemRandom().randrange(12_000))


def free_port() -> int:
    """A port of this host at which nothing listens."""
    for number in _numbers:
        port = 20_000 + number % 12_000
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the numbers never end")


class Client:
    """A raw connection: no library that could be kind to the server."""

    def __init__(self, port: int, tls: bool = False, receive_buffer: int | None = None) -> None:
        self.sock: Any = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", port))
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)
        self.received = b""

    def __del__(self) -> None:
        # A test that is over has left too; a warning of it would say nothing.
        self.sock.close()

    def get(self, path: str, *headers: str, version: str = "1.1", method: str = "GET") -> "Client":
        lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        return self

    def read_until(self, mark: bytes) -> bytes:
        """Read until *mark* has come; all that has been received."""
        while mark not in self.received:
            data = self.sock.recv(65536)
            assert data, f"closed before {mark!r} came: {self.received[-500:]!r}"
            self.received += data
        return self.received

    def read_to_end(self) -> bytes:
        while data := self.sock.recv(65536):
            self.received += data
        return self.received

    def fin(self) -> None:
        self.sock.close()

    def rst(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def vanish(self) -> None:
        """Hear and acknowledge nothing more, and say no word of it, as with Wi-Fi off.

        A filter that takes no packet (SO_ATTACH_FILTER, Linux).
        """
        nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        program = struct.pack("HP", 1, ctypes.addressof(nothing))
        self.sock.setsockopt(socket.SOL_SOCKET, 26, program)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)


def body_of(response: bytes) -> bytes:
    """The body of a whole HTTP/1.x response, taken out of its chunks."""
    head, _, rest = response.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    return b"".join(chunks_of(response))


def chunks_of(response: bytes) -> list[bytes]:
    """The complete chunks of a chunked response."""
    rest = response.partition(b"\r\n\r\n")[2]
    chunks = []
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0 or len(rest) < length:
            break
        chunks.append(rest[:length])
        rest = rest[length + 2 :]
    return chunks
