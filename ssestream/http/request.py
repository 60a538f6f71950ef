"""The parts of a WSGI request that a stream reads: its environ and its Last-Event-ID."""

from typing import Any
from urllib.parse import parse_qs

#: The longest ``Last-Event-ID`` that is accepted, in characters. A browser sends back an id
#: that a server gave it, and such an id is short. Servers refuse headers from 8 KiB on.
MAX_LAST_EVENT_ID = 4096


def environ_of(request: Any) -> dict[str, Any]:
    """The environ of *request*: a Flask or Werkzeug request, or the WSGI environ itself.

    Raises ``TypeError`` for anything else.
    """
    environ = getattr(request, "environ", request)
    if not isinstance(environ, dict) or "REQUEST_METHOD" not in environ:
        raise TypeError(
            "request must be a Flask or Werkzeug request, a WSGI environ or None,"
            f" not {type(request).__name__}"
        )
    return environ


def last_event_id(environ: dict[str, Any]) -> tuple[str | None, bool]:
    """The client's last event id, and whether the client sent one.

    The id comes from the ``Last-Event-ID`` header (WHATWG HTML, section 9.2.4), or else from
    the ``lastEventId`` query parameter. If the parameter comes several times, the last one
    that is not empty counts: a polyfill appends its own to the page's URL, and this is newer.

    The id is None if the client sent none, or if it sent an id that no browser can have.
    """
    header = environ.get("HTTP_LAST_EVENT_ID")
    if not header:
        # Polyfills cannot set the header, so they use this parameter.
        query = environ.get("QUERY_STRING", "").encode("latin-1", "replace")
        if b"lastEventId" not in query:
            return None, False
        text = query.decode("utf-8", "surrogateescape")
        values = parse_qs(text, errors="surrogateescape").get("lastEventId")
        if not values:
            return None, False
        text = values[-1]
    else:
        # WSGI servers decode the header as Latin-1. Browsers send UTF-8.
        text = header.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    # A browser only has ids that a server sent. Such an id has no control characters, is valid
    # UTF-8 and is not too long.
    valid = len(text) <= MAX_LAST_EVENT_ID and not any(
        character < " " or "\x7f" <= character < "\xa0" or "\ud800" <= character <= "\udfff"
        for character in text
    )
    return text if valid else None, True
