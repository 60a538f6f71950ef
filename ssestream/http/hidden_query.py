"""Take a secret out of the query of a request, so that no later line of a log has it.

gunicorn writes its access log from the environ when the response is over. ``request.url`` of
Werkzeug is made from the request when somebody first reads it.
"""

from typing import Any
from urllib.parse import unquote_plus

from werkzeug.wrappers import Request

#: What the value of a hidden parameter becomes.
HIDDEN = "-"

#: The names in an environ that may hold a query: of PEP 3333, gunicorn, and Werkzeug's server.
_QUERY, _URIS = "QUERY_STRING", ("RAW_URI", "REQUEST_URI")

#: What a Werkzeug request remembers of its query once it was read.
_CACHED = ("args", "full_path", "url", "values")


def hide_parameter(request: Request, name: str) -> None:
    """Replace each value of the query parameter *name* in *request* and in its environ."""
    environ: dict[str, Any] = request.environ
    query = environ.get(_QUERY, "")
    hidden = _hidden(query, name)
    if hidden == query:
        return
    environ[_QUERY] = hidden
    for key in _URIS:
        path, mark, rest = environ.get(key, "").partition("?")
        if mark:
            environ[key] = path + mark + _hidden(rest, name)
    known = vars(request)
    known["query_string"] = hidden.encode("latin-1")
    for cached in _CACHED:
        known.pop(cached, None)


def _hidden(query: str, name: str) -> str:
    parts = []
    for part in query.split("&"):
        key, mark, _ = part.partition("=")
        # The name may be escaped.
        is_meant = bool(mark) and unquote_plus(key) == name
        parts.append(f"{key}={HIDDEN}" if is_meant else part)
    return "&".join(parts)
