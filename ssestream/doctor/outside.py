"""What a client can see of a stream: its head, when its events come, how it ends and goes on."""

import itertools
import os
import signal
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from .delays import examine_delays
from .finding import Finding, fault, note, ok
from .head import examine_head, is_event_stream
from .probing import EVENT
from .visit import MOST_BODY, NotHttp, Visit

#: Seconds of listening by default: a heartbeat comes after 15 seconds of silence.
WAIT = 20.0

#: Silence after which a heartbeat should have come.
HEARTBEAT_WITHIN = 16.5

#: Seconds in which a client that comes back must get the event that it missed.
RETURN_WITHIN = 3.0

#: Seconds in which a stream must end after a reload.
RELOAD_WITHIN = 40.0


@dataclass(frozen=True)
class Outside:
    """How to ask.

    :ivar headers: more headers of each request, such as a cookie.
    :ivar wait: for how many seconds to listen.
    :ivar context: for ``https``; None for the system's certificates.
    :ivar patience: seconds in which a head must come, and then the first byte of the body.
    """

    headers: Sequence[tuple[str, str]] = ()
    wait: float = WAIT
    context: ssl.SSLContext | None = None
    patience: float = 10.0

    def visit(self, url: str, *headers: tuple[str, str]) -> Visit:
        return Visit(url, [*self.headers, *headers], self.context)


def examine_url(url: str, outside: Outside, is_last: bool = True) -> Iterator[Finding]:
    """Ask for the stream at *url*, and look at all that a client can see.

    :param is_last: whether browsers come to this address, and not only a proxy.
    """
    parts = urlsplit(url)
    try:
        with outside.visit(url) as visit:
            visit.listen(lambda: visit.head_after is not None, outside.patience)
            yield from examine_head(visit, outside.patience)
            if is_event_stream(visit):
                yield from _body(visit, outside)
                if is_last:
                    yield from _version(parts.scheme, visit)
                yield from _return(url, visit, outside)
    except ssl.SSLError as error:
        why_not = getattr(error, "verify_message", "") or error
        yield fault(
            f"TLS with {parts.hostname} fails: {why_not}",
            "a browser opens no connection",
            "the certificate of the server; --insecure asks in spite of it",
        )
    except NotHttp as error:
        yield fault(
            f"{parts.netloc} gives no valid response of HTTP/1.1: {error}",
            "a browser takes this for a broken connection",
            "the scheme, the port, or the proxy that alters the response",
        )
    except OSError as error:
        yield fault(
            f"no connection to {parts.netloc}: {error}",
            "a browser tries again for ever",
            "the address, the firewall, or start the server",
        )


# -- the body


def _body(visit: Visit, outside: Outside) -> Iterator[Finding]:
    if not visit.listen(lambda: visit.times, outside.patience):
        if visit.ended is not None:
            yield _end(visit)
            return
        yield fault(
            f"the head came, and no byte of the body within {outside.patience:.0f} s",
            "the stream is not piped into the response, or a middleware or a proxy collects the"
            " body until its buffer is full",
            "sse_stream.pipe(res) in the view; proxy_buffering off; in nginx; exempt"
            " text/event-stream from middleware that collects. Ask the app itself to see which"
            " (docs/hangs.rst, steps 1 and 3)",
        )
        return
    yield ok(f"the first byte of the body came after {visit.times[0]:.2f} s")
    visit.listen(lambda: False, outside.wait - visit.now)
    delays = list(examine_delays(visit))
    yield from delays
    if visit.ended is not None and not (delays and visit.ended == "clean"):
        yield _end(visit)
    elif not delays:
        yield from _silence(visit, outside.wait)


def _end(visit: Visit) -> Finding:
    assert visit.ended_after is not None
    if visit.ended == "full":
        return _full(visit, visit.ended_after)
    silent = visit.ended_after - (visit.times[-1] if visit.times else visit.head_after or 0.0)
    seen = f"the stream ended after {visit.ended_after:.1f} s"
    if visit.ended == "cut":
        if silent > 1:
            return fault(
                f"{seen}, without its last chunk, after {silent:.1f} s of silence",
                "a proxy cuts connections that are silent for so long",
                "SSESTREAM_HEARTBEAT at half of that time, or a longer proxy_read_timeout"
                " (docs/hosts.rst)",
            )
        return fault(
            f"{seen}, without its last chunk",
            "a proxy bounds the whole response, the worker died, or the app cut the stream",
            "SSESTREAM_MAX_AGE below the bound of the proxy (docs/hosts.rst); the log of the app",
        )
    told = [message["retry"] for _, message in visit.messages if "retry" in message]
    return note(
        f"{seen}, cleanly" + (f", with retry: {told[-1]}" if told else ""),
        "EventSource comes back, again and again if the stream always ends so soon",
        "nothing, if the stream is meant to end; else the log of the app: too many streams"
        " (SSESTREAM_MAX_STREAMS), a worker that stops, or an exception of the source",
    )


def _full(visit: Visit, after: float) -> Finding:
    if visit.is_readable and visit.unfinished > MOST_BODY // 2:
        return fault(
            f"{visit.unfinished:,} bytes came within {after:.1f} s without the end of an event",
            "a browser keeps them all in its memory, and the page gets no event",
            "the source of the stream: each event ends with an empty line; or the view, if it"
            " sends something else as text/event-stream",
        )
    return note(
        f"{len(visit.messages):,} events with {visit.length:,} bytes came within {after:.1f} s, and"
        " the doctor left",
        "silence and the end of the stream were not seen; a page or a line that is slower than"
        " this gets its events late",
        "fewer or smaller events, if so many are not meant; --wait with fewer seconds",
    )


def _silence(visit: Visit, wait: float) -> Iterator[Finding]:
    moments = [*visit.times, visit.now]
    silence = max(after - before for before, after in itertools.pairwise(moments))
    if silence > HEARTBEAT_WITHIN:
        yield fault(
            f"no byte for {silence:.1f} s",
            "proxies cut a silent connection after 30 to 60 s, and a blocked worker looks the same",
            "SSESTREAM_HEARTBEAT (15 s by default), or the code that blocks the worker"
            " (docs/hangs.rst, step 2)",
        )
    elif wait < HEARTBEAT_WITHIN:
        yield note(
            f"listened for {wait:.0f} s only",
            "a heartbeat comes after 15 s of silence, and was not waited for",
            f"--wait {WAIT:.0f}",
        )
    else:
        yield ok(f"open for {visit.now:.0f} s, with at most {silence:.1f} s of silence")


# -- the connection, and the next one


def _version(scheme: str, visit: Visit) -> Iterator[Finding]:
    if visit.protocol == "h2":
        yield ok("browsers get HTTP/2: tabs share one connection")
    else:
        yield note(
            "browsers get HTTP/1.1" + (", as HTTP/2 needs TLS" if scheme == "http" else ""),
            "a browser opens six connections to a host: the seventh tab waits",
            "listen 443 ssl http2; in nginx (docs/deploy.rst), or SharedEventSource for all tabs"
            " (docs/browser.rst)",
        )


def _return(url: str, visit: Visit, outside: Outside) -> Iterator[Finding]:
    """Come back as a browser does that has missed the last event of *visit*."""
    events = [message for _, message in visit.messages if "data" in message]
    ids = [str(message["id"]) for _, message in visit.messages if "id" in message]
    if not ids:
        if events and events[0].get("event") != EVENT:
            yield note(
                "the events have no ids",
                "what is written while a client is away is lost",
                "channels.subscribe(), which gives ids and replays (docs/channels.rst)",
            )
        return
    has_missed = len(ids) > 1 and bool(events) and str(events[-1].get("id")) == ids[-1]
    known = ids[-2] if has_missed else ids[-1]
    with outside.visit(url, ("Last-Event-ID", known)) as again:
        again.listen(
            lambda: (
                again.status not in (0, 200) or any("data" in each for _, each in again.messages)
            ),
            RETURN_WITHIN,
        )
        came = next((each for _, each in again.messages if "data" in each), {})
    if again.status == 0 and again.ended is None:
        yield fault(
            f"while this stream is open, a second client gets no answer within {RETURN_WITHIN:.0f}"
            " s",
            "each stream takes a worker, a thread or a connection, and no other is free: the next"
            " client waits until this one leaves",
            "-k ssestream.gunicorn.SseWorker; or more --threads; or more worker_connections;"
            " limits of connections of the proxy",
        )
    elif again.status not in (200, 204):
        yield fault(
            f"a client that comes back with an id gets status {again.status or 'none'}",
            "EventSource gives up for good at its first reconnection",
            "the log of the app; a limit of connections; a proxy or a firewall that refuses the"
            " header Last-Event-ID",
        )
    elif str(came.get("id")) == known:
        yield fault(
            "a client that comes back with an id gets the event of that id again",
            "every reconnection doubles an event",
            "begin after sse_stream.last_event_id, or use channels (docs/channels.rst)",
        )
    elif has_missed and came.get("data") != events[-1]["data"]:
        yield note(
            "a client that comes back with an id is not given the event after it",
            "what is written while a client is away is lost",
            "channels keep events (docs/channels.rst); if this stream is of a channel, a proxy"
            " drops the header Last-Event-ID",
        )
    elif has_missed:
        yield ok("a client that comes back with an id is given the event after it")
    else:
        yield ok("a client that comes back with an id is taken on")


def examine_reload(url: str, master: int, outside: Outside) -> Iterator[Finding]:
    """Send SIGHUP to the process *master* of gunicorn while a stream of *url* is open."""
    try:
        with outside.visit(url) as visit:
            if not visit.listen(lambda: visit.times, outside.patience):
                yield fault(
                    "no stream that a reload could meet", "see above", "what is found above"
                )
                return
            os.kill(master, signal.SIGHUP)
            began = visit.now
            visit.listen(lambda: False, RELOAD_WITHIN)
            took = (visit.ended_after or visit.now) - began
            told = any("retry" in message for _, message in visit.messages)
    except (NotHttp, OSError) as error:
        yield fault(f"no reload: {error}", "nothing was seen", "the URL, and the PID of the master")
        return
    if visit.ended is None:
        yield fault(
            f"the stream was still open {RELOAD_WITHIN:.0f} s after SIGHUP",
            "old workers go on with old code, and are killed with their streams",
            "the hook post_worker_init or -k ssestream.gunicorn.SseWorker (docs/stopping.rst);"
            " --reload needs the PID of gunicorn's master",
        )
    elif visit.ended == "cut":
        yield fault(
            f"the stream was cut {took:.1f} s after SIGHUP",
            "all browsers come back at the same moment, and a fetch client takes it for an error",
            "the hook post_worker_init or -k ssestream.gunicorn.SseWorker (docs/stopping.rst)",
        )
    elif not told:
        yield note(
            f"the stream ended {took:.1f} s after SIGHUP, without a retry",
            "all browsers come back at the same moment",
            "SSESTREAM_RETRY; on_shutdown='reconnect'",
        )
    else:
        yield ok(f"a reload ended the stream cleanly after {took:.1f} s, with a retry")
