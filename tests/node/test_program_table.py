"""The table "The program" of docs/porting.rst: each row does the same on both sides."""

import functools
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.porting import (
    KINDS,
    ORIGIN,
    Cells,
    Program,
    Row,
    answers,
    both,
    cells_of,
    departure,
    does_the_same,
    each_row,
    flushed,
)
from tests.kit.servers import ROOT, Server

pytestmark = [pytest.mark.server, pytest.mark.node]

TABLE = cells_of(ROOT / "docs" / "porting.rst", "The program")

LISTEN = "app.listen(8000)"
UNREF = "timer.unref()"

ROWS = [
    Row(
        "app.get('/a/:id', (req, res) => { res.end(req.params.id) })",
        """
@app.get("/a/<id>")
@handler
def a(req, res, id):
    res.end(id)
""",
        ["200 7"],
        ("GET /a/7",),
    ),
    Row(
        "app.get('/', async (req, res) => { await sleep(1); res.end('later') })",
        """
@app.get("/")
@handler
def view(req, res):
    # Not: await
    gevent.sleep(0.001)
    res.end("later")
""",
        ["200 later"],
    ),
    Row(
        "app.get('/', (req, res) => { (async () => { await sleep(1); res.end('.') })() })",
        """
@app.get("/")
def view():
    res = ServerResponse()
    def f():
        time.sleep(0.001)
        res.end(".")
    set_timeout(f, 0)
    return res
""",
        ["200 ."],
    ),
    Row(
        """
        const made = http.createServer((req, res) => { res.end(`${req.method} ${req.url}`) })
        all.use('/3', (req, res) => made.emit('request', req, res))
        """,
        """
@app.route("/", methods=["GET", "POST"], defaults={"path": ""})
@app.route("/<path:path>", methods=["GET", "POST"])
@handler
def all_paths(req, res, path):
    res.end(f"{req.method} /{path}")
""",
        ["200 GET /", "200 GET /a/b", "200 POST /a"],
        ("GET /", "GET /a/b", "POST /a"),
    ),
    Row(
        """
        const router = express.Router()
        router.get('/a', (req, res) => { res.end('a') })
        app.use(router)
        """,
        """
router = Blueprint("name", __name__)

@router.get("/a")
@handler
def a(req, res):
    res.end("a")

app.register_blueprint(router)
""",
        ["200 a"],
        ("GET /a",),
    ),
    Row(
        """
        const router = express.Router()
        router.get('/a', (req, res) => { res.end('a') })
        app.use('/api', router)
        """,
        """
api = Blueprint("name", __name__)

@api.get("/a")
@handler
def a(req, res):
    res.end("a")

app.register_blueprint(api, url_prefix="/api")
""",
        ["200 a"],
        ("GET /api/a",),
    ),
    Row(
        """
        const router = express.Router()
        const auth = (req, res, next) => req.get('X-Key') ? next() : res.sendStatus(403)
        router.use(auth)
        router.get('/a', (req, res) => { res.end('a') })
        app.use('/api', router)
        app.get('/open', (req, res) => { res.end('open') })
        """,
        """
router = Blueprint("name", __name__)

@router.before_request
def auth():
    if not request.headers.get("X-Key"):
        return "Forbidden", 403

@router.get("/a")
@handler
def a(req, res):
    res.end("a")

app.register_blueprint(router, url_prefix="/api")

@app.get("/open")
@handler
def open(req, res):
    res.end("open")
""",
        ["403 Forbidden", "200 a", "200 open"],
        ("GET /api/a", "GET /api/a X-Key:1", "GET /open"),
    ),
    Row(
        """
        const auth = (req, res, next) => req.get('X-Key') ? next() : res.sendStatus(403)
        app.get('/a', auth, (req, res) => { res.end('a') })
        app.get('/open', (req, res) => { res.end('open') })
        """,
        """
def auth(view):
    @functools.wraps(view)
    def guarded(**params):
        if not request.headers.get("X-Key"):
            return "Forbidden", 403
        return view(**params)
    return guarded

@app.get("/a")
@auth
@handler
def a(req, res):
    res.end("a")

@app.get("/open")
@handler
def open(req, res):
    res.end("open")
""",
        ["403 Forbidden", "200 a", "200 open"],
        ("GET /a", "GET /a X-Key:1", "GET /open"),
    ),
    Row(
        """
        app.use((req, res, next) => { res.locals.key = req.get('X-Key'); next() })
        app.get('/', (req, res) => { res.end(res.locals.key) })
        """,
        """
from flask import g

@app.before_request
def prepare():
    g.key = request.headers.get("X-Key")

@app.get("/")
@handler
def view(req, res):
    res.end(g.key)
""",
        ["200 1"],
        ("GET / X-Key:1",),
    ),
    Row(
        """
        app.get('/', (req, res) => { throw new Error('no') })
        app.use((err, req, res, next) => { res.status(500).send(err.message) })
        """,
        """
@app.get("/")
@handler
def view(req, res):
    raise RuntimeError("no")

@app.errorhandler(Exception)
def failed(error):
    return str(error), 500
""",
        ["500 no"],
    ),
    Row(
        """
        app.get('/', (req, res, next) => { const error = new Error('no'); next(error) })
        app.use((err, req, res, next) => { res.status(500).send(err.message) })
        """,
        """
@app.get("/")
@handler
def view(req, res):
    error = RuntimeError("no")
    raise error

@app.errorhandler(Exception)
def failed(error):
    return str(error), 500
""",
        ["500 no"],
    ),
    Row("// app.listen(8000)", "# gunicorn -k gevent -b :8000 module:app", []),
    Row(
        """
        app.use(express.json(), express.urlencoded())
        app.post('/', (req, res) => { res.end(req.body.a) })
        """,
        """
@app.post("/")
@handler
def view(req, res):
    res.end(req.body["a"])
""",
        ["200 b", "200 c"],
        (
            'POST / Content-Type:application/json\n{"a":"b"}',
            "POST / Content-Type:application/x-www-form-urlencoded\na=c",
        ),
    ),
    Row(
        "app.use(cors()); app.get('/', (req, res) => { res.end('.') })",
        """
# of flask-cors
from flask_cors import CORS
CORS(app)

@app.get("/")
@handler
def view(req, res):
    res.end(".")
""",
        ["200 Access-Control-Allow-Origin=* ."],
        (f"GET / Origin:{ORIGIN}",),
    ),
    Row(
        """
        const path = process.env.PAGES + '/templates/page.html'
        app.get('/', (req, res) => { res.sendFile(path) })
        """,
        """
import os
path = os.environ["PAGES"] + "/templates/page.html"

@app.get("/")
def view():
    return send_file(path)
""",
        ["200 <p>{{ a }}</p>"],
    ),
    Row(
        """
        app.engine('html', (path, options, done) => {
          done(null, require('fs').readFileSync(path, 'utf8').replace('{{ a }}', options.a))
        })
        app.set('view engine', 'html').set('views', process.env.PAGES + '/templates')
        app.get('/', (req, res) => { const a = 'text'; res.render('page', { a }) })
        """,
        """
@app.get("/")
def view():
    a = "text"
    return render_template("page.html", a=a)
""",
        ["200 <p>text</p>"],
    ),
    Row(
        """
        const bus = new EventEmitter()
        app.use(compression())
        app.get('/', (req, res) => {
          res.set('Content-Type', 'text/event-stream')
          res.write('data: one piece of the whole answer'); res.flush()
          bus.once('go', () => res.end('.'))
        })
        app.get('/go', (req, res) => { bus.emit('go'); res.end() })
        """,
        """
# Without: compression
app.config["SSESTREAM_COMPRESS"] = True
waiting = []

@app.get("/")
@handler
def view(req, res):
    res.set("Content-Type", "text/event-stream")
    waiting.append(res)
    res.write("data: one piece of the whole answer")
    gevent.sleep(600)

@app.get("/go")
@handler
def go(req, res):
    waiting.pop().end(".")
    res.end()
""",
        ["a piece"],
        ("GET /", "GET /go"),
        flushed,
    ),
    Row(
        """
        app.get('/', (req, res) => {
          req.socket.setTimeout(0); res.end(`${req.socket.timeout}`)
        })
        """,
        """
@app.get("/")
@handler
def view(req, res):
    res.end(f"{req.environ['gunicorn.socket'].gettimeout() or 0}")
""",
        ["200 0"],
    ),
    # Node has no getter: its own documents say what these two set.
    Row(
        "app.get('/', (req, res) => { res.socket.setNoDelay(true); res.end('1') })",
        """
@app.get("/")
@handler
def view(req, res):
    with req.environ["gunicorn.socket"].dup() as sock:
        res.flush_headers()
        no_delay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    res.end(f"{no_delay}")
""",
        ["200 1"],
    ),
    Row(
        "app.get('/', (req, res) => { req.socket.setKeepAlive(true); res.end('1') })",
        """
@app.get("/")
@handler
def view(req, res):
    with req.environ["gunicorn.socket"].dup() as sock:
        res.flush_headers()
        keep_alive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    res.end(f"{keep_alive}")
""",
        ["200 1"],
    ),
    Row("// timer.unref()", "", []),
    Row(
        """
        async function* pieces (signal) {
          try {
            for (;;) { yield 'piece'; await sleep(5, null, { signal }) }
          } finally { f() }
        }
        app.get('/', async (req, res) => {
          const controller = new AbortController()
          req.on('close', () => controller.abort())
          try {
            for await (const piece of pieces(controller.signal)) res.write(piece)
          } catch (error) { f() }
        })
        """,
        """
def pieces():
    try:
        while True:
            yield "piece"
            gevent.sleep(0.005)
    finally:
        f()

@app.get("/")
@handler
def view(req, res):
    try:
        for piece in pieces():
            res.write(piece)
    finally:
        f()
""",
        # The generator is closed, and the function is ended.
        ["called"] * 2,
        seen=functools.partial(departure, times=2),
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("program")
    (folder / "templates").mkdir()
    (folder / "templates" / "page.html").write_text("<p>{{ a }}</p>")
    return folder


@pytest.fixture(
    scope="module",
    params=KINDS,
)
def programs(
    request: pytest.FixtureRequest,
    node_with_all: str,
    folder: Path,
    installed: Callable[[str], None],
) -> Iterator[tuple[Program, Program]]:
    installed("flask_cors")
    with both(node_with_all, folder, ROWS, request.param) as programs:
        yield programs


def test_each_row_of_the_table_is_here() -> None:
    assert len(TABLE) == len(ROWS) > 20


@each_row(TABLE, ROWS)
def test_a_row_does_the_same_in_both(
    programs: tuple[Program, Program], number: int, cells: Cells, row: Row
) -> None:
    # These two have tests of their own, below.
    assert bool(row.expected) != (cells.name in (LISTEN, UNREF))
    does_the_same(programs, number, cells, row)


def test_the_command_of_the_table_serves_an_app(tmp_path: Path) -> None:
    (cells,) = [cells for cells in TABLE if cells.name == LISTEN]
    program, *args = shlex.split(cells.python[0])
    assert (program, args[2:]) == ("gunicorn", ["-b", ":8000", "module:app"])
    (tmp_path / "module.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    # The same with a free port of this host.
    server = Server(args[1], args[-1], env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}).start()
    try:
        assert answers(server, 0, ("GET /",))[0].startswith("404 ")
    finally:
        server.stop()


def test_a_timer_keeps_no_process_alive(node: str) -> None:
    assert UNREF in [cells.name for cells in TABLE]
    ours = "from ssestream import set_interval; timer = set_interval(print, 60_000)"
    theirs = "const timer = setInterval(console.log, 60000); timer.unref()"
    for command in ([sys.executable, "-c", ours], [node, "-e", theirs]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
