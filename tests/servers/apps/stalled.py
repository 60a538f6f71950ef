"""One writer, and a stream for each client: what it does to those who do not read."""

import contextlib
import dataclasses
import functools
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import greenlet
import gunicorn.util
from flask import request

from benchmarks.fan import Fan
from ssestream import statistics
from ssestream.gunicorn.sender import Sender
from ssestream.wire import encode
from tests.servers.apps.app import app

#: Bytes of a message.
SIZE = 1024

fan = Fan()
app.add_url_rule("/fan", "fan", view_func=fan.view)
writers: list[threading.Thread] = []

__all__ = ["app"]


#: Bytes of a message of which nothing is said yet.
EMPTY = len(encode({"id": "0000", "data": ""}))


def message(number: int) -> dict[str, str]:
    return {"id": f"{number:04}", "data": "x" * (SIZE - EMPTY)}


@functools.cache
def frames(count: int) -> list[bytes]:
    """What the writer sends, which the test makes for itself in the same way."""
    return [encode(message(number)) for number in range(count)]


@app.before_request
def bound_the_kernel() -> None:
    """Give the kernel *send_buffer* bytes for the client, if the request names them."""
    if "send_buffer" in request.args:
        size = int(request.args["send_buffer"])
        request.environ["gunicorn.socket"].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


@app.post("/fan")
def write() -> str:
    """*count* messages for all, *burst* at a time, with *ms* milliseconds after each burst.

    With *how* they are not serialised once for all, but once for each stream.
    """
    count, burst = int(request.args["count"]), int(request.args["burst"])
    pause = float(request.args["ms"]) / 1000
    how = request.args.get("how", "push")

    def write_all() -> None:
        for first in range(0, count, burst):
            for sse_stream in list(fan.streams):
                for number in range(first, min(first + burst, count)):
                    if how == "write":
                        sse_stream.write(message(number))
                    else:
                        sse_stream.push(frames(count)[number])
            time.sleep(pause)

    writers.append(threading.Thread(target=write_all))
    writers[-1].start()
    return "started"


#: The ports of clients that were cut while the server was sending to them.
cut_in_sendall: set[int] = set()


def note_cuts(write: Callable[..., None]) -> Callable[..., None]:
    """Note the clients out of whose *write* an exception comes. Any look may come too seldom."""

    def noting(sock: Any, *args: Any) -> None:
        if not isinstance(sock, socket.socket):  # a head that is made before it is sent
            write(sock, *args)
            return
        port = None
        # Its client may just have left.
        with contextlib.suppress(OSError):
            port = sock.getpeername()[1]
        try:
            write(sock, *args)
        except BaseException:
            if port is not None:
                cut_in_sendall.add(port)
            raise

    return noting


if "SETTINGS" in os.environ:  # in the server, and not in a test that imports this
    gunicorn.util.write = note_cuts(gunicorn.util.write)


@app.get("/state")
def state() -> dict[str, Any]:
    return {
        **dataclasses.asdict(statistics()),
        "cut_in_sendall": sorted(cut_in_sendall),
        "writing": sum(writer.is_alive() for writer in writers),
        "in_sendall": [
            *(port for frame in stacks() for port in ports_in_sendall(frame)),
            *ports_in_hand(),
        ],
    }


def ports_in_hand() -> Iterator[int]:
    """The same, where a `Sender` has in hand what its socket does not take."""
    for each in gc.get_objects():
        if issubclass(type(each), Sender) and each._rest is not None:
            # Its client may just have left.
            with contextlib.suppress(OSError):
                yield each.sock.getpeername()[1]


def stacks() -> list[FrameType | None]:
    """Where each thread and each greenlet is."""
    waiting = [each for each in gc.get_objects() if issubclass(type(each), greenlet.greenlet)]
    return [*sys._current_frames().values(), *(each.gr_frame for each in waiting)]


def ports_in_sendall(frame: FrameType | None) -> Iterator[int]:
    """The port of the client, where the server has not come back from sending to it."""
    while frame is not None:
        # What calls a socket's sendall(): of a plain one that has no frame itself.
        if frame.f_code.co_filename.endswith("gunicorn/util.py"):
            try:
                yield frame.f_locals["sock"].getpeername()[1]
            except OSError:  # cut by now
                pass
            return
        frame = frame.f_back
