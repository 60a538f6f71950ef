"""The dictionary of docs/porting.rst: each row does the same in Express and in Flask."""

import functools
import http.client
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import docutils.core
import docutils.nodes
import pytest

from tests.kit.node_program import NodeProgram
from tests.kit.servers import ROOT, Server, wait_until

pytestmark = [pytest.mark.server, pytest.mark.node]

PAGE = ROOT / "docs" / "porting.rst"

#: The tables of the page whose rows run.
VALUES, ANSWERS, STREAMS = "What a handler reads", "What a handler answers", "Streams and timers"
CLIENTS = "Clients that wait"
TABLES = (VALUES, ANSWERS, STREAMS, CLIENTS)


class Row(NamedTuple):
    table: str
    express: str
    python: str


def rows() -> list[Row]:
    """The rows of the page that run: of each cell the first literal."""
    tree = docutils.core.publish_doctree(
        PAGE.read_text(), settings_overrides={"syntax_highlight": "none", "_disable_config": True}
    )
    found = []
    for section in tree.findall(docutils.nodes.section):
        title = section.next_node(docutils.nodes.title)
        if title.astext() in TABLES:
            body = section.next_node(docutils.nodes.tbody)
            for row in body.findall(docutils.nodes.row):
                cells = [cell.next_node(docutils.nodes.literal) for cell in row.children]
                found.append(Row(title.astext(), *(cell.astext() for cell in cells)))
    return found


ROWS = rows()

#: The beginning and the end of a row of clients: res is in two of the three, and what is in each
#: of them is answered.
KEPT = (
    "res.type('txt'); const id = 'a'; let clients = [res]; const tabs = new Set(); "
    "const users = new Map([[id, res]]); tabs.add(res)",
    'res.type("txt"); id = "a"; clients = [res]; tabs = {res}; users = {id: res}',
)
COUNTED = (
    "res.end(`${tabs.size} ${clients.length} ${users.size}`)",
    'res.end(f"{len(tabs)} {len(clients)} {len(users)}")',
)

#: The beginning of a row of streams and timers.
PIPED = (
    "const sse = new SseStream(req); sse.pipe(res)",
    "sse = SseStream(req); sse.pipe(res)",
)

#: The beginning of a row's handler, in Express and in Flask, where it is not that of its table.
BEFORE = {
    'res.get_header("X-A")': ("res.set('X-A', 'b')", 'res.set("X-A", "b")'),
    'res.headers.add("X-A", "b")': ("res.set('X-A', 'a')", 'res.set("X-A", "a")'),
    'res.remove_header("X-A")': ("res.set('X-A', 'a')", 'res.set("X-A", "a")'),
    'res.off("close", f)': ("res.on('close', f)", 'res.on("close", f)'),
    'bus.emit("a")': (f"{PIPED[0]}; bus.on('a', f)", f'{PIPED[1]}; bus.on("a", f)'),
    'bus.remove_listener("a", f)': (
        f"{PIPED[0]}; bus.on('a', f)",
        f'{PIPED[1]}; bus.on("a", f)',
    ),
    "tabs.add(res)": (f"{KEPT[0]}; tabs.clear()", f"{KEPT[1]}; tabs.clear()"),
    "clients.append(res)": (f"{KEPT[0]}; clients.pop()", f"{KEPT[1]}; clients.pop()"),
    "users[id] = res": (f"{KEPT[0]}; users.clear()", f"{KEPT[1]}; users.clear()"),
    "clear_interval(timer)": (
        f"{PIPED[0]}; const timer = setInterval(f, 20)",
        f"{PIPED[1]}; timer = set_interval(f, 20)",
    ),
    "clear_timeout(timer)": (
        f"{PIPED[0]}; const timer = setTimeout(f, 20)",
        f"{PIPED[1]}; timer = set_timeout(f, 20)",
    ),
    "sse = SseStream(req)": ("", "pass"),
    "sse.pipe(res)": ("const sse = new SseStream(req)", "sse = SseStream(req)"),
    "pipeline(source, sse, res)": ("const sse = new SseStream(req)", "sse = SseStream(req)"),
}

#: The same for its end.
AFTER = {
    "sse = SseStream(req)": ("sse.pipe(res); sse.end()", "sse.pipe(res); sse.end()"),
    "sse.unpipe(res)": ("sse.write(m); res.end('.')", "sse.write(m); res.end('.')"),
    "pipeline(source, sse, res)": ("", "pass"),
    'bus.on("a", f)': ("bus.emit('a'); sse.end()", 'bus.emit("a"); sse.end()'),
    'bus.remove_listener("a", f)': ("bus.emit('a'); sse.end()", 'bus.emit("a"); sse.end()'),
}

#: Rows that differ in the text of their answer: each framework has its own error page.
OWN_TEXT = ('return redirect("/there")', 'raise RuntimeError("no")')

EXPRESS = """
const express = require('express')
const { EventEmitter, once } = require('events')
const { Readable } = require('stream')
const SseStream = require('ssestream').default

const app = express()
app.use(express.json())
// npm's stream lets the connection stay open, and then a client does not see its end.
app.use((req, res, next) => {
  res.on('finish', () => setImmediate(() => req.socket.end()))
  next()
})
// As cookie-parser does.
app.use((req, res, next) => {
  req.cookies = Object.fromEntries(req.get('Cookie').split('; ').map(each => each.split('=')))
  next()
})
const m = { data: 'm' }
async function* messages () {
  for (const data of ['one', 'two']) yield { data }
}
%s
const server = app.listen(0, '127.0.0.1', () => {
  console.log(`Listening at: http://127.0.0.1:${server.address().port}`)
})
"""

FLASK = """
import itertools, json, time
from datetime import datetime, timezone
import gevent
import pyee
from flask import Flask, redirect
from ssestream import (
    SseStream, clear_interval, clear_timeout, handler, pipeline, set_interval, set_timeout,
)

app = Flask(__name__)
m = {"data": "m"}

def messages():
    for data in ("one", "two"):
        yield {"data": data}
"""

EXPRESS_HANDLER = """
app.post('/%(number)d/:id', async (req, res) => {
  let counter = 0
  const f = () => console.log('called %(number)d')
  const source = messages()
  const bus = new EventEmitter()
  %(before)s
  %(cell)s
  %(after)s
})
"""

FLASK_HANDLER = """
@app.post("/%(number)d/<id>", endpoint="row%(number)d")
@handler
def row(req, res, id):
    counter = itertools.count()
    f = lambda *args: print("called %(number)d", flush=True)
    source = messages()
    bus = pyee.EventEmitter()
    %(before)s
    %(cell)s
    %(after)s
"""


def handlers(number: int, row: Row) -> tuple[str, str]:
    """The handlers of *row* in both programs, at ``/NUMBER/ID``."""
    express, python = row.express, row.python
    before, after = ("", "pass"), ("", "pass")
    if row.table == VALUES:
        express = f"res.json({{ value: {express} ?? null }})"
        python = f'res.json({{"value": {python}}})'
    elif row.table == CLIENTS:
        before, after = KEPT, COUNTED
    elif row.table == ANSWERS:
        after = (
            "if (!res.writableEnded) res.end('.')",
            'if not res.writable_ended: res.end(".")',
        )
    else:
        before, after = PIPED, ("sse.end()", "sse.end()")
    before, after = BEFORE.get(row.python, before), AFTER.get(row.python, after)
    return (
        EXPRESS_HANDLER
        % {"number": number, "before": before[0], "cell": express, "after": after[0]},
        FLASK_HANDLER % {"number": number, "before": before[1], "cell": python, "after": after[1]},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("dictionary")
    both = [handlers(number, row) for number, row in enumerate(ROWS)]
    (folder / "express.js").write_text(EXPRESS % "".join(express for express, _ in both))
    (folder / "ported.py").write_text(FLASK + "".join(flask for _, flask in both))
    return folder


@pytest.fixture(scope="module")
def express(node: str, folder: Path) -> Iterator[NodeProgram]:
    program = NodeProgram(node, folder / "express.js", {})
    yield program
    program.stop()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("gevent", marks=pytest.mark.long),
        "SseWorker",
        pytest.param("gthread", marks=pytest.mark.long),
    ],
)
def port(request: pytest.FixtureRequest, folder: Path) -> Iterator[Server]:
    server = Server(request.param, "ported:app", env={"PYTHONPATH": f"{ROOT}:{folder}"})
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def answers(express: NodeProgram) -> Callable[[int], "Answer"]:
    """What Express answers to the row of a number, asked once."""
    return functools.cache(lambda number: ask(express, number))


class Answer(NamedTuple):
    status: int
    headers: dict[str, list[str]]
    body: bytes


#: Headers that a row can set. Others are the framework's or the server's own.
COMPARED = ("Content-Type", "Location", "Set-Cookie", "X-A")


def ask(program: NodeProgram | Server, number: int) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=60)
    headers = {
        "Accept": "text/event-stream",
        "Content-Type": "application/json",
        "Cookie": "seen=1",
        "Last-Event-ID": "7",
        "X-Key": "key",
    }
    path = f"/{number}/ann?name=ada"
    connection.request("POST", path, json.dumps({"name": "grace"}), headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    found = {name: answer.headers.get_all(name, []) for name in COMPARED}
    # What a cookie has beside its value are the same attributes in another order.
    found["Set-Cookie"] = [each.partition(";")[0] for each in found["Set-Cookie"]]
    return Answer(answer.status, found, body)


def test_the_dictionary_has_its_rows() -> None:
    assert len(ROWS) > 75
    assert {row.table for row in ROWS} == {*TABLES}
    assert {*BEFORE, *AFTER, *OWN_TEXT} <= {row.python for row in ROWS}


@pytest.mark.parametrize(
    ("number", "row"), list(enumerate(ROWS)), ids=[re.sub(r"\W+", " ", row.python) for row in ROWS]
)
def test_a_row_does_the_same_in_both(
    express: NodeProgram,
    answers: Callable[[int], Answer],
    port: Server,
    number: int,
    row: Row,
) -> None:
    theirs, ours = answers(number), ask(port, number)
    assert ours.status == theirs.status
    if row.python in OWN_TEXT:
        assert ours.headers["Location"] == theirs.headers["Location"]
    elif row.python == "int(time.time() * 1000)":
        values = [json.loads(answer.body)["value"] for answer in (theirs, ours)]
        assert 0 <= values[1] - values[0] < 60_000
    elif row.python.startswith("datetime"):
        iso = [json.loads(answer.body)["value"].replace("Z", "+00:00") for answer in (theirs, ours)]
        dates = [datetime.fromisoformat(each) for each in iso]
        assert timedelta() <= dates[1] - dates[0] < timedelta(minutes=1)
    else:
        if not theirs.headers["Content-Type"] and theirs.status != 204:
            # Flask gives a type to a response that has none.
            theirs.headers["Content-Type"] = ["text/html; charset=utf-8"]
        assert ours.body == theirs.body
        assert ours.headers == theirs.headers
    called = f"called {number}\n"
    if any(each in row.python for each in ("off(", "clear_", "remove_listener")):
        assert called not in express.log() + port.log()
    elif re.search(r"\bf\b", row.python):
        for program in (express, port):
            wait_until(lambda program=program: called in program.log(), "the call")  # type: ignore[misc]
