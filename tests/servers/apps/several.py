"""An app in a process that has several servers of gevent; a job of it may serve one of its own."""

import multiprocessing
import os
import time
from typing import Any

from flask import Flask, request
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

import ssestream  # noqa: F401 - what it does at a fork is tested

app = Flask(__name__)

_processes: list[Any] = []


@app.get("/pid")
def pid() -> dict[str, int]:
    return {"pid": os.getpid()}


def say_pid(sock: Any, address: object) -> None:
    """Answer as `pid`, without WSGI."""
    while b"\r\n\r\n" not in sock.recv(1 << 16):
        pass
    sock.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"pid": %d}\n' % os.getpid())


def wsgi(**options: Any) -> WSGIServer:
    return WSGIServer(("127.0.0.1", 0), app, log=None, **options)


_files = dict(zip(("certfile", "keyfile"), os.environ.get("TLS_FILES", "").split(), strict=False))

SERVERS: dict[str, Any] = {
    "early": wsgi(),
    "tls": wsgi(**_files),
    "stream": StreamServer(("127.0.0.1", 0), say_pid),
    "late": wsgi(),
    "stopped": wsgi(),
    # Bound by the parent, and started by a job alone.
    "job's": wsgi(),
}
for _name, _server in SERVERS.items():
    if _name in ("late", "job's"):
        _server.init_socket()
    else:
        _server.start()


@app.get("/ports")
def ports() -> dict[str, int]:
    return {name: server.server_port for name, server in SERVERS.items()}


@app.get("/start")
def start() -> dict[str, int]:
    SERVERS["late"].start()
    return {}


@app.get("/stop")
def stop() -> dict[str, int]:
    SERVERS["stopped"].stop()
    return {}


def serve_its_own(seconds: float) -> None:
    SERVERS["job's"].start()
    time.sleep(seconds)


@app.get("/job")
def job() -> dict[str, int]:
    seconds = float(request.args["seconds"])
    _processes.append(
        multiprocessing.get_context("fork").Process(target=serve_its_own, args=[seconds])
    )
    _processes[-1].start()
    return {"pid": _processes[-1].pid}
