"""One stream piped to one destination."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from flask import Flask, request

from ssestream import ServerResponse, SseStream
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.runtime.emitter import Emitter
from ssestream.stream import flow_of
from tests.kit.servers import PATIENCE
from tests.kit.states import settled
from tests.kit.visit import Visit, as_a_greenlet, on_threads_and_greenlets, until


@on_threads_and_greenlets
def test_a_destination_that_fails_is_let_go_and_the_others_stay(
    raised: type[BaseException],
) -> None:
    class Sink:
        def __init__(self, fails: bool = False) -> None:
            self.got: list[bytes] = []
            self.fails = fails

        def write(self, chunk: bytes) -> None:
            self.got.append(chunk)
            if self.fails and b"data" in chunk:
                raise raised

    sse_stream, errors = SseStream(), []
    sse_stream.on("error", errors.append)
    first, last = Sink(fails=True), Sink()
    sse_stream.pipe(first)
    sse_stream.pipe(last)
    for number in range(3):
        sse_stream.write({"data": number})
    sse_stream.end()
    until(lambda: sse_stream.destroyed, "the end")
    assert b"".join(last.got) == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert b"".join(first.got) == b":ok\n\ndata: 0\n\n"
    until(lambda: errors, "the error")
    assert [type(error) for error in errors] == [raised]


class Drain(Emitter):
    """A destination that may be full, and tells what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.did: list[Any] = []

    def write(self, chunk: bytes) -> bool:
        self.did.append(chunk)
        return not self.full

    def end(self) -> None:
        self.did.append("end")

    def destroy(self) -> None:
        self.did.append("destroy")


OK = b":ok\n\n"


def test_one_that_is_full_gets_nothing_more_until_it_has_drained() -> None:
    stream, drain = SseStream(), Drain()
    drain.full = True
    stream.pipe(drain)
    for number in range(3):
        stream.write({"data": number})
    settled(stream)
    assert drain.did == [OK]
    drain.full = False
    drain.emit("drain")
    until(lambda: len(drain.did) == 4, "the rest")
    assert drain.did[1:] == [b"data: %d\n\n" % number for number in range(3)]
    stream.destroy()


def test_what_one_without_events_returns_is_no_word_of_it() -> None:
    class Silent:
        def __init__(self) -> None:
            self.got: list[bytes] = []

        def write(self, chunk: bytes) -> bool:
            self.got.append(chunk)
            return False

    stream, silent = SseStream(), Silent()
    stream.pipe(silent)
    for number in range(3):
        stream.write({"data": number})
    until(lambda: len(silent.got) == 4, "all of them")
    stream.destroy()


def test_it_is_ended_with_the_stream_unless_it_is_told_not_to_be() -> None:
    for options, last in (({}, ["end"]), ({"end": False}, [])):
        stream, drain = SseStream(), Drain()
        stream.pipe(drain, **options)
        stream.end({"data": "last"})
        until(lambda stream=stream: stream.destroyed, "the end")
        settled(stream)
        assert drain.did == [OK, b"data: last\n\n", *last]


def test_it_is_destroyed_with_the_stream() -> None:
    stream, drain = SseStream(), Drain()
    stream.pipe(drain)
    stream.destroy()
    until(lambda: drain.did == [OK, "destroy"], "the end of both")


class Clinging:
    """A destination that fails when a handler is removed."""

    def __init__(self) -> None:
        self.has_ended = False

    def write(self, chunk: bytes) -> None: ...

    def on(self, event: str, handler: Any) -> None: ...

    def remove_listener(self, event: str, handler: Any) -> None:
        raise gevent.Timeout

    def end(self) -> None:
        self.has_ended = True


@on_threads_and_greenlets
def test_a_stream_closes_though_its_destination_keeps_its_handlers(
    log: Callable[[], list[Any]],
) -> None:
    ended, destroyed = Clinging(), Clinging()
    for destination in (ended, destroyed):
        sse_stream = SseStream()
        sse_stream.pipe(destination)
        closes: list[bool] = []
        sse_stream.on("close", lambda closes=closes: closes.append(True))
        if destination is ended:
            sse_stream.end()
        else:
            sse_stream.destroy()
        until(lambda closes=closes: bool(closes), "the close")
    until(lambda: ended.has_ended, "the end of the destination")
    # Once for each handler of both.
    assert log() == [gevent.Timeout] * 8


def test_one_that_closes_is_unpiped_and_told_so_once() -> None:
    stream, drain, other = SseStream(), Drain(), Drain()
    told: list[object] = []
    drain.on("unpipe", told.append)
    stream.pipe(drain)
    stream.pipe(other)
    drain.emit("close")
    until(lambda: told, "unpipe")
    stream.write({"data": 1})
    until(lambda: len(other.did) == 2, "the message")
    settled(stream)
    assert drain.did == [OK]
    assert told == [stream]
    # It is not listened to any more.
    for event in ("drain", "close", "finish", "error"):
        assert drain.listeners(event) == []
    stream.destroy()


@as_a_greenlet
def test_a_write_of_an_apps_own_response_may_wait_also_when_another_client_leaves() -> None:
    class Waiting(ServerResponse):
        def write(self, chunk: bytes | str) -> bool:
            gevent.sleep(0)
            return super().write(chunk)

    stream, responses = SseStream(), {"/waiting": Waiting(), "/slow": ServerResponse()}

    def app(environ: Any, start_response: Any) -> Any:
        return stream.pipe(responses[environ["PATH_INFO"]])(environ, start_response)

    with Visit(app, "/waiting") as visit, Visit(app, "/slow", send_buffer=4096) as slow:
        for client in (visit, slow):
            client.read_until(b":ok\n\n")
        for number in range(10):
            stream.write({"data": number, "comment": "x" * 20_000})
        assert stream.writable_length
        # As the loop does when it notices that a client has left. The other one gets the rest.
        gevent.get_hub().loop.run_callback(body_of(responses["/slow"]).connection_lost)
        stream.end({"data": "last"})
        got = visit.read_to_end()
    assert [each.split(b"\n")[0] for each in got.split(b"data: ")[1:]] == [
        *(b"%d" % number for number in range(10)),
        b"last",
    ]


class Gate(OutgoingMessage):
    """A response with a ``write()`` of its own, which waits at every message."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.waits = self.is_open = self.fails = False
        #: Whether it waits after it has written, and not before.
        self.late = late

    def write(self, chunk: bytes | str) -> bool:
        if self.late:
            flowing = super().write(chunk)
        if b"data" in chunk:  # type: ignore[operator]
            self.waits = True
            until(lambda: self.is_open, "the test to let it go on")
            if self.fails:
                raise ValueError("the write fails")
        return flowing if self.late else super().write(chunk)


FRAMES = b"".join(b"data: %d\n\n" % number for number in range(4))


def four_messages(stream: SseStream, gate: Gate) -> list[Any]:
    """Write four messages, the first of which is in the ``write()`` of *gate* then."""
    errors: list[Any] = []
    for number in range(4):
        stream.write({"data": number}, errors.append)
    until(lambda: gate.waits, "the first message")
    return errors


@on_threads_and_greenlets
def test_a_message_in_a_write_of_an_apps_own_reaches_its_response_though_it_is_unpiped() -> None:
    stream, gate, other = SseStream(), Gate(), Drain()
    stream.pipe(gate)
    errors = four_messages(stream, gate)
    stream.unpipe(gate)
    stream.pipe(other)
    gate.is_open = True
    until(lambda: len(other.did) == 4, "the other messages")
    assert other.did == [OK, b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"]
    gate.end()
    assert b"".join(body_of(gate)) == OK + b"data: 0\n\n"
    until(lambda: errors == [None] * 4, "the callbacks")
    stream.destroy()


@on_threads_and_greenlets
def test_a_message_that_was_taken_for_one_that_is_unpiped_reaches_it() -> None:
    stream, first, gate = SseStream(), Gate(), Gate()
    stream.pipe(first)
    stream.pipe(gate)
    four_messages(stream, first)
    stream.unpipe(gate)
    first.is_open = gate.is_open = True
    until(lambda: stream.writable_length == 0, "the rest")
    until(lambda: gate.writable_length > len(OK), "the message")
    stream.end()
    gate.end()
    assert b"".join(body_of(gate)) == OK + b"data: 0\n\n"
    assert b"".join(body_of(first)) == OK + FRAMES


#: How the server ends a response, or a stream whose source has failed.
ENDS: dict[str, Any] = {
    "age": lambda stream, gate: body_of(gate).retire("age"),
    "shutdown": lambda stream, gate: body_of(gate).retire("shutdown"),
    "failure": lambda stream, gate: flow_of(stream).break_off(None),
}


@on_threads_and_greenlets
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_no_message_overtakes_one_in_a_write_of_an_apps_own_when_the_response_ends(
    end: str, late: bool
) -> None:
    stream, gate = SseStream(), Gate(late)
    stream.pipe(gate)
    errors = four_messages(stream, gate)
    ENDS[end](stream, gate)
    gate.is_open = True
    sent = b"".join(body_of(gate))
    assert sent.startswith(OK + FRAMES)
    assert sent.count(b"data: ") == 4
    until(lambda: errors == [None] * 4, "the callbacks")


@on_threads_and_greenlets
def test_one_of_several_that_ends_gets_the_message_in_its_write_and_no_other() -> None:
    stream, gate, other = SseStream(), Gate(), ServerResponse()
    stream.pipe(other)
    stream.pipe(gate)
    four_messages(stream, gate)
    body_of(gate).retire("age")
    gate.is_open = True
    sent = b"".join(body_of(gate))
    assert sent.startswith(OK + b"data: 0\n\n")
    assert sent.count(b"data: ") == 1
    until(lambda: stream.writable_length == 0, "the rest")
    stream.end()
    assert b"".join(body_of(other)) == OK + FRAMES


@on_threads_and_greenlets
def test_a_write_of_an_apps_own_that_fails_when_its_response_ends_is_followed_by_nothing() -> None:
    stream, gate, errors = SseStream(), Gate(), []
    stream.on("error", errors.append)
    stream.pipe(gate)
    four_messages(stream, gate)
    body_of(gate).retire("age")
    gate.fails = gate.is_open = True
    assert b"data" not in b"".join(body_of(gate))
    assert (gate.closed, gate.writable_finished) == (True, False)
    until(lambda: errors, "the error")
    assert [type(error) for error in errors] == [ValueError]


@on_threads_and_greenlets
def test_a_response_that_is_refused_sends_no_message_that_is_in_its_write() -> None:
    stream, gate = SseStream(), Gate()
    stream.pipe(gate)
    errors = four_messages(stream, gate)
    body_of(gate).retire("refused")
    gate.is_open = True
    assert b"data" not in b"".join(body_of(gate))
    until(lambda: len(errors) == 4, "the callbacks")


@contextlib.contextmanager
def a_request() -> Iterator[tuple[SseStream, ServerResponse]]:
    """A stream and a response of one request, which goes on for the block."""
    with Flask(__name__).test_request_context():
        yield SseStream(request), ServerResponse()


def test_a_stream_holds_no_lock_of_its_request_while_it_waits_for_the_lock_of_another_one() -> None:
    with a_request() as (stream, res), a_request() as (_, other):
        stream.pipe(res)
        stream.pipe(other)
        lock = body_of(res).call_queue.lock
        with body_of(other).call_queue.lock:
            writer = threading.Thread(target=stream.write, args=({"data": 0},))
            writer.start()
            until(lambda: res.writable_length > len(OK), "the message in the first response")
            assert lock.acquire(timeout=PATIENCE)
            lock.release()
        writer.join()
        until(lambda: other.writable_length > len(OK), "the message in the other response")


def test_each_client_gets_all_when_two_requests_pipe_their_streams_into_both_responses() -> None:
    numbers = [b"data: %d\n\n" % number for number in range(100, 150)]
    with a_request() as (first, res), a_request() as (second, other):
        for stream in (first, second):
            stream.pipe(res)
            stream.pipe(other)

        def write(stream: SseStream) -> None:
            for frame in numbers:
                stream.push(frame)

        writers = [threading.Thread(target=write, args=(each,)) for each in (first, second)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        for each in (res, other):
            until(lambda res=each: res.writable_length >= 2 * len(OK + b"".join(numbers)), "all")
            each.end()
            frames = b"".join(body_of(each)).replace(OK, b"").splitlines(keepends=True)[::2]
            assert sorted(frames) == sorted(frame[:-1] for frame in numbers * 2)
