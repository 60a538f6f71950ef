"""The head of a stream: its status, its type, and the headers that proxies act on."""

import time
from collections.abc import Iterator

from werkzeug.http import parse_date, parse_options_header

from .finding import Finding, fault, note, ok
from .visit import Visit

#: Seconds by which two clocks may differ. The header ``Date`` has whole seconds.
CLOCKS_DIFFER = 5


def is_event_stream(visit: Visit) -> bool:
    """Whether a browser reads the response as an event stream."""
    return (
        visit.status == 200
        and parse_options_header(visit.headers.get("Content-Type"))[0] == "text/event-stream"
    )


def examine_head(visit: Visit, patience: float) -> Iterator[Finding]:
    """Look at the status and the headers of *visit*, which has waited *patience* for them."""
    if visit.head_after is None:
        if visit.ended is not None:
            yield fault(
                f"the connection ended after {visit.ended_after:.1f} s without a response",
                "the worker died, or a proxy cut the connection",
                "the log of the server, at that time",
            )
            return
        if visit.length_of_head:
            yield fault(
                f"{visit.length_of_head} bytes of a head came within {patience:.0f} s, and no end",
                "a browser waits for the end of the head, and gets no event before",
                "the server or the proxy at this address, which stops in the middle of its head",
            )
            return
        yield fault(
            f"no head within {patience:.0f} s",
            "no worker or thread is free, the view has not returned, or a middleware or a proxy"
            " collects or compresses the response",
            "more --threads or -k gevent; return the response before writing; exempt"
            " text/event-stream from the middleware; proxy_buffering off; in nginx. Ask the app"
            " itself to see which (docs/hangs.rst, steps 1 and 3)",
        )
        return
    if visit.status != 200:
        yield _status(visit)
        return
    if not is_event_stream(visit):
        yield fault(
            f"the type is {visit.headers.get('Content-Type')!r} instead of text/event-stream",
            "EventSource gives up for good and says so in its console",
            "return the ServerResponse that the stream is piped into; a login page or an error"
            " page comes with status 200 where another status would be right",
        )
        return
    yield ok(f"status 200 and text/event-stream, {visit.head_after:.2f} s after the request")
    yield from _headers(visit)


#: By status: the consequence, and the change.
_STATUSES = {
    204: (
        "204 tells EventSource not to come back",
        "nothing, if the stream is over; else answer 200",
    ),
    401: (
        "EventSource gives up for good",
        "ask with credentials: --header 'Cookie: session=...'",
    ),
    403: (
        "EventSource gives up for good",
        "ask with credentials: --header 'Cookie: session=...'",
    ),
    404: ("EventSource gives up for good", "the path, or the proxy's rule that leads to the app"),
    429: ("EventSource gives up for good", "wait, or raise the limit of the app or of the proxy"),
    502: (
        "EventSource gives up for good; the proxy cannot reach the app",
        "the address that the proxy has of the app, and whether the app runs",
    ),
    503: (
        "EventSource gives up for good; the app or the proxy has no room",
        "SSESTREAM_MAX_STREAMS and the limits of the proxy; SharedEventSource comes back",
    ),
    504: (
        "EventSource gives up for good; the proxy got no head from the app in its time",
        "a free worker or thread; a view that returns its response before it writes",
    ),
}


def _status(visit: Visit) -> Finding:
    status = visit.status
    seen = f"status {status}"
    if 300 <= status < 400:
        return fault(
            f"{seen}, to {visit.headers.get('Location')!r}",
            "EventSource follows, gets a page such as a login form, and gives up for good",
            "answer 401 to a request for a stream; give the doctor credentials: --header"
            " 'Cookie: session=...'",
        )
    why, change = _STATUSES.get(
        status,
        ("EventSource gives up for good", "the log of the server, at the time of the request"),
    )
    return note(seen, why, change) if status == 204 else fault(seen, why, change)


def _headers(visit: Visit) -> Iterator[Finding]:
    headers = visit.headers
    if "Content-Length" in headers:
        yield fault(
            f"the head says Content-Length: {headers['Content-Length']}",
            "something has collected the whole response before its first byte was sent",
            "the middleware or the proxy that collects: exempt text/event-stream from it",
        )
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        yield note(
            f"the stream is compressed ({encoding})",
            "a compressor that does not flush after each event holds events back",
            "exempt text/event-stream from the compression of the proxy or of the middleware;"
            " ssestream's own gzip flushes",
        )
    control = headers.get("Cache-Control", "").lower()
    consequence = ""
    if "no-cache" not in control and "no-store" not in control:
        consequence = "a cache may answer with an old stream"
    elif "no-transform" not in control:
        consequence = "a proxy may compress the stream, and hold events back"
    if consequence:
        yield note(
            f"Cache-Control is {control!r}",
            consequence,
            "Cache-Control: no-cache, no-transform, as ServerResponse sends; look for what"
            " replaces the header",
        )
    yield from _clock(visit)
    server = headers.get("Server", "").lower()
    if "nginx" not in server and headers.get("X-Accel-Buffering", "").lower() != "no":
        yield note(
            "the head has no X-Accel-Buffering: no",
            "an nginx in front of this address would collect events",
            "return the ServerResponse; a bare Response needs the header set by hand",
        )


def _clock(visit: Visit) -> Iterator[Finding]:
    date = parse_date(visit.headers.get("Date"))
    if date is None:
        return
    ahead = date.timestamp() - time.time()
    if abs(ahead) > CLOCKS_DIFFER:
        yield note(
            f"the clock of the server is {ahead:+.0f} s from the clock here (Date)",
            "tickets and cookies end too early or too late; or a cache answers with an old stream",
            "NTP on both machines; or no cache for this path",
        )
