"""README's table of Express and Python: each row does the same on both sides."""

from collections.abc import Iterator

import pytest

from tests.kit.porting import (
    KINDS,
    Cells,
    Program,
    Row,
    both,
    cells_of,
    departure,
    does_the_same,
    each_row,
    messages,
)
from tests.kit.servers import ROOT

pytestmark = [pytest.mark.server, pytest.mark.node]

TABLE = cells_of(ROOT / "README.rst", "From Express to Python")


def view(body: str, path: str = "/") -> str:
    """A plain view with *body* between ``res = ...`` and ``return res``."""
    lines = "\n    ".join(body.strip().splitlines())
    return f"""
@app.get("{path}", endpoint="view of {path}")
def view():
    res = ServerResponse()
    {lines}
    return res
"""


def handled(body: str, path: str = "/") -> str:
    lines = "\n    ".join(body.strip().splitlines())
    return f"""
@app.route("{path}", methods=["GET", "POST"])
@handler
def view(req, res):
    {lines}
"""


#: The beginning of an answer that goes on until its client leaves.
KEPT_OPEN = 'res.on("close", f); text = "piece"; set_timeout(lambda: res.end(), 600_000)'

#: The rows in the order of the table.
ROWS = [
    Row(
        "app.get(['/a', '/b'], (req, res) => { res.write('one '); res.end('two') })",
        """
@app.get("/a")
@handler
def view(req, res):
    res.write("one ")
    res.end("two")

@app.get("/b")
def plain():
    res = ServerResponse()
    res.write("one ")
    res.end("two")
    return res
""",
        ["200 one two"] * 2,
        ("GET /a", "GET /b"),
    ),
    Row(
        "app.get('/', async (req, res) => { await sleep(1); res.end('later') })",
        """
@app.get("/")
@handler
async def view(req, res):
    import asyncio
    await asyncio.sleep(0.001)
    res.end("later")
""",
        ["200 later"],
    ),
    Row(
        """
        app.post('/:id', express.json(), (req, res) => {
          res.send(`${req.query.a} ${req.params.id} ${req.body.b}`)
        })
        """,
        """
@app.post("/<id>")
@handler
def view(req, res, id):
    res.send(f"{req.query['a']} {req.params['id']} {req.body['b']}")
""",
        ["200 1 7 2"],
        ('POST /7?a=1 Content-Type:application/json\n{"b":2}',),
    ),
    Row(
        """
        app.get('/json', (req, res) => res.status(404).json({ error: 'gone' }))
        app.get('/send', (req, res) => res.type('txt').send('text'))
        app.get('/status', (req, res) => res.sendStatus(403))
        """,
        """
@app.get("/json")
@handler
def gone(req, res):
    return res.status(404).json({"error": "gone"})

@app.get("/send")
@handler
def text(req, res):
    res.type("txt").send("text")

@app.get("/status")
@handler
def status(req, res):
    res.send_status(403)
""",
        ['404 {"error":"gone"}', "200 text", "403 Forbidden"],
        ("GET /json", "GET /send", "GET /status"),
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const g = () => console.log('never')
          res.on('finish', g)
          res.locals.name = 'ada'
          res.off('finish', g)
          res.end(res.locals.name)
        })
        """,
        handled("""
g = lambda: print("never")
res.on("finish", g)
res.locals.name = "ada"
res.off("finish", g)
res.end(res.locals.name)
"""),
        ["200 ada"],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const sse = new SseStream(req)
          sse.pipe(res); sse.end({ data: 'only' })
        })
        """,
        view("sse = SseStream(request); sse.pipe(res); sse.end({'data': 'only'})"),
        ["200 :ok\n\ndata: only\n\n"],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const sse = new SseStream(req)
          sse.pipe(res); sse.unpipe(res); sse.write({ data: 'lost' }); res.end('.')
        })
        """,
        view("""
sse = SseStream(request)
sse.pipe(res); sse.unpipe(res); sse.write({"data": "lost"}); res.end(".")
"""),
        ["200 :ok\n\n."],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const sse = new SseStream(req)
          sse.pipe(res); sse.write({ event: 'a', data: [1] }); sse.end()
        })
        """,
        view("""
sse = SseStream(request)
sse.pipe(res); sse.write({"event": "a", "data": [1]}); sse.end()
"""),
        ["a [1]"],
        seen=messages,
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const sse = new SseStream(req)
          sse.pipe(res); sse.writeMessage({ data: 'a' }); sse.end()
        })
        """,
        view("""
sse_stream = SseStream(request)
sse_stream.pipe(res); sse_stream.write_message({"data": "a"}); sse_stream.end()
"""),
        ["message a"],
        seen=messages,
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const source = Readable.from([{ data: 'a' }, { data: 'b' }])
          const sse = new SseStream(req)
          source.pipe(sse).pipe(res)
        })
        """,
        """
@app.get("/")
def view():
    source = [{"data": "a"}, {"data": "b"}]
    sse_stream = SseStream(request)
    res = ServerResponse()
    return pipeline(source, sse_stream, res)
""",
        ["message a", "message b"],
        seen=messages,
    ),
    Row(
        "app.get('/', (req, res) => res.end(req.header('Last-Event-ID')))",
        view("sse_stream = SseStream(request); res.end(sse_stream.last_event_id)"),
        ["200 7"],
    ),
    Row(
        "app.get('/', (req, res) => { res.on('close', f); res.write('piece') })",
        view("""
@res.on("close")
def f():
    tell()

res.write("piece")
"""),
        ["called"],
        seen=departure,
    ),
    Row(
        "app.get(['/', '/plain'], (req, res) => { req.on('close', f); res.write('piece') })",
        handled("""
req.on("close", f)
res.write("piece")
gevent.sleep(600)
""")
        + """
@app.get("/plain")
def plain():
    res = ServerResponse()
    res.on("close")(f)
    res.write("piece")
    return res
""",
        ["called"] * 2,
        ("GET /", "GET /plain"),
        departure,
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const f = () => res.end(' drained')
          res.once('drain', f)
          res.write('x'.repeat(100000))
        })
        """,
        view("""
f = lambda: res.end(" drained")
res.once("drain", f)
res.write("x" * 100_000)
"""),
        [f"200 {'x' * 100_000} drained"],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const k = 'X-A', v = 'a'
          res.header(k, v); res.set('X-B', 'b'); res.setHeader('X-C', 'c'); res.end('.')
        })
        """,
        view("""
k, v = "X-A", "a"
res.header(k, v); res.set("X-B", "b"); res.set_header("X-C", "c"); res.end(".")
"""),
        ["200 X-A=a X-B=b X-C=c ."],
    ),
    Row(
        "app.get('/', (req, res) => { res.writeHead(200, { 'X-A': 'b' }); res.end('.') })",
        view("res.write_head(200, {'X-A': 'b'}); res.end('.')"),
        ["200 X-A=b ."],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const before = res.headersSent
          res.flushHeaders(); res.end(`${Number(before)} ${Number(res.headersSent)}`)
        })
        """,
        handled("""
before = res.headers_sent
res.flush_headers()
res.end(f"{before:d} {res.headers_sent:d}")
"""),
        ["200 0 1"],
    ),
    Row(
        """
        app.get(['/', '/flushed'], (req, res) => {
          res.on('close', f)
          const text = 'piece'
          res.write(text); setTimeout(() => res.end(), 600000)
        })
        """,
        # The piece comes with a flush and without.
        view(f"{KEPT_OPEN}; res.write(text)")
        + view(f"{KEPT_OPEN}; res.write(text); res.flush()", "/flushed"),
        ["called"] * 2,
        ("GET /", "GET /flushed"),
        departure,
    ),
    Row(
        "app.get('/', (req, res) => { res.status(204).end() })",
        """
@app.get("/")
def view():
    return "", 204
""",
        ["204 "],
    ),
    Row(
        "app.get('/', (req, res) => { res.cookie('a', 'b'); res.end('.') })",
        view('res.set_cookie("a", "b"); res.end(".")'),
        ["200 Set-Cookie=a=b ."],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const f = () => { clearInterval(t); res.end('.') }
          const t = setInterval(f, 1000)
        })
        """,
        view("""
def f():
    clear_interval(t)
    res.end(".")

t = set_interval(f, 1000)
"""),
        ["200 ."],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const t = setInterval(() => res.write('never'), 5)
          clearInterval(t)
          setTimeout(() => res.end('.'), 50)
        })
        """,
        view("""
t = set_interval(lambda: res.write("never"), 5)
clear_interval(t)
set_timeout(lambda: res.end("."), 50)
"""),
        ["200 ."],
    ),
    Row(
        "app.get('/', (req, res) => { const f = () => res.end('.'); setTimeout(f, 1000) })",
        view("f = lambda: res.end('.'); set_timeout(f, 1000)"),
        ["200 ."],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const options = { highWaterMark: 16 }
          const sse = new Writable({ objectMode: true, write () {}, ...options })
          let n = 1
          while (sse.write({ data: 'a' })) n += 1
          res.end(`${n}`)
        })
        """,
        view("""
sse_stream = SseStream(request, high_water_mark=16)
n = 1
while sse_stream.write({"data": "a"}):
    n += 1
res.end(f"{n}")
"""),
        ["200 16"],
    ),
    Row(
        """
        app.get('/', (req, res) => {
          const before = res.writableLength
          res.write('x'.repeat(100000))
          res.end(` ${before} ${res.writableLength >= 100000}`)
        })
        """,
        view("""
before = res.writable_length
res.write("x" * 100_000)
res.end(f" {before} {str(res.writable_length >= 100_000).lower()}")
"""),
        [f"200 {'x' * 100_000} 0 true"],
    ),
]


@pytest.fixture(
    scope="module",
    params=KINDS,
)
def programs(
    request: pytest.FixtureRequest, node_with_all: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Program, Program]]:
    with both(node_with_all, tmp_path_factory.mktemp("readme"), ROWS, request.param) as programs:
        yield programs


def test_each_row_of_the_table_is_here() -> None:
    assert len(TABLE) == len(ROWS) > 20


@each_row(TABLE, ROWS)
def test_a_row_does_the_same_in_both(
    programs: tuple[Program, Program], number: int, cells: Cells, row: Row
) -> None:
    does_the_same(programs, number, cells, row)
