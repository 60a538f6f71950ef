"""Apps with one extension of Flask each, and four shapes of a stream beside it.

Each shape sends one event at once. A heartbeat comes never, so that only the end of its connection
tells of a client that has left.
"""

import functools
import importlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, Response, request, session
from gevent import monkey
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from ssestream import Channels, ServerResponse, SseStream, handler, pipeline

channels = Channels("memory://")

#: The paths of the streams that are over, as the app was told.
left: list[str] = []

View = Callable[..., Any]


def _piped() -> tuple[SseStream, ServerResponse]:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    path = request.script_root + request.path
    res.on("close", lambda: left.append(path))
    return sse_stream, res


def view() -> Response:
    sse_stream, res = _piped()
    sse_stream.write({"data": "first"})
    return res


@handler
def waiting(req: Any, res: Any) -> None:
    """Writes, and waits until its client leaves."""
    path = req.script_root + req.path
    sse_stream = SseStream(req)
    sse_stream.pipe(res)
    sse_stream.write({"data": "first"})
    try:
        while True:
            time.sleep(0.02)
            if not sse_stream.write({"event": "more", "data": ""}):
                break
    finally:
        left.append(path)


def drawn() -> Response:
    path = request.script_root + request.path

    def source() -> Iterator[dict[str, str]]:
        try:
            yield {"data": "first"}
            while True:
                time.sleep(0.02)
                yield {"event": "more", "data": ""}
        finally:
            left.append(path)

    return pipeline(source(), SseStream(request), ServerResponse())


def followed() -> Response:
    sse_stream, res = _piped()
    channel = request.script_root.strip("/") or "in-process"
    channels.subscribe(sse_stream, channel)
    channels.publish(channel, {"data": "first"})
    return res


#: By the path of each: one stream of every shape.
SHAPES: dict[str, View] = {
    "view": view,
    "handler": waiting,
    "pipeline": drawn,
    "channel": followed,
}


def new(**config: Any) -> Flask:
    app = Flask("extended")
    app.config.update(
        SECRET_KEY="for tests, and of forty characters at least",
        SSESTREAM_HEARTBEAT=None,
        **config,
    )
    return app


def add_shapes(app: Flask, around: Callable[[View], View] = lambda view: view) -> Flask:
    for name, shape in SHAPES.items():
        app.add_url_rule(f"/{name}", name, around(shape), methods=["GET", "POST"])
    return app


# -- one extension each


def flask_login() -> Flask:
    from flask_login import LoginManager, UserMixin, login_required, login_user

    class User(UserMixin):
        id = "ann"

    app = new()
    manager = LoginManager(app)
    manager.user_loader(lambda id: User())
    app.add_url_rule("/enter", "enter", lambda: str(login_user(User())), methods=["POST"])
    return add_shapes(app, login_required)


def flask_httpauth() -> Flask:
    from flask_httpauth import HTTPBasicAuth

    auth = HTTPBasicAuth()
    auth.verify_password(lambda name, password: name == "right" and name)
    return add_shapes(new(), auth.login_required)


def flask_jwt_extended() -> Flask:
    from flask_jwt_extended import JWTManager, create_access_token, jwt_required, set_access_cookies

    app = new(JWT_TOKEN_LOCATION=["headers", "cookies", "query_string"])
    JWTManager(app)

    @app.post("/token")
    def token() -> Response:
        made = create_access_token("ann")
        response = app.make_response(made)
        if "cookie" in request.args:
            set_access_cookies(response, made)
        return response

    return add_shapes(app, jwt_required())


def flask_wtf() -> Flask:
    from flask_wtf.csrf import CSRFProtect, generate_csrf

    app = new()
    CSRFProtect(app)
    app.add_url_rule("/token", "token", generate_csrf)
    return add_shapes(app)


def flask_talisman() -> Flask:
    from flask_talisman import Talisman

    app = new()
    Talisman(app, force_https=False)
    return add_shapes(app)


def flask_cors() -> Flask:
    from flask_cors import CORS

    app = new()
    CORS(app, origins=["https://app.example"], supports_credentials=True)
    return add_shapes(app)


def flask_limiter() -> Flask:
    from flask_limiter import Limiter
    from flask_limiter.util import get_remote_address

    app = new()
    limits = ["2 per hour"]
    Limiter(get_remote_address, app=app, default_limits=limits, storage_uri="memory://")
    return add_shapes(app)


def flask_session() -> Flask:
    from cachelib import SimpleCache
    from flask_session import Session

    app = new(SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache())
    Session(app)

    def counting(view: View) -> View:
        @functools.wraps(view)
        def counted(**arguments: Any) -> Any:
            session["streams"] = session.get("streams", 0) + 1
            return view(**arguments)

        return counted

    @app.get("/late")
    @handler
    def late(req: Any, res: Any) -> None:
        """Sets something in the session when the head is on its way."""
        sse_stream = SseStream(req)
        sse_stream.pipe(res)
        sse_stream.write({"data": "first"})
        session["late"] = True
        sse_stream.end()

    app.add_url_rule("/kept", "kept", lambda: [session.get("streams"), session.get("late")])
    return add_shapes(app, counting)


def flask_sqlalchemy(uri: str = "sqlite://") -> Flask:
    from flask_sqlalchemy import SQLAlchemy

    app = new(SQLALCHEMY_DATABASE_URI=uri)
    db = SQLAlchemy(app)

    def asking(view: View) -> View:
        @functools.wraps(view)
        def asked(**arguments: Any) -> Any:
            db.session.execute(db.text("SELECT 1"))
            return view(**arguments)

        return asked

    @app.get("/held")
    @handler
    def held(req: Any, res: Any) -> None:
        """Asks between its waits, and keeps the connection or gives it back."""
        sse_stream = SseStream(req)
        sse_stream.pipe(res)
        keeps = "keeps" in req.query
        try:
            while True:
                found = db.session.execute(db.text("SELECT 7")).scalar()
                if not keeps:
                    db.session.remove()
                if not sse_stream.write({"data": found}):
                    return
                time.sleep(0.02)
        finally:
            db.session.remove()
            left.append("/held")

    @app.get("/rows")
    def rows() -> Response:
        """A source that opens an app context for each of its questions."""

        def source() -> Iterator[dict[str, Any]]:
            try:
                while True:
                    with app.app_context():
                        found = db.session.execute(db.text("SELECT 7")).scalar()
                    yield {"data": found}
                    time.sleep(0.02)
            finally:
                left.append("/rows")

        return pipeline(source(), SseStream(request), ServerResponse())

    app.add_url_rule("/pool", "pool", lambda: str(db.engine.pool.checkedout()))
    return add_shapes(app, asking)


def flask_caching() -> Flask:
    from flask_caching import Cache

    app = new(CACHE_TYPE="SimpleCache")
    cache = Cache(app)
    asked: list[int] = []

    @cache.memoize()
    def dear() -> int:
        asked.append(1)
        return len(asked)

    def around(view: View) -> View:
        @functools.wraps(view)
        def asking(**arguments: Any) -> Any:
            assert dear() == 1
            return view(**arguments)

        return asking

    app.add_url_rule("/cached", "cached", cache.cached()(view))
    return add_shapes(app, around)


def flask_compress() -> Flask:
    from flask_compress import Compress

    app = new(COMPRESS_MIMETYPES=["text/event-stream", "text/plain"], COMPRESS_MIN_SIZE=0)
    Compress(app)
    app.add_url_rule("/text", "text", lambda: Response("text " * 200, mimetype="text/plain"))
    return add_shapes(app)


def flask_debugtoolbar() -> Flask:
    from flask_debugtoolbar import DebugToolbarExtension

    app = new(DEBUG_TB_PROFILER_ENABLED=True)
    app.debug = True
    DebugToolbarExtension(app)
    app.add_url_rule("/page", "page", lambda: "<html><body>page</body></html>")
    return add_shapes(app)


def flask_socketio() -> Flask:
    from flask_socketio import SocketIO

    app = new()
    is_patched = monkey.is_module_patched("threading")
    socketio = SocketIO(app, async_mode="gevent" if is_patched else "threading")

    @socketio.on("say")
    def say(text: str) -> str:
        channels.publish("said", {"data": text})
        return text

    @app.get("/said")
    def said() -> Response:
        sse_stream, res = _piped()
        channels.subscribe(sse_stream, "said")
        return res

    return add_shapes(app)


def flask_babel() -> Flask:
    from flask_babel import Babel, force_locale, format_decimal, get_locale, lazy_gettext

    app = new()
    Babel(app, locale_selector=lambda: request.args.get("language", "en"))

    @app.get("/number")
    def number() -> Response:
        """Once in the view, and once later by a source, in the language of the view."""
        locale = str(get_locale())
        here = format_decimal(1.5)

        def source() -> Iterator[dict[str, str]]:
            yield {"data": here}
            with app.app_context(), force_locale(locale):
                text = format_decimal(1.5)
            yield {"data": text}

        return pipeline(source(), SseStream(request), ServerResponse())

    @app.get("/lazy")
    def lazy() -> Response:
        sse_stream, res = _piped()
        sse_stream.write({"data": str(lazy_gettext("first"))})
        return res

    return add_shapes(app)


def flask_migrate() -> Flask:
    from flask_migrate import Migrate
    from flask_sqlalchemy import SQLAlchemy

    # Its Redis is away: no command of Flask-Migrate needs it.
    app = new(SQLALCHEMY_DATABASE_URI="sqlite://")
    Channels("redis://127.0.0.1:1/0").init_app(app)
    Migrate(app, SQLAlchemy(app))
    return add_shapes(app)


def flask_restx() -> Flask:
    from flask_restx import Api, Resource

    app = new()
    api = Api(app, doc=False)
    for name, shape in SHAPES.items():
        methods = {"get": staticmethod(shape)}
        api.add_resource(type(name, (Resource,), methods), f"/{name}", endpoint=name)
    return app


def flask_smorest() -> Flask:
    from flask_smorest import Api, Blueprint

    app = new(API_TITLE="Streams", API_VERSION="1", OPENAPI_VERSION="3.0.3")
    app.config["OPENAPI_URL_PREFIX"] = "/"
    blueprint = Blueprint("streams", "streams")
    for name, shape in SHAPES.items():
        documented = blueprint.response(200, {"type": "string"}, content_type="text/event-stream")(
            shape
        )
        blueprint.route(f"/{name}", endpoint=name)(documented)
    Api(app).register_blueprint(blueprint)
    return app


def apiflask() -> Flask:
    from apiflask import APIFlask

    app = APIFlask("extended")
    app.config["SSESTREAM_HEARTBEAT"] = None
    for name, shape in SHAPES.items():
        documented = app.output({}, content_type="text/event-stream")(shape)
        app.get(f"/{name}", endpoint=name)(documented)
    return app


def prometheus_flask_exporter() -> Flask:
    from prometheus_client import CollectorRegistry
    from prometheus_flask_exporter import PrometheusMetrics

    app = new()
    PrometheusMetrics(app, registry=CollectorRegistry())
    return add_shapes(app)


#: By the name of its module: the app with this extension.
EXTENSIONS: dict[str, Callable[..., Flask]] = {
    build.__name__: build
    for build in (
        flask_login,
        flask_httpauth,
        flask_jwt_extended,
        flask_wtf,
        flask_talisman,
        flask_cors,
        flask_limiter,
        flask_session,
        flask_sqlalchemy,
        flask_migrate,
        flask_caching,
        flask_compress,
        flask_babel,
        flask_restx,
        flask_smorest,
        apiflask,
        flask_socketio,
        flask_debugtoolbar,
        prometheus_flask_exporter,
    )
}


def is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def told() -> Flask:
    """What the test asks of the process."""
    app = new()
    app.add_url_rule("/left", "left", lambda: json.dumps(left))
    return app


def __getattr__(name: str) -> Any:
    """``app``: all of them at once, under the name of each."""
    if name != "app":
        raise AttributeError(name)
    logging.getLogger("ssestream").setLevel(logging.INFO)
    logging.basicConfig()
    mounted = {f"/{each}": EXTENSIONS[each]() for each in os.environ["EXTENSIONS"].split(",")}
    return DispatcherMiddleware(told(), mounted)
