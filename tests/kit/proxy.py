"""The files of docs/deploy.rst, put to work: real nginx before real gunicorn."""

import configparser
import contextlib
import getpass
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.docs.test_docs import blocks
from tests.kit.servers import ROOT, Client, Server, free_port, wait_until

PAGE = ROOT / "docs" / "deploy.rst"

#: The files of the page by the path in their first line.
FILES = {
    block.partition("\n")[0].removeprefix("# "): block
    for language in ("python", "nginx", "ini")
    for block in blocks(PAGE, language)
}
SITE = "/etc/nginx/sites-available/app"
MAIN = "/etc/nginx/nginx.conf, before http"
CONF = "/srv/app/gunicorn.conf.py"
APP = "/srv/app/app.py"
UNIT = "/etc/systemd/system/app.service"
SYSCTL = "/etc/sysctl.d/60-app.conf"
UNIX = ", with a Unix socket"
HOSTS = ", with several hosts"

Changes = tuple[tuple[str, str], ...]

#: What Debian's own nginx.conf says beside, as far as it matters here.
HTTP = """
daemon off;
user {user};
pid {folder}/nginx.pid;
{main}
http {{
    default_type application/octet-stream;
    access_log {folder}/access.log;
    gzip on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def changed(text: str, changes: Changes) -> str:
    """*text* with each of *changes*, every one of which must find its place."""
    for old, new in changes:
        assert old in text, f"{old!r} is not in:\n{text}"
        text = text.replace(old, new)
    return text


def gunicorn_command() -> str:
    here = Path(sys.executable).parent
    found = shutil.which("gunicorn", path=f"{here}:{os.environ['PATH']}")
    assert found is not None
    return found


def unit_in(folder: Path) -> str:
    """The unit, for an app in *folder* of the user who tests."""
    return changed(
        FILES[UNIT],
        (
            ("User=www-data\nGroup=www-data\n", ""),
            ("WorkingDirectory=/srv/app\n", f"WorkingDirectory={folder}\n"),
            ("/srv/app/.venv/bin/gunicorn", gunicorn_command()),
        ),
    )


def unit_of(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read_string(text)
    return unit


class Gunicorn(Server):
    """What systemd would start, in the folder that stands for /srv/app."""

    def __init__(self, folder: Path, unit: str, settings: dict[str, Any]) -> None:
        super().__init__("gunicorn", "app:app")
        self.unit = unit_of(unit)["Service"]
        self.folder = folder
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(60)
        self.env |= {
            "PYTHONPATH": str(ROOT),
            "NOTIFY_SOCKET": str(folder / "notify"),
            "SETTINGS": json.dumps(settings),
        }

    def start(self) -> "Gunicorn":
        command = shlex.split(self.unit["ExecStart"])
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def reload(self) -> None:
        """What systemctl reload does."""
        assert self.process is not None
        env = {"MAINPID": str(self.process.pid)}
        subprocess.run(["/bin/sh", "-c", self.unit["ExecReload"]], env=env, check=True)

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children()

    def stop(self) -> None:
        super().stop()
        self.notify.close()


class Deployment:
    """nginx, gunicorn and the app of the page, on ports and paths of this machine."""

    def __init__(
        self,
        nginx: str,
        certificate: tuple[str, str],
        folder: Path,
        *,
        site: Changes = (),
        main: Changes = (),
        conf: Changes = (),
        app: Changes = (),
        unix: bool = False,
        second: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.nginx_command = nginx
        self.http, self.https = free_port(), free_port()
        there = f"127.0.0.1:{free_port()}"
        bind, server = 'bind = "127.0.0.1:8000"', "server 127.0.0.1:8000;"
        if unix:
            # The two lines that the page gives, in place of those of TCP.
            new_bind = FILES[CONF + UNIX].partition("\n")[2]
            new_server = FILES[SITE + UNIX].partition("\n")[2]
            place = (("/run/app/gunicorn.sock", f"{folder}/gunicorn.sock"),)
            conf = (*conf, (bind, changed(new_bind, place)))
            site = (*site, (server, changed(new_server, place)))
        elif second is not None:
            # The block that the page gives, in place of that with one server.
            one = FILES[SITE].partition("}\n")[0] + "}\n"
            two = FILES[SITE + HOSTS] + "\n"
            places = (("10.0.0.1:8000", there), ("10.0.0.2:8000", f"127.0.0.1:{second}"))
            conf = (*conf, (bind, f'bind = "{there}"'))
            site = ((one, changed(two, places)), *site)
        else:
            conf = (*conf, (bind, f'bind = "{there}"'))
            site = (*site, (server, f"server {there};"))
        self._conf = changed(FILES[CONF], conf)
        (folder / "gunicorn.conf.py").write_text(self._conf)
        made = ("app = Flask(__name__)", "from tests.servers.apps.deploy import app")
        (folder / "app.py").write_text(changed(FILES[APP], (made, *app)))
        self.unit = unit_in(folder)
        text = HTTP.format(
            user=getpass.getuser(),
            folder=folder,
            main=changed(FILES[MAIN], main),
            site=changed(
                FILES[SITE],
                (
                    ("listen 80;", f"listen 127.0.0.1:{self.http};"),
                    ("listen 443 ssl", f"listen 127.0.0.1:{self.https} ssl"),
                    ("/etc/ssl/certs/example.com.pem", certificate[0]),
                    ("/etc/ssl/private/example.com.key", certificate[1]),
                    ("server_name example.com;", "server_name localhost;"),
                    *site,
                ),
            ),
        )
        (folder / "nginx.conf").write_text(text)
        self.nginx: subprocess.Popen[bytes] | None = None
        self._settings = settings or {}
        self.gunicorn = Gunicorn(folder, self.unit, self._settings)

    def start(self) -> "Deployment":
        self.gunicorn.start()
        wait_until(self._booted, "gunicorn")
        self.nginx = subprocess.Popen(
            [self.nginx_command, "-p", self.folder, "-c", "nginx.conf", "-e", "error.log"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._ready, "gunicorn behind nginx")
        return self

    def _booted(self) -> bool:
        assert self.gunicorn.process is not None
        assert self.gunicorn.process.poll() is None, self.gunicorn.log()
        found = re.search(r"^workers = (\d)$", self._conf, re.MULTILINE)
        assert found is not None
        return self.gunicorn.log().count("Booting worker") == int(found[1])

    def _ready(self) -> bool:
        assert self.nginx is not None
        assert self.nginx.poll() is None, self.errors()
        try:
            return self.ask("/who")[0] == 200
        except OSError:
            return False

    def restart_gunicorn(self) -> None:
        os.unlink(self.folder / "notify")
        self.gunicorn = Gunicorn(self.folder, self.unit, self._settings).start()
        wait_until(self._booted, "gunicorn")

    def errors(self) -> str:
        return (self.folder / "error.log").read_text()

    def client(self, path: str, *headers: str, receive_buffer: int | None = None) -> Client:
        """Over TLS and HTTP/1.1, with the head of the answer read."""
        client = Client(self.https, True, receive_buffer).get(path, *headers)
        client.read_until(b"\r\n\r\n")
        return client

    def ask(
        self, path: str, headers: dict[str, str] | None = None, source: str = "127.0.0.1"
    ) -> tuple[int, dict[str, str], bytes]:
        """A whole answer: its status, its headers, its body."""
        connection = http.client.HTTPSConnection(
            "localhost",
            self.https,
            timeout=60,
            source_address=(source, 0),
            context=unchecked(),
        )
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def stop(self) -> None:
        if self.nginx is not None:
            self.nginx.terminate()
            self.nginx.wait(60)
        self.gunicorn.stop()


def unchecked() -> ssl.SSLContext:
    """For a certificate that was made for this test."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
