"""A stream ends with the environ of its request where there is no Flask."""

import socket
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from ssestream import ServerResponse, SseStream, StreamDestroyed
from ssestream.http.outgoing import body_of
from ssestream.stream import flow_of
from tests.kit.visit import on_threads_and_greenlets, until


class Requested:
    """A request and its stream, and what has closed."""

    def __init__(self, **more: Any) -> None:
        self.environ: dict[str, Any] = {**EnvironBuilder().get_environ(), **more}
        self.closed: list[str] = []
        self.sse_stream = self.stream("the stream")

    def stream(self, name: str) -> SseStream:
        sse_stream = SseStream(self.environ)
        sse_stream.on("close", lambda: self.closed.append(name))
        return sse_stream

    def drop(self) -> None:
        """The server is done with the request."""
        self.environ = {}

    def over(self) -> None:
        until(lambda: self.closed == ["the stream"], "the end of the stream")
        assert self.sse_stream.destroyed


def start(status: str, headers: Any, exc_info: Any = None) -> Any:
    return lambda chunk: None


def others_are_over() -> None:
    """A stream that is refused now has ended."""
    other = Requested()
    other.drop()
    other.over()


@on_threads_and_greenlets
@pytest.mark.parametrize("steps", ["", "write", "pipe", "pipe unpipe", "through", "iter"])
def test_a_stream_that_nobody_sends_ends(steps: str) -> None:
    requested, res = Requested(), ServerResponse()
    sse_stream = requested.sse_stream
    for step in steps.split():
        if step == "write":
            sse_stream.write({"data": 1})
        elif step == "pipe":
            sse_stream.pipe(res)
        elif step == "unpipe":
            sse_stream.unpipe()
        elif step == "through":
            sse_stream.pipe(type("Through", (), {"write": lambda self, chunk: None})())
        elif step == "iter":
            iter(sse_stream)
    assert not sse_stream.destroyed
    requested.drop()
    requested.over()
    assert res.destroyed == (steps == "pipe")
    with pytest.raises(StreamDestroyed, match="the request of this stream is over"):
        sse_stream.pipe(ServerResponse())


@on_threads_and_greenlets
def test_the_end_changes_nothing_in_the_code_that_it_interrupts() -> None:
    requested = Requested()
    with flow_of(requested.sse_stream).lock:
        requested.drop()
        assert not requested.sse_stream.destroyed
    requested.over()


@on_threads_and_greenlets
def test_a_stream_that_is_iterated_goes_on_without_the_environ() -> None:
    requested = Requested()
    chunks = iter(requested.sse_stream)
    assert next(chunks) == b":ok\n\n"
    requested.drop()
    others_are_over()
    requested.sse_stream.end({"data": "late"})
    assert list(chunks) == [b"data: late\n\n"]
    requested.over()


@on_threads_and_greenlets
@pytest.mark.parametrize("through", [False, True])
def test_a_stream_that_a_response_sends_goes_on_without_the_environ(through: bool) -> None:
    requested, res = Requested(), ServerResponse()
    sse_stream = requested.sse_stream
    destination: Any = res
    if through:
        destination = type("Through", (), {"write": lambda self, chunk: res.write(chunk)})()
    sse_stream.pipe(destination)
    body = res(requested.environ, start)
    requested.drop()
    others_are_over()
    assert not sse_stream.destroyed
    sse_stream.write({"data": "late"})
    taken = b""
    while taken != b":ok\n\ndata: late\n\n":
        taken += next(iter(body))
    body_of(res).close()
    requested.over()


@on_threads_and_greenlets
@pytest.mark.parametrize("status", [200, 500])
def test_a_response_ends_the_streams_that_it_does_not_send(status: int) -> None:
    requested, res = Requested(), ServerResponse(status)
    another = requested.stream("another")
    another.pipe(res)
    body = res.write_head(status)(requested.environ, start)
    if status == 200:
        # The app may still make its body of the stream.
        others_are_over()
        assert not requested.closed
        body_of(res).close()
        until(lambda: len(requested.closed) == 2, "the end of both")
    else:
        requested.over()
        assert not another.destroyed
        body_of(res).close()
    assert body is not None


@on_threads_and_greenlets
def test_a_stream_ends_when_the_server_closes_though_the_app_keeps_the_environ() -> None:
    ours, theirs = socket.socketpair()
    requested = Requested(**{"gunicorn.socket": ours})
    kept = requested.environ
    others_are_over()
    assert not requested.closed
    ours.close()
    requested.over()
    theirs.close()
    assert kept


@pytest.mark.usefixtures("no_collector")
def test_a_stream_ends_though_a_framework_leaves_the_environ_in_a_cycle() -> None:
    requested = Requested()
    requested.environ["cycle"] = requested.environ
    requested.drop()
    requested.over()
