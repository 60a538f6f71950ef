"""An app in this process is served as on a server, and its client sees what a client would."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
import werkzeug.test
from flask import Flask, request

from ssestream import ServerResponse, SseStream, pipeline
from ssestream.http.registry import registry
from ssestream.testing import WaitedInVain, in_process, stream
from tests.kit.visit import on_threads_and_greenlets, until

Environ = dict[str, Any]


def test_the_handlers_of_close_have_run_though_the_thread_that_emits_it_is_slow(
    app: Flask, ticks: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's thread is done first: the thread that has noticed the departure has no turn."""
    close = registry.close

    def slow(*args: Any) -> None:
        time.sleep(0.05)
        close(*args)

    monkeypatch.setattr(type(registry), "close", lambda self, *args: slow(*args))
    for number in range(1, 6):
        with stream(app, "/ticks"):
            pass
        assert ticks() == number


@on_threads_and_greenlets
def test_a_source_that_waits_is_closed_when_the_client_leaves(app: Flask) -> None:
    closed = threading.Event()

    @app.get("/waits")
    def waits() -> Any:
        def source() -> Iterator[Any]:
            try:
                yield {"data": "first"}
                until(lambda: False, "nothing", 60)
            finally:
                closed.set()

        return pipeline(source(), SseStream(request), ServerResponse())

    with stream(app, "/waits") as events:
        assert events.next().data == "first"
    until(closed.is_set, "the source to be closed")


def test_a_plain_wsgi_app_is_served() -> None:
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"data: 1\n\n", b"", b"data: 2\n\n")

        def close(self) -> None:
            closed.append(True)

    def plain(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return Body()

    with stream(plain, "/") as events:
        assert [event.data for event in events.rest()] == ["1", "2"]
    assert closed == [True]


def test_an_app_that_begins_with_its_first_chunk_is_served() -> None:
    def generator(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    with stream(generator, "/") as events:
        assert [event.data for event in events.rest()] == ["1", "2"]


def test_what_is_given_to_write_is_sent() -> None:
    def writes(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Type", "text/event-stream")])
        write(b"data: 1\n\n")
        return [b"data: 2\n\n"]

    with stream(writes, "/") as events:
        assert [event.data for event in events.rest()] == ["1", "2"]


def test_a_middleware_that_wraps_a_stream_lets_a_departure_through(
    app: Flask, ticks: Callable[[], int]
) -> None:
    def wrapped(environ: Environ, start_response: Any) -> Iterator[bytes]:
        body: Any = app(environ, start_response)
        try:
            yield from body
        finally:
            body.close()

    with stream(wrapped, "/ticks") as events:
        assert events.comments == [] or events.comments == ["ok"]
    assert ticks() == 1


def test_what_the_view_raises_is_raised(app: Flask) -> None:
    with pytest.raises(LookupError, match="the view is broken"):
        stream(app, "/broken")
    app.testing = False
    with stream(app, "/broken") as events:
        assert events.status == 500


def test_what_a_body_raises_is_raised_by_the_next_wait(app: Flask) -> None:
    @app.get("/half")
    def half() -> Any:
        def body() -> Iterator[str]:
            yield "data: 1\n\n"
            raise LookupError("the body is broken")

        return flask.Response(body(), mimetype="text/event-stream")

    with stream(app, "/half") as events:
        assert events.next().data == "1"
        with pytest.raises(LookupError, match="the body is broken"):
            events.next()
        assert events.ended == "cut"
    with pytest.raises(LookupError), stream(app, "/half") as events:
        assert events.next().data == "1"


def test_a_view_that_does_not_answer_is_named(app: Flask) -> None:
    closed: list[bool] = []

    @app.get("/never")
    def never() -> Any:
        res = ServerResponse()
        res.on("close", lambda: closed.append(True))
        return res

    with pytest.raises(WaitedInVain, match=r"GET /never was not answered within 0\.1 s"):
        stream(app, "/never", timeout=0.1)
    until(lambda: closed, "the response to be over")


def test_a_client_that_takes_nothing_is_not_sent_everything(app: Flask) -> None:
    drawn = 0

    @app.get("/flood")
    def flood() -> Any:
        def source() -> Iterator[Any]:
            nonlocal drawn
            while True:
                drawn += 1
                yield {"data": "x" * 1000}

        return pipeline(source(), SseStream(request), ServerResponse())

    with stream(app, "/flood") as events:
        before = -1
        while before != drawn:
            before = drawn
            until(lambda: True, "a look")
            threading.Event().wait(0.05)
        assert in_process.KEPT / 1000 / 2 < drawn < 10_000
        assert events.next().data == "x" * 1000


@on_threads_and_greenlets
def test_the_app_finds_a_plain_environ_and_no_context_of_the_test(app: Flask) -> None:
    seen: list[Any] = []

    def looks(environ: Environ, start_response: Any) -> Any:
        seen.extend([type(environ), flask.has_app_context(), environ["SERVER_PROTOCOL"]])
        start_response("204 No Content", [])
        return []

    with app.app_context(), stream(looks, "/") as events:
        assert events.status == 204
    assert seen == [dict, False, "HTTP/1.1"]


def test_any_test_client_of_werkzeug_is_used() -> None:
    def plain(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [("Set-Cookie", "a=1")])
        return [environ.get("HTTP_COOKIE", "none").encode()]

    client = werkzeug.test.Client(plain)
    with stream(client, "/") as events:
        assert events.text == "none"
    with stream(client, "/") as events:
        assert events.text == "a=1"


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="a WSGI app, a test client or a URL, not int"):
        stream(7)


def test_nothing_is_kept_of_a_client_that_has_left(app: Flask) -> None:
    with stream(app, "/ticks"):
        assert len(in_process.open_here) == 1
    assert not in_process.open_here
