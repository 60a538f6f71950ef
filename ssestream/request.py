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


def last_event_id(environ: dict[str, Any]) -> str | None:
    """From the ``Last-Event-ID`` header, else from the ``lastEventId`` query parameter.

    None where there is none that a browser could have been sent.
    """
    header = environ.get("HTTP_LAST_EVENT_ID")
    if header is None:
        # Polyfills cannot set the header and use this parameter.
        query = environ.get("QUERY_STRING", "").encode("latin-1", "replace")
        if b"lastEventId" not in query:
            return None
        text = query.decode("utf-8", "surrogateescape")
        values = parse_qs(text, errors="surrogateescape").get("lastEventId")
        text = values[0] if values else ""
    else:
        # WSGI hands bytes over as Latin-1; browsers send the id as UTF-8.
        text = header.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    # A browser can only have an id that was sent to it, and none such has
    # control characters, undecodable bytes or this length.
    valid = 0 < len(text) <= MAX_LAST_EVENT_ID and not any(
        character < " " or "\x7f" <= character < "\xa0" or "\ud800" <= character <= "\udfff"
        for character in text
    )
    return text if valid else None
