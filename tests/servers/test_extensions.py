"""Extensions of Flask, each beside streams of four shapes: the rows of docs/extensions.rst."""

import base64
import functools
import json
import logging
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssestream.testing import Events
from tests.kit.servers import PATIENCE, ROOT, Client, Server, ask, wait_until
from tests.servers.apps import extensions
from tests.servers.apps.extensions import EXTENSIONS, SHAPES, is_there

PAGE = (ROOT / "docs" / "extensions.rst").read_text()

Sse = Callable[..., Events]


@pytest.fixture
def sse(sse: Sse) -> Sse:
    """The plugin's own, with patience for a busy machine."""
    return functools.partial(sse, timeout=PATIENCE)


@pytest.fixture
def installed(installed: Callable[[str], None]) -> Callable[[str], None]:
    def check(module: str) -> None:
        if module == "apiflask" and not is_there(module):
            # `flask run` imports it and all of SQLAlchemy where it is installed, which would take
            # a second more for every test that starts such a server.
            pytest.skip("left out, as APIFlask is no part of the extra: pip install apiflask")
        installed(module)

    return check


@pytest.fixture
def app(request: pytest.FixtureRequest, installed: Callable[[str], None]) -> Any:
    """The app with the extension that a test names first."""
    name = request.param
    installed(name)
    app = EXTENSIONS[name]()
    yield app
    close_databases(app)


def close_databases(app: Any) -> None:
    """Leave no connection of SQLite to the garbage collector, which would warn."""
    if "sqlalchemy" in app.extensions:
        with app.app_context():
            for engine in app.extensions["sqlalchemy"].engines.values():
                engine.dispose()


def beside(name: str) -> Any:
    """For a test of the app with this extension."""
    return pytest.mark.parametrize("app", [name], indirect=True)


def basic(name: str) -> dict[str, str]:
    word = base64.b64encode(f"{name}:".encode()).decode()
    return {"Authorization": f"Basic {word}"}


def entry(name: str, visitor: Any) -> dict[str, str]:
    """The headers that the extension wants of a stream's request, and *visitor* logged in."""
    if name == "flask_login":
        visitor.post("/enter")
    if name == "flask_httpauth":
        return basic("right")
    if name == "flask_jwt_extended":
        return {"Authorization": f"Bearer {visitor.post('/token').text}"}
    return {}


# -- every extension, every shape


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("app", EXTENSIONS, indirect=True)
def test_a_stream_opens_at_once_and_ends_with_its_client(
    app: Any, shape: str, sse: Sse, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["app"]
    visitor = app.test_client()
    extensions.left.clear()
    headers = {"Accept-Encoding": "gzip", **entry(name, visitor)}
    with sse(visitor, f"/{shape}", headers=headers) as events:
        assert events.next().data == "first"
        assert events.ended is None
        assert "Content-Encoding" not in events.headers
    wait_until(lambda: extensions.left == [f"/{shape}"], "the app to be told")


@pytest.fixture(
    scope="module", params=["gevent", pytest.param("gthread", marks=pytest.mark.long), "SseWorker"]
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """All of them on one server."""
    env = {"EXTENSIONS": ",".join(filter(is_there, EXTENSIONS))}
    # They take some seconds of the processor to import.
    args = ("--timeout", "600")
    server = Server(request.param, "tests.servers.apps.extensions:app", env=env, args=args)
    server.start()
    try:
        ask(server.port, "/left", patience=5 * PATIENCE)
        yield server
    finally:
        server.stop()


def post(server: Server, path: str) -> Any:
    return urllib.request.urlopen(f"{server.url}{path}", b"", timeout=PATIENCE)


def entry_there(name: str, server: Server) -> list[str]:
    """As `entry`, for a request to *server*."""
    if name == "flask_login":
        with post(server, f"/{name}/enter") as answer:
            return ["Cookie: " + answer.headers["Set-Cookie"].partition(";")[0]]
    if name == "flask_jwt_extended":
        with post(server, f"/{name}/token") as answer:
            return [f"Authorization: Bearer {answer.read().decode()}"]
    return [f"{key}: {value}" for key, value in entry(name, None).items()]


@pytest.mark.long_except("gevent-flask_login")
@pytest.mark.server
@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_real_server_sends_the_stream_and_tells_of_its_end(
    name: str, server: Server, installed: Callable[[str], None]
) -> None:
    installed(name)
    path = f"/{name}/view"
    client = Client(server.port).get(path, *entry_there(name, server), "Accept-Encoding: gzip")
    assert b"data: first\n\n" in client.read_until(b"data: first\n\n")
    assert path not in json.loads(ask(server.port, "/left"))
    client.fin()
    wait_until(lambda: path in json.loads(ask(server.port, "/left")), "the app to be told")
    # None of them wraps the response, so that SseWorker sends it by itself.
    assert "SseWorker sends this stream" not in server.log()


# -- what each is there for


@beside("flask_login")
def test_flask_login_refuses_a_stream(app: Any, sse: Sse) -> None:
    visitor = app.test_client()
    assert sse(visitor, "/view").status == 401
    visitor.post("/enter")
    assert sse(visitor, "/view").status == 200


@beside("flask_httpauth")
def test_flask_httpauth_refuses_a_stream(app: Any, sse: Sse) -> None:
    assert sse(app, "/view", headers=basic("wrong")).status == 401
    assert sse(app, "/view", headers=basic("right")).status == 200


@beside("flask_jwt_extended")
def test_a_token_comes_by_a_header_a_cookie_or_the_query(app: Any, sse: Sse) -> None:
    visitor = app.test_client()
    assert sse(visitor, "/view").status == 401
    token = visitor.post("/token").text
    for options in (
        {"headers": {"Authorization": f"Bearer {token}"}},
        {"query_string": {"jwt": token}},
    ):
        assert sse(app, "/view", **options).next().data == "first"
    assert sse(app, "/view?jwt=forged").status == 422
    visitor.post("/token?cookie")
    assert sse(visitor, "/view").next().data == "first"


@beside("flask_wtf")
def test_a_stream_for_a_post_needs_the_csrf_token(app: Any, sse: Sse) -> None:
    visitor = app.test_client()
    assert sse(visitor, "/pipeline", method="POST").status == 400
    headers = {"X-CSRFToken": visitor.get("/token").text}
    assert sse(visitor, "/pipeline", method="POST", headers=headers).next().data == "first"
    assert sse(visitor, "/pipeline").next().data == "first"


@beside("flask_talisman")
def test_a_policy_of_content_goes_with_a_stream(app: Any, sse: Sse) -> None:
    assert sse(app, "/view").headers["Content-Security-Policy"].startswith("default-src 'self'")


@beside("flask_cors")
@pytest.mark.parametrize("shape", SHAPES)
def test_another_origin_may_read_a_stream_if_it_is_named(app: Any, shape: str, sse: Sse) -> None:
    headers = sse(app, f"/{shape}", headers={"Origin": "https://app.example"}).headers
    assert headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert headers["Access-Control-Allow-Credentials"] == "true"
    headers = sse(app, f"/{shape}", headers={"Origin": "https://evil.example"}).headers
    assert "Access-Control-Allow-Origin" not in headers


@beside("flask_limiter")
def test_a_stream_counts_once_for_all_its_events(app: Any, sse: Sse) -> None:
    first = sse(app, "/pipeline")
    first.until(lambda event: event.event == "more")
    # A browser that comes back counts again.
    first.reconnect()
    assert first.next().data == "first"
    assert sse(app, "/pipeline").status == 429
    # The limit is of this view.
    assert sse(app, "/view").status == 200


@beside("flask_session")
def test_a_session_is_kept_as_the_view_left_it(app: Any, sse: Sse) -> None:
    visitor = app.test_client()
    for _ in range(4):
        sse(visitor, "/view").next()
    sse(visitor, "/late").rest()
    assert visitor.get("/kept").get_json() == [4, None]


@pytest.fixture
def database(tmp_path: Path) -> str:
    # Connections of a pool, as a real database has.
    return f"sqlite:///{tmp_path}/app.db"


@pytest.fixture
def queries(database: str, installed: Callable[[str], None]) -> Any:
    installed("flask_sqlalchemy")
    extensions.left.clear()
    app = EXTENSIONS["flask_sqlalchemy"](database)
    yield app
    close_databases(app)


def taken(app: Any) -> int:
    return int(app.test_client().get("/pool").text)


def leave(clients: list[Events]) -> None:
    """Let *clients* leave, and wait until nothing asks the database any more."""
    for client in clients:
        client.close()
    wait_until(lambda: len(extensions.left) == len(clients), "the app to be done")


@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - {"handler"}))
def test_an_open_stream_keeps_no_connection_of_the_database(
    shape: str, queries: Any, sse: Sse
) -> None:
    # More than the pool has.
    for _ in range(20):
        assert sse(queries, f"/{shape}").next().data == "first"
    assert taken(queries) == 0


def test_a_source_that_asks_in_a_context_of_its_own_gives_the_connection_back(
    queries: Any, sse: Sse
) -> None:
    clients = [sse(queries, "/rows") for _ in range(20)]
    for client in clients:
        assert [event.data for event in client.take(3)] == ["7"] * 3
    wait_until(lambda: taken(queries) == 0, "no connection to be taken")
    leave(clients)


def test_a_handler_keeps_its_connection_until_it_gives_it_back(queries: Any, sse: Sse) -> None:
    keeping = sse(queries, "/held?keeps")
    keeping.take(3)
    assert taken(queries) == 1
    clients = [keeping, *(sse(queries, "/held") for _ in range(20))]
    for client in clients:
        client.take(3)
    wait_until(lambda: taken(queries) == 1, "the others to have given theirs back")
    leave(clients)
    assert taken(queries) == 0


@beside("flask_caching")
def test_a_stream_that_is_to_be_cached_is_sent_and_not_cached(
    app: Any, sse: Sse, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert sse(app, "/cached").next().data == "first"
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert len(errors) == 2
    assert all("Let no cache" in str(error) for error in errors)


@beside("flask_compress")
def test_a_page_is_compressed_and_a_stream_is_not(app: Any, sse: Sse) -> None:
    headers = {"Accept-Encoding": "gzip"}
    assert app.test_client().get("/text", headers=headers).headers["Content-Encoding"] == "gzip"
    for shape in SHAPES:
        assert "Content-Encoding" not in sse(app, f"/{shape}", headers=headers).headers


@beside("flask_debugtoolbar")
def test_a_page_has_the_toolbar_and_a_stream_has_not(app: Any, sse: Sse) -> None:
    assert "flDebug" in app.test_client().get("/page").text
    with sse(app, "/pipeline") as events:
        assert "flDebug" not in str([events.next(), *events.take(3)])


@beside("flask_babel")
def test_a_source_speaks_the_language_that_the_view_had(app: Any, sse: Sse) -> None:
    for language, number in (("en", "1.5"), ("de", "1,5")):
        events = sse(app, f"/number?language={language}")
        assert [event.data for event in events.rest()] == [number, number]
    assert sse(app, "/lazy").next().data == "first"


@beside("flask_migrate")
def test_a_command_of_flask_migrate_needs_no_broker(app: Any, tmp_path: Path) -> None:
    made = app.test_cli_runner().invoke(args=["db", "init", "-d", str(tmp_path / "migrations")])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "migrations" / "env.py").exists()


@beside("flask_smorest")
def test_flask_smorest_describes_a_stream(app: Any) -> None:
    described = app.test_client().get("/openapi.json").get_json()["paths"]["/view"]["get"]
    assert "text/event-stream" in described["responses"]["200"]["content"]


@beside("apiflask")
def test_apiflask_describes_a_stream(app: Any) -> None:
    described = app.test_client().get("/openapi.json").get_json()["paths"]["/view"]["get"]
    assert "text/event-stream" in described["responses"]["200"]["content"]


@beside("flask_restx")
def test_flask_restx_answers_what_asks_for_an_event_stream(app: Any, sse: Sse) -> None:
    headers = {"Accept": "text/event-stream"}
    assert sse(app, "/view", headers=headers).next().data == "first"
    assert sse(app, "/none", headers=headers).status == 404


@beside("prometheus_flask_exporter")
def test_a_stream_is_counted_once_its_view_has_answered(app: Any, sse: Sse) -> None:
    visitor = app.test_client()

    def counted() -> list[str]:
        return re.findall(
            r'http_request_total\{method="GET",status="200"\} (\S+)', visitor.get("/metrics").text
        )

    with sse(app, "/view") as events:
        events.next()
        assert counted() == ["1.0"]
    assert counted() == ["1.0"]


def frame(client: Client) -> str:
    """The next frame of a WebSocket, of less than 64 KiB."""

    def read(count: int) -> bytes:
        while len(client.received) < count:
            data = client.sock.recv(65536)
            assert data, "the WebSocket was closed"
            client.received += data
        data, client.received = client.received[:count], client.received[count:]
        return data

    length = read(2)[1]
    return read(int.from_bytes(read(2), "big") if length == 126 else length).decode()


def say(client: Client, text: str) -> None:
    """Send a short frame, masked with nothing."""
    data = text.encode()
    assert len(data) < 126
    client.sock.sendall(bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data)


@pytest.mark.server
def test_flask_socketio_serves_its_clients_beside_a_stream(
    server: Server, installed: Callable[[str], None]
) -> None:
    installed("flask_socketio")
    stream = Client(server.port).get("/flask_socketio/said")
    stream.read_until(b":ok\n\n")
    # By WebSocket. Flask-SocketIO finds the path below the place where it is mounted.
    socket = Client(server.port).get(
        "/flask_socketio/socket.io/?EIO=4&transport=websocket",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        "Sec-WebSocket-Version: 13",
    )
    head, _, rest = socket.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101"), head
    socket.received = rest
    assert frame(socket).startswith('0{"sid"')
    say(socket, "40")
    assert frame(socket).startswith('40{"sid"')
    say(socket, '421["say","hello"]')
    assert frame(socket) == '431["hello"]'
    assert b"data: hello\n\n" in stream.read_until(b"data: hello\n\n")
    # By polling.
    polled = ask(server.port, "/flask_socketio/socket.io/?EIO=4&transport=polling")
    assert polled.startswith(b'0{"sid"')
    for client in (socket, stream):
        client.fin()


# -- the page


def test_the_page_has_a_row_for_each_of_them() -> None:
    for name in EXTENSIONS:
        assert f"(``{name}``)" in PAGE, name


def test_the_page_names_tests_that_are_there() -> None:
    tests = "".join(file.read_text() for file in Path(__file__).parents[1].glob("*/test_*.py"))
    named = re.findall(r"``(test_\w+)``", PAGE)
    assert len(named) > len(EXTENSIONS)
    for name in named:
        assert f"def {name}(" in tests, name
