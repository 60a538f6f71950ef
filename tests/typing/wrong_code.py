"""What an app may not write. It is never run.

Under ``mypy --strict`` an ignore that ignores nothing is an error itself, so
each of these lines must be found wrong, and for the reason that it names.
"""

from ssestream import ServerResponse, SseStream, Tickets, clear_interval, pipeline, set_interval
from ssestream.datastar import patch_elements, patch_signals
from ssestream.htmx import fragment
from ssestream.testing import stopped_clock, stream


class Deaf:
    """It has no ``write``."""


def streams(sse_stream: SseStream) -> None:
    sse_stream.write("text")  # type: ignore[arg-type]
    sse_stream.write({1: "data"})  # type: ignore[dict-item]
    sse_stream.write({"data": "x"}, callback="later")  # type: ignore[arg-type]
    sse_stream.push("data: x\n\n")  # type: ignore[arg-type]
    sse_stream.pipe(Deaf())  # type: ignore[type-var]
    sse_stream.destroy("because")  # type: ignore[arg-type]
    sse_stream.last_event_id.split(":")  # type: ignore[union-attr]
    SseStream(None, 16)  # type: ignore[call-arg]
    SseStream(highWaterMark=16)  # type: ignore[call-arg]


def responses(res: ServerResponse) -> None:
    res.write(42)  # type: ignore[arg-type]
    res.write_head([200])  # type: ignore[arg-type]
    res.writable_length = 0  # type: ignore[misc]
    res.writeHead(200)  # type: ignore[attr-defined]


def others(sse_stream: SseStream, res: ServerResponse) -> None:
    pipeline(42, sse_stream, res)  # type: ignore[call-overload]
    pipeline([42], sse_stream, res)  # type: ignore[list-item]
    set_interval("tick", 1000)  # type: ignore[arg-type]
    set_interval(print, "1000")  # type: ignore[arg-type]
    clear_interval(7)  # type: ignore[arg-type]


def hypermedia() -> None:
    patch_elements("<p>", mode="morph")  # type: ignore[arg-type]
    patch_signals([1])  # type: ignore[arg-type]
    fragment("<p>", 5)  # type: ignore[arg-type]


def permissions() -> None:
    Tickets(5)  # type: ignore[arg-type]
    Tickets("key").issue(5)  # type: ignore[arg-type]
    Tickets("key").issue(["news"], key=[])  # type: ignore[arg-type]


def tests() -> None:
    with stream(streams, "/", last_event_id=7) as events:  # type: ignore[arg-type]
        events.until("two")  # type: ignore[arg-type]
        events.next().data = "x"  # type: ignore[misc]
    with stopped_clock() as clock:
        clock.advance("15")  # type: ignore[arg-type]
