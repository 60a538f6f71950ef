"""The table of express-sse and better-sse in docs/porting.rst: each row beside the real package."""

from collections.abc import Iterator

import pytest

from tests.docs.test_docs import blocks
from tests.kit.porting import (
    KINDS,
    Cells,
    Program,
    Row,
    both,
    cells_of,
    does_the_same,
    each_row,
    followed,
    messages,
)
from tests.kit.servers import ROOT

pytestmark = [pytest.mark.server, pytest.mark.node]

PAGE = ROOT / "docs" / "porting.rst"

TABLE = cells_of(PAGE, "express-sse and better-sse")

#: "the view below" of the table.
(BELOW,) = [each for each in blocks(PAGE, "python") if '@app.get("/stream")' in each]

#: The other paths that a row may have.
SEND = """
import json

@app.get("/send")
def send():
    data, event = {"n": [1, "two"]}, "news"
    channels.publish("all", {"event": event, "data": data})
    channels.publish("all", {"data": json.dumps("over")})
    return ""
"""

SESSION = """
@app.get("/")
@handler
def view(req, res):
    session = SseStream(req)
    session.pipe(res)
    data, event = {"n": [1, "two"]}, "news"
    %s
    session.end()
"""

BETTER = """
app.get('/', async (req, res) => {
  const session = await createSession(req, res)
  const data = { n: [1, 'two'] }, event = 'news'
  %s
  res.end()
})
"""

#: A channel of better-sse with its sessions, and what is done when /send is asked for.
BETTER_CHANNEL = """
const channel = createChannel()
app.get('/stream', async (req, res) => {
  const session = await createSession(req, res)
  channel.register(session)
})
app.get('/send', (req, res) => {
  const data = { n: [1, 'two'] }, event = 'news'
  %s
  channel.broadcast('over'); res.end()
})
"""

NEWS = 'news {"n":[1,"two"]}'

ROWS = [
    Row(
        """
        const sse = new SSE()
        app.get('/stream', sse.init)
        app.get('/send', (req, res) => {
          sse.send({ n: [1, 'two'] }, 'news'); sse.send('over'); res.end()
        })
        """,
        BELOW + SEND,
        [NEWS, 'message "over"'],
        ("GET /stream", "GET /send"),
        followed,
    ),
    Row(
        """
        const sse = new SSE()
        app.get('/stream', sse.init)
        app.get('/send', (req, res) => {
          const data = { n: [1, 'two'] }, event = 'news'
          sse.send(data, event); sse.send('over'); res.end()
        })
        """,
        BELOW + SEND,
        [NEWS, 'message "over"'],
        ("GET /stream", "GET /send"),
        followed,
    ),
    Row(
        """
        const first = { n: 0 }
        const sse = new SSE(first)
        app.get('/stream', (req, res) => { sse.updateInit(first); sse.init(req, res) })
        app.get('/send', (req, res) => { sse.send('over'); res.end() })
        """,
        """
channels, first = Channels(), {"n": 0}

@app.get("/stream")
def stream():
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    sse_stream.write({"data": first})
    channels.subscribe(sse_stream, "all")
    return res
"""
        + SEND.replace('    channels.publish("all", {"event": event, "data": data})\n', ""),
        ['message {"n":0}', 'message "over"'],
        ("GET /stream", "GET /send"),
        followed,
    ),
    Row(
        BETTER % "session.push(1)",
        SESSION % 'session.write({"data": 1})',
        ["message 1"],
        seen=messages,
    ),
    Row(
        BETTER % "session.push(data, event)",
        SESSION % 'session.write({"event": event, "data": data})',
        [NEWS],
        seen=messages,
    ),
    Row(
        BETTER % "session.push(null, event)",
        SESSION % 'session.write({"event": event, "data": "null"})',
        ["news null"],
        seen=messages,
    ),
    Row(
        BETTER % "const source = [1, { n: 2 }]; await session.iterate(source)",
        """
@app.get("/")
def view():
    res, req = ServerResponse(), request
    source = ({"event": "iteration", "data": thing} for thing in [1, {"n": 2}])
    return pipeline(source, SseStream(req), res)
""",
        ["iteration 1", 'iteration {"n":2}'],
        seen=messages,
    ),
    Row(
        BETTER % "session.push([session.lastId])",
        SESSION % 'session.write({"data": [session.last_event_id]})',
        ['message ["7"]'],
        seen=messages,
    ),
    Row(
        BETTER % "session.push(session.isConnected)",
        SESSION % 'session.write({"data": not session.destroyed})',
        ["message true"],
        seen=messages,
    ),
    Row(
        BETTER_CHANNEL % "",
        """
channels = Channels()

@app.get("/stream")
@handler
def stream(req, res):
    session = SseStream(req)
    session.pipe(res)
    channels.subscribe(session, "all")
"""
        + SEND.replace('    channels.publish("all", {"event": event, "data": data})\n', ""),
        ['message "over"'],
        ("GET /stream", "GET /send"),
        followed,
    ),
    Row(
        BETTER_CHANNEL % "channel.broadcast(data, event)",
        BELOW + SEND,
        [NEWS, 'message "over"'],
        ("GET /stream", "GET /send"),
        followed,
    ),
    Row(
        BETTER_CHANNEL % "channel.broadcast(channel.sessionCount, event)",
        BELOW.replace('"all")', '"all", counted=True)')
        + SEND.replace('"data": data', '"data": channels.channel("all").watchers()'),
        ["news 1", 'message "over"'],
        ("GET /stream", "GET /send"),
        followed,
    ),
]


@pytest.fixture(
    scope="module",
    params=KINDS,
)
def programs(
    request: pytest.FixtureRequest, node_with_all: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Program, Program]]:
    with both(node_with_all, tmp_path_factory.mktemp("sse"), ROWS, request.param) as programs:
        yield programs


def test_each_row_of_the_table_is_here() -> None:
    assert len(TABLE) == len(ROWS) > 10


@each_row(TABLE, ROWS)
def test_a_row_does_the_same_beside_the_real_package(
    programs: tuple[Program, Program], number: int, cells: Cells, row: Row
) -> None:
    does_the_same(programs, number, cells, row)
