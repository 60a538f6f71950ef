"""The files of the page. Script and style have the hash of their content in their names."""

import functools
import hashlib
from pathlib import Path

import flask

#: A stylesheet or a script, by the ending of its name.
KINDS = {"css": "text/css", "js": "text/javascript"}

#: Nothing but the room's own files, and no text that becomes markup or code. A page of another site
#: cannot show this one in a frame, so no click meant for that page cuts a stream here.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)

# Private: the file is for admitted operators only, and no cache between keeps it.
_FOR_EVER = "private, max-age=31536000, immutable"

_FOLDER = Path(__file__).parent


@functools.cache
def _content(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


@functools.cache
def digest_of(kind: str) -> str:
    """The hash of the content of the *kind*."""
    return hashlib.sha256(_content(f"page.{kind}")).hexdigest()[:16]


def page() -> flask.Response:
    """The page, which names its script and its style with their hashes."""
    text = _content("page.html").decode()
    for kind in KINDS:
        text = text.replace(f"page.{kind}", f"page-{digest_of(kind)}.{kind}")
    response = flask.Response(text, mimetype="text/html")
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def file(digest: str, kind: str) -> flask.Response:
    """The script or the style. Only the name with the hash of this content is kept for ever.

    While servers are replaced, a page of the old one may ask the new one, and gets its files.
    """
    if kind not in KINDS:
        flask.abort(404)
    response = flask.Response(_content(f"page.{kind}"), mimetype=KINDS[kind])
    if digest == digest_of(kind):
        response.headers["Cache-Control"] = _FOR_EVER
    return response
