"""What a stream reads of the request that it answers."""

from typing import Any
from urllib.parse import parse_qs

#: Characters of a ``Last-Event-ID`` that are looked at. A browser sends back
#: what the server gave it, which is short; servers refuse headers from 8 KiB.
MAX_LAST_EVENT_ID = 4096


def environ_of(request: Any) -> dict[str, Any]:
    """The WSGI environ of a Flask or Werkzeug request, or *request* itself if it is one.

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
    """From the ``Last-Event-ID`` header, else from the ``lastEventId`` query parameter.

    Of several parameters the last that is not empty: a polyfill appends its own, which is
    newer, to the URL that the page gave it.

    And whether there is one: then None is one that no browser can have been sent.
    """
    header = environ.get("HTTP_LAST_EVENT_ID")
    if not header:
        # Polyfills cannot set the header and use this parameter.
        query = environ.get("QUERY_STRING", "").encode("latin-1", "replace")
        if b"lastEventId" not in query:
            return None, False
        text = query.decode("utf-8", "surrogateescape")
        values = parse_qs(text, errors="surrogateescape").get("lastEventId")
        if not values:
            return None, False
        text = values[-1]
    else:
        # WSGI hands bytes over as Latin-1; browsers send the id as UTF-8.
        text = header.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    # A browser can only have an id that was sent to it, and none such has
    # control characters, undecodable bytes or this length.
    valid = len(text) <= MAX_LAST_EVENT_ID and not any(
        character < " " or "\x7f" <= character < "\xa0" or "\ud800" <= character <= "\udfff"
        for character in text
    )
    return text if valid else None, True
