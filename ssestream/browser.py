"""``ssestream.js`` for the pages of a Flask app: its route, and ``ssestream_url()`` in templates.

The module is a file of this package, so that page and server have the same version. Its docs are
docs/browser.rst.
"""

import contextlib
import functools
import hashlib
from pathlib import Path

import flask

#: The file of the module, for an app that serves or bundles it in another way.
FILE = Path(__file__).with_name("ssestream.js")

#: The endpoint of the route.
ENDPOINT = "ssestream_js"

# A year means for ever. "immutable" saves the question on a reload (RFC 8246).
_FOR_EVER = "public, max-age=31536000, immutable"


def init_app(app: flask.Flask) -> None:
    """Serve ``ssestream.js`` with *app*, and give the templates ``ssestream_url()``.

    `Channels.init_app` does this, too. A second call changes nothing. Raises ``AssertionError``,
    as Flask does, if *app* has already answered a request.
    """
    if ENDPOINT in app.view_functions:
        return
    app.add_url_rule("/_ssestream/<name>.js", ENDPOINT, _module)
    app.context_processor(lambda: {"ssestream_url": ssestream_url})


def serve_if_early(app: flask.Flask) -> None:
    """Do as `init_app`, or nothing if *app* has already answered a request."""
    with contextlib.suppress(AssertionError):
        init_app(app)


def ssestream_url() -> str:
    """The URL of the module in the current app, with the hash of the module's content.

    A browser keeps the answer and does not ask again. Raises ``werkzeug.routing.BuildError`` if
    `init_app` was not called for the app.
    """
    return flask.url_for(ENDPOINT, name=f"ssestream-{_digest()}")


@functools.cache
def _content() -> bytes:
    return FILE.read_bytes()


@functools.cache
def _digest() -> str:
    return hashlib.sha256(_content()).hexdigest()[:16]


def _module(name: str) -> flask.Response:
    """The module. Only the URL with the hash of this content is kept for ever.

    While servers are replaced, a page of the old one may ask the new one, and gets its module.
    """
    stem, _, digest = name.partition("-")
    if stem != "ssestream":
        flask.abort(404)
    response = flask.current_app.response_class(_content(), mimetype="text/javascript")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = _FOR_EVER if digest == _digest() else "no-cache"
    response.set_etag(_digest())
    response.make_conditional(flask.request)
    return response
