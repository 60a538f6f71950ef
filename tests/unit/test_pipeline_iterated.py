"""A pipeline that ends with its stream: for a framework that iterates the stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import flask
import gevent
import pytest

from ssestream import ServerResponse, SseStream, pipeline
from ssestream.wire import HEADERS, Decoder
from tests.kit.sink import Sink
from tests.kit.visit import Visit, on_threads_and_greenlets, until


class Iterated:
    """An app that returns the stream of a pipeline, and what came of it."""

    def __init__(self, source: Any, **options: Any) -> None:
        self.source = source
        self.options = options
        self.before: Callable[[SseStream], object] = lambda sse_stream: None
        self.closes = 0

    def __call__(self, environ: Any, start_response: Any) -> Any:
        sse_stream = SseStream(environ)
        sse_stream.on("close", self._closed)
        assert pipeline(self.source, sse_stream, **self.options) is sse_stream
        self.before(sse_stream)
        start_response("200 OK", list(HEADERS.items()))
        return sse_stream

    def _closed(self) -> None:
        self.closes += 1


class Source:
    """Endless, or of *count* numbers. *steps* has what happens to it."""

    def __init__(self, count: int = 10**9, pause: float = 0.0) -> None:
        self.steps: list[Any] = []
        self.count = count
        self.pause = pause

    def draw(self) -> Iterator[dict[str, int]]:
        try:
            for number in range(self.count):
                self.steps.append(number)
                yield {"data": number}
                gevent.sleep(self.pause)
        finally:
            self.steps.append("closed")

    async def draw_async(self) -> AsyncIterator[dict[str, int]]:
        try:
            for number in range(self.count):
                self.steps.append(number)
                yield {"data": number}
                await asyncio.sleep(self.pause)
        finally:
            self.steps.append("closed")

    def drawn(self, how: str) -> Any:
        return self.draw() if how == "plain" else self.draw_async()


both = pytest.mark.parametrize("how", ["plain", "async"])


@on_threads_and_greenlets
@both
def test_what_was_written_comes_first_and_an_exhausted_source_ends_the_stream(how: str) -> None:
    source = Source(3)
    played = Iterated(source.drawn(how))
    played.before = lambda sse_stream: sse_stream.write({"data": "mine"})
    with Visit(played) as visit:
        visit.read_to_end()
        assert visit.body == b":ok\n\ndata: mine\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
    until(lambda: source.steps == [0, 1, 2, "closed"], "the source's end")
    until(lambda: played.closes, "the stream's close")
    assert played.closes == 1


@on_threads_and_greenlets
@both
def test_a_source_that_waits_is_closed_at_once_when_the_client_leaves(how: str) -> None:
    source = Source(pause=1000)
    played = Iterated(source.drawn(how))
    with Visit(played) as visit:
        visit.read_until(b"data: 0\n\n")
        visit.fin()
        until(lambda: source.steps == [0, "closed"], "the source's end")
    until(lambda: played.closes, "the stream's close")


@on_threads_and_greenlets
@both
def test_a_source_waits_for_a_client_that_is_slow(how: str) -> None:
    source = Source(5000)
    played = Iterated(source.drawn(how))
    with Visit(played, send_buffer=4096) as visit:
        visit.read_until(b"data: 0\n\n")
        visit.read_to_end()
        numbers = [message["data"] for message in Decoder().feed(visit.body)[1:]]
    assert numbers == list(map(str, range(5000)))


@on_threads_and_greenlets
@both
def test_nothing_is_drawn_before_the_stream_is_iterated(how: str) -> None:
    source = Source(1)
    played = Iterated(source.drawn(how))
    before: list[Any] = []

    def linger(sse_stream: SseStream) -> None:
        for _ in range(20):
            gevent.sleep(0.001)
        before.append(list(source.steps))

    played.before = linger
    with Visit(played) as visit:
        visit.read_to_end()
    assert before == [[]]
    assert source.steps[0] == 0


@on_threads_and_greenlets
def test_a_source_is_closed_undrawn_when_its_stream_is_not_returned() -> None:
    closed: list[bool] = []

    class Undrawn:
        def __iter__(self) -> "Undrawn":
            return self

        def __next__(self) -> Any:
            raise AssertionError("drawn")

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Any:
        pipeline(Undrawn(), SseStream(environ))
        start_response("403 Forbidden", [])
        return [b"no"]

    with Visit(app) as visit:
        visit.read_to_end()
        # The visit itself has the environ, too, which a server drops here.
        visit.environ.clear()
        until(lambda: closed, "the source's close")
    assert closed == [True]


def fails() -> Iterator[dict[str, str]]:
    yield {"data": "first"}
    raise LookupError("in the source")


@on_threads_and_greenlets
@pytest.mark.parametrize("told", [False, True], ids=["untold", "told"])
def test_a_source_that_fails_is_logged_and_its_client_is_cut(
    told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"on_error": lambda error: {"event": "error", "data": "oh"}} if told else {}
    played = Iterated(fails(), **options)
    ends: list[str] = []
    played.before = lambda sse_stream: sse_stream.on("end", lambda: ends.append("end"))
    with caplog.at_level(logging.ERROR, "ssestream"), Visit(played) as visit:
        visit.read_to_end()
        until(lambda: played.closes and caplog.records, "the log")
    if told:
        assert visit.body == b":ok\n\ndata: first\n\nevent: error\ndata: oh\n\n"
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        LookupError
    ]
    # No normal end: the client is cut.
    assert not ends


@on_threads_and_greenlets
def test_the_stream_may_be_a_body_of_flasks_own_response() -> None:
    app = flask.Flask("app")
    source = Source(pause=1000)

    @app.get("/")
    def view() -> flask.Response:
        sse_stream = pipeline(source.draw(), SseStream(flask.request))
        return flask.Response(sse_stream, headers=HEADERS)

    with Visit(app) as visit:
        visit.read_until(b"data: 0\n\n")
        visit.fin()
        until(lambda: source.steps == [0, "closed"], "the source's end")


@pytest.mark.parametrize("first", ["the pipe", "the pipeline"])
def test_the_stream_may_be_piped_by_itself(first: str) -> None:
    source = Source(3)
    sse_stream, sink = SseStream(), Sink()
    if first == "the pipe":
        sse_stream.pipe(sink)
    pipeline(source.draw(), sse_stream)
    if first == "the pipeline":
        assert not source.steps
        sse_stream.pipe(sink)
    until(lambda: sink.ended, "the end")
    assert b"".join(sink.got) == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
    until(lambda: source.steps == [0, 1, 2, "closed"], "the source's end")


def test_a_later_destination_may_leave() -> None:
    source = Source(pause=0.001)
    first, second = Sink(), ServerResponse()
    sse_stream = pipeline(source.draw(), SseStream())
    sse_stream.pipe(first)
    sse_stream.pipe(second)
    with Visit(second) as visit:
        visit.read_until(b"data: 20\n\n")
    until(lambda: second.closed, "the end of the second")
    before = len(first.got)
    until(lambda: len(first.got) > before + 20, "more for the first")
    sse_stream.end()
    until(lambda: source.steps[-1] == "closed", "the source's end")


@on_threads_and_greenlets
def test_a_response_may_come_later() -> None:
    source = Source(2)

    def app(environ: Any, start_response: Any) -> Any:
        res = pipeline(source.draw(), SseStream(environ)).pipe(ServerResponse())
        for _ in range(20):
            gevent.sleep(0.001)
        assert not source.steps, "drawn before the response is sent"
        return res(environ, start_response)

    with Visit(app) as visit:
        visit.read_to_end()
        assert visit.body == b":ok\n\ndata: 0\n\ndata: 1\n\n"
