"""Events: their order, their handlers' failures, and that close comes once."""

import contextlib
import functools
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from ssestream import ServerResponse, SseStream
from ssestream.runtime.calls import CallQueue
from ssestream.runtime.emitter import Emitter
from tests.kit.insides import call_queue_of
from tests.kit.states import settled
from tests.kit.visit import on_threads_and_greenlets, until


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The errors that this package has logged, by what was raised or else said."""
    with caplog.at_level(logging.ERROR, "ssestream"):
        yield lambda: [
            repr(record.exc_info[1]) if record.exc_info else record.getMessage()
            for record in caplog.records
            if record.name == "ssestream"
        ]


def fail(*args: object) -> None:
    raise ValueError("a handler's own")


def at_once(*threads: Callable[[], object]) -> None:
    """Run them in threads that all start together."""
    barrier = threading.Barrier(len(threads))

    def run(function: Callable[[], object]) -> None:
        barrier.wait()
        function()

    running = [threading.Thread(target=run, args=(each,)) for each in threads]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


# -- handlers


@on_threads_and_greenlets
def test_a_handler_that_raises_is_logged_and_the_others_run(
    log: Callable[[], list[str]],
) -> None:
    sse_stream = SseStream()
    ran: list[str] = []
    sse_stream.on("close", fail)
    sse_stream.on("close", lambda: ran.append("second"))
    sse_stream.on("close", lambda: fail())
    sse_stream.on("close", lambda: ran.append("fourth"))
    sse_stream.destroy()
    until(lambda: len(ran) == 2, "both")
    assert ran == ["second", "fourth"]
    settled(sse_stream)
    assert log() == ['ValueError("a handler\'s own")'] * 2


def test_a_callback_that_raises_is_logged(log: Callable[[], list[str]]) -> None:
    sse_stream = SseStream()
    sse_stream.write({"data": 1}, fail)
    sse_stream.end()
    b"".join(sse_stream)
    settled(sse_stream)
    assert log() == ['ValueError("a handler\'s own")']


@pytest.mark.parametrize("make", [SseStream, ServerResponse])
def test_an_error_without_a_handler_is_logged(
    make: Callable[[], Any], log: Callable[[], list[str]]
) -> None:
    emitter = make()
    emitter.destroy(KeyError("why"))
    settled(emitter)
    assert log() == ["KeyError('why')"]


@pytest.mark.parametrize("make", [SseStream, ServerResponse])
def test_an_error_with_a_handler_is_not(
    make: Callable[[], Any], log: Callable[[], list[str]]
) -> None:
    emitter = make()
    reason, seen = KeyError("why"), []
    emitter.on("error", seen.append)
    emitter.destroy(reason)
    settled(emitter)
    assert seen == [reason]
    assert log() == []


def test_an_error_of_any_kind_is_logged_by_what_it_is(log: Callable[[], list[str]]) -> None:
    Emitter(CallQueue()).emit("error", "only words")
    assert "an error on Emitter, and no handler for it: 'only words'" in log()


def test_a_handler_may_be_asked_for_once() -> None:
    emitter = Emitter()
    seen: list[int] = []
    emitter.once("tick", seen.append)
    emitter.emit("tick", 1)
    emitter.emit("tick", 2)
    assert seen == [1]


def test_the_log_names_the_apps_own_handler_that_was_asked_for_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    emitter = Emitter()
    emitter.once("tick", fail)
    emitter.once("tick", functools.partial(fail))
    emitter.emit("tick")
    named, partial = (record.getMessage() for record in caplog.records)
    assert named.startswith("<function fail at ")
    assert partial.endswith(" failed")


def test_a_handler_may_be_removed() -> None:
    emitter = Emitter()
    seen: list[str] = []

    def handler(name: str) -> None:
        seen.append(name)

    def other(name: str) -> None:
        seen.append(name + "!")

    emitter.on("tick", handler)
    emitter.on("tick", other)
    emitter.remove_listener("tick", handler)
    emitter.emit("tick", "a")
    assert seen == ["a!"]
    assert emitter.listeners("tick") == [other]


def test_a_handler_may_remove_itself_and_add_others() -> None:
    emitter = Emitter()
    seen: list[str] = []

    def first() -> None:
        seen.append("first")
        emitter.remove_listener("tick", first)
        emitter.on("tick", lambda: seen.append("added"))

    emitter.on("tick", first)
    emitter.on("tick", lambda: seen.append("second"))
    emitter.emit("tick")
    assert seen == ["first", "second"]
    emitter.emit("tick")
    assert seen[2:] == ["second", "added"]


def test_a_handler_gets_keywords_as_well() -> None:
    emitter = Emitter()
    seen: list[Any] = []
    emitter.on("tick", lambda *args, **kwargs: seen.append((args, kwargs)))
    emitter.emit("tick", 1, two=2)
    assert seen == [((1,), {"two": 2})]


# -- order


def test_events_of_several_threads_come_one_at_a_time_in_each_ones_order() -> None:
    emitter = Emitter()
    seen: list[tuple[int, int]] = []
    inside: list[int] = []

    @emitter.on("tick")
    def tick(writer: int, number: int) -> None:
        inside.append(writer)
        assert len(inside) == 1  # or it would be logged, and missing below
        seen.append((writer, number))
        inside.pop()

    def announce(writer: int) -> None:
        for number in range(500):
            emitter._emit_soon("tick", writer, number)

    at_once(*(lambda writer=writer: announce(writer) for writer in range(4)))
    settled(emitter)
    assert len(seen) == 2000
    for writer in range(4):
        assert [number for who, number in seen if who == writer] == list(range(500))


def test_emit_from_several_threads_keeps_each_ones_order() -> None:
    emitter = Emitter()
    seen: list[tuple[int, int]] = []
    emitter.on("tick", lambda writer, number: seen.append((writer, number)))

    def emit(writer: int) -> None:
        for number in range(500):
            emitter.emit("tick", writer, number)

    at_once(*(lambda writer=writer: emit(writer) for writer in range(4)))
    for writer in range(4):
        assert [number for who, number in seen if who == writer] == list(range(500))


def test_who_ends_the_request_does_not_overtake_a_handler_that_runs() -> None:
    res = ServerResponse()
    seen: list[str] = []
    gate = threading.Event()
    res.on("pipe", lambda source: (seen.append("pipe"), gate.wait(), seen.append("piped")))
    res.on("close", lambda: seen.append("close"))
    SseStream().pipe(res)
    until(lambda: seen == ["pipe"], "the handler")
    res.close()
    assert seen == ["pipe"]
    gate.set()
    until(lambda: len(seen) == 3, "close")
    assert seen == ["pipe", "piped", "close"]


@on_threads_and_greenlets
def test_events_come_after_the_call_that_caused_them() -> None:
    sse_stream = SseStream()
    seen: list[str] = []
    sse_stream.on("close", lambda: seen.append("close"))
    gate = threading.Lock()
    with gate:
        call_queue_of(sse_stream).call_soon(
            lambda: seen.append("gate open") if gate.acquire(timeout=60) else None
        )
        sse_stream.destroy()
        seen.append("destroy has returned")
    until(lambda: len(seen) == 3, "close")
    assert seen == ["destroy has returned", "gate open", "close"]


def test_a_stream_and_its_response_tell_in_one_order() -> None:
    """Whatever thread they are told in."""
    expected = [
        "res pipe",
        "stream finish",
        "stream end",
        "stream close",
        "res finish",
        "res unpipe",
        "res close",
    ]
    assert [told_in_one_order() for _ in range(50)] == [expected] * 50


def told_in_one_order() -> list[str]:
    seen: list[str] = []
    res = ServerResponse()
    # Without its environ, a stream that nobody sends yet would end.
    environ = EnvironBuilder().get_environ()
    sse_stream = SseStream(environ)
    for event in ("finish", "close", "unpipe", "pipe"):
        res.on(event, lambda *args, event=event: seen.append(f"res {event}"))
    for event in ("finish", "end", "close"):
        sse_stream.on(event, lambda event=event: seen.append(f"stream {event}"))
    sse_stream.pipe(res)
    sse_stream.end({"data": 1})
    for _chunk in res.response:
        pass
    res.close()
    settled(res)
    return seen


# -- close, once


class Exchange:
    """A response that is being served over a socket pair."""

    def __init__(self) -> None:
        self.server, self.client = socket.socketpair()
        self.environ = {**EnvironBuilder().get_environ(), "werkzeug.socket": self.server}
        self.seen: list[str] = []
        self.res = ServerResponse()
        self.sse_stream = SseStream(self.environ)
        self.res.on("close", lambda: self.seen.append("res"))
        self.sse_stream.on("close", lambda: self.seen.append("stream"))
        self.sse_stream.pipe(self.res)
        self.body: Any = self.res(self.environ, lambda status, headers: None)

    def serve(self) -> None:
        for _chunk in self.body:
            pass
        self.body.close()

    def half_close(self) -> None:
        with contextlib.suppress(OSError):  # it has left altogether
            self.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.server.close()
        self.client.close()


WAYS: dict[str, Callable[[Exchange], object]] = {
    "the client leaves": lambda exchange: exchange.client.close(),
    "the client leaves half": Exchange.half_close,
    "the server is done": lambda exchange: exchange.res.close(),
    "res.destroy": lambda exchange: exchange.res.destroy(),
    "stream.destroy": lambda exchange: exchange.sse_stream.destroy(),
    "res.end": lambda exchange: exchange.res.end(),
    "stream.end": lambda exchange: exchange.sse_stream.end(),
}


@pytest.mark.long_except("0", "1")
@pytest.mark.parametrize("seed", range(6))
def test_close_comes_once_however_many_reasons_there_are(seed: int) -> None:
    ways = random.Random(seed)
    for _ in range(25):
        exchange = Exchange()
        names = ways.sample(sorted(WAYS), 4)
        at_once(exchange.serve, *(functools.partial(WAYS[name], exchange) for name in names))
        # The thread that ends the response first may emit them last.
        until(lambda exchange=exchange: len(exchange.seen) >= 2, f"both after {names}")
        settled(exchange.res)
        settled(exchange.sse_stream)
        exchange.res.destroy()
        exchange.sse_stream.destroy()
        exchange.res.close()
        settled(exchange.res)
        assert sorted(exchange.seen) == ["res", "stream"], names
        exchange.close()


@pytest.mark.parametrize("way", WAYS)
def test_close_comes_whatever_the_cause(way: str) -> None:
    exchange = Exchange()
    thread = threading.Thread(target=exchange.serve)
    thread.start()
    WAYS[way](exchange)
    thread.join()
    # The thread that has noticed the departure may emit it last.
    until(lambda: "res" in exchange.seen, "close")
    exchange.close()
