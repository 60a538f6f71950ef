"""Rows of the tables of Express and Python: two programs that answer the same requests."""

import contextlib
import http.client
import re
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import docutils.core
import docutils.nodes
import pytest

from ssestream.wire import Decoder
from tests.kit.node_program import NodeProgram
from tests.kit.servers import ROOT, Client, Server, ask, body_of, wait_until

Program = NodeProgram | Server

#: How often a program is asked for what a stream should hear, and the seconds between.
ASKED, HEARD = 6, 10.0

EXPRESS = """
const express = require('express')
const http = require('http')
const { EventEmitter } = require('events')
const { Readable, Writable } = require('stream')
const { setTimeout: sleep } = require('timers/promises')
const SseStream = require('ssestream').default
const { createChannel, createSession } = require('better-sse')
const compression = require('compression')
const cors = require('cors')
const SSE = require('express-sse')

const all = express()
// npm's stream lets the connection stay open, and then a client does not see its end.
all.use((req, res, next) => {
  res.on('finish', () => setImmediate(() => req.socket.end()))
  next()
})
%s
const server = all.listen(0, '127.0.0.1', () => {
  console.log(`Listening at: http://127.0.0.1:${server.address().port}`)
})
"""

#: One row: an app of its own, below its number.
EXPRESS_ROW = """
{
  const app = express()
  all.use('/%(number)d', app)
  const f = () => console.log('called %(number)d')
  %(code)s
}
"""

FLASK_ROW = """
import functools, socket, time
import gevent
from flask import Blueprint, Flask, render_template, request, send_file
from ssestream import (
    Channels, ServerResponse, SseStream, clear_interval, handler, pipeline, set_interval,
    set_timeout,
)

app = Flask(__name__)
tell = f = lambda *args: print("called %(number)d", flush=True)
%(code)s
"""

MOUNTED = """
import importlib
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
numbers = range(%d)
apps = {f"/{n}": importlib.import_module(f"row{n}").app for n in numbers}
app = DispatcherMiddleware(NotFound(), apps)
"""

#: Bytes of a piece that is more than the head of gzip.
SMALLEST_PIECE = 30

#: The origin of a page of another site.
ORIGIN = "http://localhost"

#: Headers that a row may set.
HEADERS = ("X-A", "X-B", "X-C", "Set-Cookie", "Access-Control-Allow-Origin")


# -- what a client sees


def answers(program: Program, number: int, requests: tuple[str, ...]) -> list[str]:
    """Each answer to *requests*: its status, its media type, the headers of a row, its body."""
    return [_answer(program, number, each) for each in requests]


def _answer(program: Program, number: int, request: str) -> str:
    line, _, body = request.partition("\n")
    method, path, *sent = line.split(" ")
    headers = {"Last-Event-ID": "7", **dict(each.split(":", 1) for each in sent)}
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=60)
    connection.request(method, f"/{number}{path}", body or None, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    # What a cookie has beside its value are the same attributes in another order.
    found = [
        f"{name}={value.partition(';')[0]}"
        for name in HEADERS
        for value in answer.headers.get_all(name, [])
    ]
    seen = " ".join([str(answer.status), *found, text])
    # An answer may name the page's own origin instead of all.
    return seen.replace(ORIGIN, "*")


def messages(program: Program, number: int, requests: tuple[str, ...]) -> list[str]:
    """The event and the data of each message in the answers, which end."""
    found = []
    for each in requests:
        text = _answer(program, number, each)
        assert text.startswith("200 ")
        found += [_shown(message) for message in Decoder().feed(text.encode()) if "data" in message]
    return found


def followed(program: Program, number: int, requests: tuple[str, ...]) -> list[str]:
    """The same of a stream without an end: the first one. The others are asked while it is open.

    The last message has the data ``over``, as JSON or not. A program may send the head before it
    registers the stream, so the others are asked again while nothing comes.
    """
    stream, *others = _paths(number, requests)
    client = Client(program.port).get(stream)
    client.read_until(b"\r\n\r\n")
    found: list[str] = []
    for _ in range(ASKED):
        for other in others:
            ask(program.port, other)
        until = time.monotonic() + HEARD
        while not (found := _messages_until_over(client)) and time.monotonic() < until:
            if select.select([client.sock], [], [], HEARD)[0]:
                more = client.sock.recv(65536)
                assert more, f"it has ended: {client.received!r}"
                client.received += more
        if found:
            break
    client.fin()
    return found


def _messages_until_over(client: Client) -> list[str]:
    messages = Decoder().feed(body_of(client.received))
    found = [_shown(message) for message in messages if "data" in message]
    return found if found and "over" in found[-1] else []


def _shown(message: dict[str, object]) -> str:
    return f"{message.get('event', 'message')} {message['data']}"


def departure(
    program: Program, number: int, requests: tuple[str, ...], times: int = 1
) -> list[str]:
    """What is called when the client of each of *requests* leaves after its first piece.

    Waits until so many *times* for each of the clients.
    """
    called = f"called {number}\n"
    for count, path in enumerate(_paths(number, requests)):
        client = Client(program.port).get(path)
        client.read_until(b"piece")
        assert program.log().count(called) == count * times
        client.fin()
        all_called = (count + 1) * times
        wait_until(lambda n=all_called: program.log().count(called) >= n, "the end")  # type: ignore[misc]
    return ["called"] * program.log().count(called)


def flushed(program: Program, number: int, requests: tuple[str, ...]) -> list[str]:
    """Whether a piece comes, compressed or not, while the rest of its answer waits."""
    path, release = _paths(number, requests)
    client = Client(program.port).get(path, "Accept-Encoding: gzip")
    client.read_until(b"\r\n\r\n")
    while len(client.received.partition(b"\r\n\r\n")[2]) < SMALLEST_PIECE:
        client.received += client.sock.recv(65536)
    ask(program.port, release)
    client.read_until(b"\r\n0\r\n\r\n")
    return ["a piece"]


def _paths(number: int, requests: tuple[str, ...]) -> list[str]:
    return [f"/{number}{request.split(' ')[1]}" for request in requests]


# -- rows


class Row(NamedTuple):
    """A row of a table, as it runs on both sides, and what a client then sees of each."""

    express: str
    python: str
    expected: list[str]
    #: ``METHOD /path Name:value``, and below this line the body.
    requests: tuple[str, ...] = ("GET /",)
    seen: Callable[[Program, int, tuple[str, ...]], list[str]] = answers


class Cells(NamedTuple):
    """The literals in the two cells of a row of the page."""

    express: list[str]
    python: list[str]

    @property
    def name(self) -> str:
        return ", ".join(self.express)


def cells_of(page: Path, title: str) -> list[Cells]:
    """The rows of the first table of the section *title*."""
    tree = docutils.core.publish_doctree(
        page.read_text(),
        settings_overrides={
            "syntax_highlight": "none",
            "report_level": 5,
            "_disable_config": True,
        },
    )
    (section,) = [
        each
        for each in tree.findall(docutils.nodes.section)
        if each.next_node(docutils.nodes.title).astext() == title
    ]
    body = section.next_node(docutils.nodes.tbody)
    return [
        Cells(
            *(
                [literal.astext() for literal in cell.findall(docutils.nodes.literal)]
                for cell in row.children
            )
        )
        for row in body.findall(docutils.nodes.row)
    ]


def has_cell(code: str, literals: list[str]) -> bool:
    """Whether each of *literals* is in *code*; ``...`` in it stands for anything."""
    plain = " ".join(code.split())
    patterns = (
        ".*?".join(re.escape(" ".join(part.split())) for part in literal.split("..."))
        for literal in literals
    )
    return all(re.search(pattern, plain) for pattern in patterns)


#: The servers of the rows.
KINDS = [
    "SseWorker",
    pytest.param("gevent", marks=pytest.mark.long),
    pytest.param("gthread", marks=pytest.mark.long),
]


def each_row(table: list[Cells], rows: list[Row]) -> pytest.MarkDecorator:
    """A test of each row: its number, its cells on the page, and what runs."""
    numbered = list(zip(range(len(table)), table, rows, strict=False))
    return pytest.mark.parametrize(
        ("number", "cells", "row"), numbered, ids=[cells.name for cells in table]
    )


@contextlib.contextmanager
def both(node: str, folder: Path, rows: list[Row], kind: str) -> Iterator[tuple[Program, Program]]:
    """The programs of *rows*: Express in Node, and Flask on a server of *kind*."""
    code = [
        EXPRESS_ROW % {"number": number, "code": row.express} for number, row in enumerate(rows)
    ]
    (folder / "express.js").write_text(EXPRESS % "".join(code))
    for number, row in enumerate(rows):
        text = FLASK_ROW % {"number": number, "code": row.python}
        (folder / f"row{number}.py").write_text(text)
    (folder / "mounted.py").write_text(MOUNTED % len(rows))
    express = NodeProgram(node, folder / "express.js", {"PAGES": str(folder)})
    env = {"PYTHONPATH": f"{ROOT}:{folder}", "PAGES": str(folder)}
    server = Server(kind, "mounted:app", env=env)
    try:
        yield express, server.start()
    finally:
        express.stop()
        server.stop()


def does_the_same(programs: tuple[Program, Program], number: int, cells: Cells, row: Row) -> None:
    """Show that *row* runs its *cells*, and that a client sees what is expected of both sides."""
    assert has_cell(row.express, cells.express)
    assert has_cell(row.python, cells.python)
    if row.expected:
        _shows_the_same(programs, number, row)


def _shows_the_same(programs: tuple[Program, Program], number: int, row: Row) -> None:
    """Show that a client sees what is *expected* of both sides of *row*."""
    with ThreadPoolExecutor() as pool:
        seen = [pool.submit(row.seen, each, number, row.requests) for each in programs]
    for each, program in zip(seen, programs, strict=True):
        assert each.exception() is None, program.log()[-2000:]
        assert each.result() == row.expected, program.log()[-2000:]
