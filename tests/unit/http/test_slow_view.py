"""A view that writes for long before it returns is told so, and nobody else is."""

import threading
from collections.abc import Callable

import flask
import pytest

from ssestream import ServerResponse, SseStream, clear_interval, set_interval
from ssestream.http import slow_view
from ssestream.http.outgoing import HIGH_WATER_MARK
from ssestream.http.output import OutputBuffer
from tests.kit.servers import wait_until

#: What a view can write with, in turns.
WRITES: dict[str, Callable[[ServerResponse, SseStream], object]] = {
    "response": lambda res, sse_stream: res.write("data: x\n\n"),
    "large": lambda res, sse_stream: res.write("data: " + "x" * HIGH_WATER_MARK + "\n\n"),
    "piped": lambda res, sse_stream: sse_stream.write({"data": "x"}),
    "piped large": lambda res, sse_stream: sse_stream.write({"data": "x" * HIGH_WATER_MARK}),
    "unpiped": lambda res, sse_stream: sse_stream.write_message({"data": "x"}),
    "callback": lambda res, sse_stream: sse_stream.write({"data": "x"}, lambda error: None),
    "push": lambda res, sse_stream: sse_stream.push(b"data: x\n\n"),
}


@pytest.fixture
def app(unsaid: None, monkeypatch: pytest.MonkeyPatch) -> flask.Flask:
    """One whose views write for long if they write twice, in a process that said nothing yet."""
    monkeypatch.setattr(slow_view, "LONG", 0.0)
    return flask.Flask("tests.long")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    words = [record.getMessage() for record in caplog.records]
    return [each for each in words if "has not returned" in each]


@pytest.mark.parametrize("how", WRITES)
def test_whatever_a_view_writes_with(
    how: str,
    app: flask.Flask,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @app.get("/long")
    def long() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        if how.startswith("piped"):
            sse_stream.pipe(res)
        with monkeypatch.context() as patience:
            patience.setattr(slow_view, "LONG", 1000.0)
            for _ in range(3):
                WRITES[how](res, sse_stream)
        assert told(caplog) == []
        WRITES[how](res, sse_stream)
        assert len(told(caplog)) == 1
        WRITES[how](res, sse_stream)
        res.end()
        return res

    app.test_client().get("/long?token=secret")
    (warning,) = told(caplog)
    assert warning.startswith("'/long': its view (long) has written for over a second")
    assert "secret" not in warning


@pytest.mark.parametrize("how", WRITES)
def test_a_view_that_has_returned_may_write_as_long_as_it_likes(
    how: str, app: flask.Flask, caplog: pytest.LogCaptureFixture
) -> None:
    writers: list[threading.Thread] = []

    @app.get("/late")
    def late() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        if how.startswith("piped"):
            sse_stream.pipe(res)
        WRITES[how](res, sse_stream)

        # In the context of the request, which is where a view writes.
        @flask.copy_current_request_context
        def write_on() -> None:
            wait_until(lambda: res.headers_sent, "the view to return")
            for _ in range(3):
                WRITES[how](res, sse_stream)
            res.end()

        writers.append(threading.Thread(target=write_on))
        writers[0].start()
        return res

    with app.test_client() as client:
        client.get("/late")
        writers[0].join()
    assert told(caplog) == []


@pytest.mark.parametrize("how", WRITES)
def test_a_view_that_takes_long_and_is_not_the_one_that_writes(
    how: str, app: flask.Flask, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/prepares")
    def prepares() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        if how.startswith("piped"):
            sse_stream.pipe(res)
        written = threading.Semaphore(0)

        def tick() -> None:
            WRITES[how](res, sse_stream)
            written.release()

        timer = set_interval(tick, 20)
        for _ in range(5):
            assert written.acquire(timeout=60)
        clear_interval(timer)
        # The first that it writes itself.
        WRITES[how](res, sse_stream)
        res.end()
        return res

    app.test_client().get("/prepares")
    assert told(caplog) == []


def test_a_view_that_writes_to_the_streams_of_others(
    app: flask.Flask, caplog: pytest.LogCaptureFixture
) -> None:
    # One that its own view has not returned yet.
    with app.test_request_context("/theirs"):
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        sse_stream.pipe(res)
        with app.test_request_context("/mine"):
            for _ in range(3):
                sse_stream.write({"data": "x"})
                res.write("data: x\n\n")
    assert told(caplog) == []


@pytest.mark.parametrize("write", ["put", "put_if_clear"])
def test_a_response_that_is_returned_while_another_thread_writes_to_it_takes_the_frame(
    write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = slow_view.UnreturnedBuffer(HIGH_WATER_MARK)

    def returns() -> bool:
        slow_view.returned(buffer)
        return False

    monkeypatch.setattr(flask, "has_request_context", returns)
    buffer.put(b"one ") if write == "put" else buffer.put_if_clear(b"one ", 1)
    assert type(buffer) is OutputBuffer
    assert buffer.put(b"two")
    assert buffer.take() == b"one two"
