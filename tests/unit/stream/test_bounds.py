"""Nothing waits without bound, and what happens at the bound is what was asked for."""

import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request
from werkzeug.test import EnvironBuilder

from ssestream import (
    BufferFull,
    ServerResponse,
    SseStream,
    StreamDestroyed,
    StreamError,
    statistics,
)
from ssestream.http import outgoing
from ssestream.http.connection import Connection
from ssestream.http.interning import EACH
from ssestream.http.outgoing import OutgoingMessage
from ssestream.http.output import CHUNK, STUCK, OutputBuffer
from ssestream.stream import flow_of
from ssestream.wire import Decoder
from tests.kit.insides import settings_of
from tests.kit.promptness import in_one_try
from tests.kit.servers import SERVERS, Client, Server, body_of, wait_until


class Slow:
    """A response whose client has stopped reading after the first chunk."""

    def __init__(self, stream: SseStream) -> None:
        self.message = OutgoingMessage(high_water_mark=100)
        stream.pipe(self.message)
        outgoing.body_of(self.message).open(Connection(), settings_of(stream))
        self.body = outgoing.body_of(self.message)
        self.received = [next(self.body)]

    def read_all(self) -> bytes:
        """Take what there is, and tell of it, without waiting for more."""
        buffer = outgoing.body_of(self.message).buffer
        while True:
            if buffer.mark_sent():
                for inlet in outgoing.body_of(self.message).inlets:
                    inlet.drained()
            if not buffer.length:
                return b"".join(self.received)
            self.received.append(next(self.body))


def stalled(**options: Any) -> tuple[SseStream, Slow]:
    stream = SseStream(high_water_mark=4, **options)
    slow = Slow(stream)
    while stream.write({"data": "x" * 50}):
        pass
    return stream, slow


def write_on(stream: SseStream, count: int) -> list[BaseException | None]:
    """Write as one who does not wait for "drain"; what the callbacks are told."""
    told: list[BaseException | None] = []
    for number in range(count):
        stream.write({"id": number, "data": "more"}, None, told.append)
    return told


def test_the_default_cuts_the_client_who_comes_back() -> None:
    before = statistics()
    stream, slow = stalled(max_messages=10)
    told = write_on(stream, 20)
    assert slow.message.closed
    assert stream.writable_length == 0
    wait_until(lambda: len(told) == 20, "every callback")
    assert all(isinstance(error, StreamError) for error in told)
    assert statistics().closed.get("overflow", 0) == before.closed.get("overflow", 0) + 1
    assert stream.write({"data": "nobody"}) is False


def test_one_of_nobody_in_particular_waits_for_its_first_client() -> None:
    """Also if that takes longer than what may wait."""
    before = statistics()
    stream = SseStream(high_water_mark=4, max_messages=10)
    told = write_on(stream, 25)
    assert not stream.destroyed
    assert stream.writable_length == 10
    wait_until(lambda: len(told) == 15, "the callbacks of the oldest")
    assert all(isinstance(error, BufferFull) for error in told)
    assert statistics().dropped == before.dropped + 15
    message = OutgoingMessage()
    stream.pipe(message)
    outgoing.body_of(message).open(Connection(), settings_of(stream))
    frames = next(outgoing.body_of(message))
    assert [f"id: {number}\n".encode() in frames for number in (14, 15, 24)] == [False, True, True]
    outgoing.body_of(message).close()


def test_so_it_does_after_all_its_clients_were_cut() -> None:
    stream, slow = stalled(max_messages=10)
    write_on(stream, 20)
    assert slow.message.closed
    assert not stream.destroyed
    another = Slow(stream)
    stream.write({"data": "for another"})
    assert b"for another" in another.read_all()


def test_why_one_is_over_is_told_to_who_pipes_it() -> None:
    environ = EnvironBuilder().get_environ()
    stream = SseStream(environ, high_water_mark=4, max_bytes=400)
    write_on(stream, 40)
    assert stream.destroyed
    with pytest.raises(StreamDestroyed, match="more waited than is allowed"):
        stream.pipe(OutgoingMessage())


@pytest.mark.parametrize("piped", [True, False])
def test_a_view_that_writes_on_and_never_returns_is_told_why_nothing_is_sent(
    piped: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssestream.http.diagnosis._said", set())
    app = Flask(__name__)
    with app.test_request_context("/replay"):
        stream = SseStream(request, high_water_mark=4, max_bytes=400)
        if piped:
            stream.pipe(ServerResponse(high_water_mark=10))
        write_on(stream, 40)
        assert stream.destroyed
    said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    # On a busy machine the view takes over a second, and another warning says so.
    (warning,) = [each for each in said if "has written for over a second" not in each]
    assert warning.startswith("'/replay': more was written to an unsent response than may wait")
    assert "before the view has returned. Use pipeline()" in warning


@pytest.mark.long_except("before it is piped-close")
@pytest.mark.parametrize("overflow", ["close", "drop-oldest", "error"])
@pytest.mark.parametrize("when", ["before it is piped", "before it is sent", "in one turn"])
def test_what_is_written_at_once_meets_no_bound_in_number(when: str, overflow: Any) -> None:
    """Nobody had the time to take any of it, and so nobody is slow."""
    environ = EnvironBuilder().get_environ()
    stream = SseStream(environ, high_water_mark=4, max_messages=10, overflow=overflow)
    message = OutgoingMessage(high_water_mark=100)
    if when != "before it is piped":
        stream.pipe(message)
    if when == "in one turn":
        outgoing.body_of(message).open(Connection(), settings_of(stream))
        asked = Wakeable()
        body = outgoing.body_of(message)
        assert body.take_nowait(asked) == b":ok\n\n"
        body.mark_sent()
        assert body.take_nowait(asked) == b""  # it sleeps
    write_on(stream, 1000)
    if when == "before it is piped":
        stream.pipe(message)
    if when != "in one turn":
        outgoing.body_of(message).open(Connection(), settings_of(stream))
    stream.end()
    received = b"".join(outgoing.body_of(message))
    assert received.count(b"\ndata: more\n") == 1000


class Wakeable:
    loop = None

    def wake(self) -> None:
        pass

    wake_now: Any = wake


def test_a_client_that_takes_what_was_written_at_once_is_not_slow_meanwhile() -> None:
    stream = SseStream(high_water_mark=4, max_messages=10)
    message = OutgoingMessage(high_water_mark=100)
    stream.pipe(message)
    outgoing.body_of(message).open(Connection(), settings_of(stream))
    write_on(stream, 100)
    body = outgoing.body_of(message)
    taken = next(body)
    for _ in range(20):  # it takes some, and more is written
        taken += next(body)
        write_on(stream, 3)
    assert not message.closed
    # What it has in hand does not leave.
    outgoing.body_of(message).buffer.taken_at -= STUCK
    write_on(stream, 200)
    assert message.closed
    assert outgoing.body_of(message).cause == "overflow"


def test_what_was_granted_is_granted_until_nothing_waits() -> None:
    stream, slow = stalled(max_messages=10)
    message = slow.message
    slow.read_all()
    for last in (False, True):
        write_on(stream, 50)  # the reader had no time to come for any of it
        granted = stream.writable_length
        assert granted > 40
        for _ in range(5):
            slow.received.append(next(slow.body))
        outgoing.body_of(message).buffer.taken_at -= STUCK
        assert stream.writable_length < granted
        write_on(stream, granted - stream.writable_length)
        assert not message.closed
        if last:
            write_on(stream, 1)
            assert message.closed
        else:
            slow.read_all()
            assert stream.writable_length == 0
    stream, slow = stalled(max_messages=10)
    slow.read_all()
    write_on(stream, 50)
    slow.read_all()
    while stream.writable_length < 5:
        stream.write({"data": "x"})
    slow.received.append(next(slow.body))
    outgoing.body_of(slow.message).buffer.taken_at -= STUCK
    write_on(stream, 10)
    assert slow.message.closed


@pytest.mark.parametrize("kind", ["stream", "by hand"])
def test_a_burst_of_too_many_bytes_is_told_and_a_stalled_client_is_not(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for held, told in [(0.0, 1), (STUCK, 0)]:
        caplog.clear()
        monkeypatch.setattr("ssestream.http.diagnosis._said", set())
        stream = SseStream(max_bytes=50_000)
        message = OutgoingMessage()
        stream.pipe(message)
        outgoing.body_of(message).open(
            Connection(client="10.0.0.1", path="/replay"), settings_of(stream)
        )
        next(outgoing.body_of(message))
        outgoing.body_of(message).buffer.taken_at -= held
        while not message.closed:
            if kind == "stream":
                stream.write({"data": "x" * 1000})
            else:
                message.write("data: x\n\n")
        warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert len(warnings) == told
        assert all("'/replay'" in each and "Use pipeline()" in each for each in warnings)


def test_a_client_that_takes_all_before_its_writer_goes_on_gets_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The writer's thread has no turn between a write that fills the buffer and its next step."""
    stream = SseStream()
    client = Slow(stream)
    put = OutputBuffer.put

    def put_and_wait(self: OutputBuffer, frame: bytes) -> bool:
        flowing = put(self, frame)
        if not flowing:
            client.read_all()
        return flowing

    monkeypatch.setattr(OutputBuffer, "put", put_and_wait)
    # With a callback, a message takes the way through the queue.
    for text in ("x" * 200, "behind"):
        stream.write({"data": text}, callback=lambda error: None)
    assert b"data: behind" in client.read_all()


@pytest.mark.long_except("SseWorker")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread", "flask"])
def test_a_replay_arrives_on_real_servers(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, "tests.servers.apps.bursts:app")
    for how in ("view", "unpiped", "by-hand", "timer", "thread", "drain"):

        def replay(how: str = how) -> tuple[bool, str]:
            before = len(server.log())
            client = Client(server.port).get(f"/{how}", "Connection: close")
            got = Decoder().feed(body_of(client.read_to_end()))
            ids = [each["id"] for each in got if "data" in each]
            told = "more was written" in server.log()[before:]
            return ids == list(map(str, range(5000))) and not told, f"{how}: {len(ids)} events"

        # A writer waits 50 ms for a thread that has begun to send. On a busy machine this thread
        # may have no turn for so long, and then its client counts as slow.
        in_one_try(replay, 4)


def test_only_the_slow_one_of_several_is_cut() -> None:
    stream = SseStream(high_water_mark=4, max_messages=10)
    quick, slow = Slow(stream), Slow(stream)
    for _ in range(50):
        stream.write({"data": "x" * 50})
        quick.read_all()
    assert slow.message.closed
    assert not quick.message.closed
    assert quick.read_all().count(b"data: ") == 50


def test_drop_oldest_makes_room_and_counts() -> None:
    before = statistics().dropped
    stream, slow = stalled(max_messages=10, overflow="drop-oldest")
    told = write_on(stream, 30)
    assert stream.writable_length == 10
    assert statistics().dropped - before >= 20
    wait_until(lambda: len(told) >= 20, "the dropped ones' callbacks")
    assert all(isinstance(error, BufferFull) for error in told)
    received = slow.read_all()
    assert [f"id: {number}\n".encode() in received for number in (19, 20, 29)] == [
        False,
        True,
        True,
    ]


def test_error_raises_in_the_writer_and_queues_nothing() -> None:
    stream, _ = stalled(max_messages=10, overflow="error")
    with pytest.raises(BufferFull, match="10 messages"):
        write_on(stream, 30)
    assert stream.writable_length == 10


@pytest.mark.parametrize("overflow", ["close", "drop-oldest", "error"])
def test_bytes_are_bounded_too(overflow: Any) -> None:
    stream, slow = stalled(max_bytes=5000, overflow=overflow)
    try:
        for _ in range(20):
            stream.write({"data": "y" * 1000})
    except BufferFull:
        assert overflow == "error"
    assert flow_of(stream).queue.bytes <= 5000
    assert slow.message.closed == (overflow == "close")


def test_one_message_may_be_larger_than_the_bound() -> None:
    stream = SseStream(max_bytes=1000)
    slow = Slow(stream)
    assert stream.write({"data": "z" * 1_000_000}) in (True, False)
    assert not slow.message.closed
    assert slow.read_all().endswith(b"z\n\n")


def test_whoever_waits_for_drain_never_meets_the_bound() -> None:
    stream = SseStream(high_water_mark=2, max_messages=2, max_bytes=2000, overflow="error")
    slow = Slow(stream)
    for number in range(200):
        if not stream.write({"id": number, "data": "w" * 900}):
            slow.read_all()
            assert not stream.writable_need_drain
    assert slow.read_all().count(b"id: ") == 200


def test_a_chunk_is_never_larger_than_what_may_be_in_hand() -> None:
    stream = SseStream()
    slow = Slow(stream)
    stream.write({"data": "v" * (3 * CHUNK)})
    stream.write({"data": "end"})
    received = slow.read_all()
    assert all(len(chunk) <= CHUNK for chunk in slow.received)
    assert received.count(b"v") == 3 * CHUNK
    assert received.endswith(b"data: end\n\n")


def write_by_stream(streams: list[SseStream], messages: list[dict[str, str]]) -> None:
    for stream in streams:
        for message in messages:
            stream.write({**message})


def write_by_message(streams: list[SseStream], messages: list[dict[str, str]]) -> None:
    for message in messages:
        for stream in streams:
            stream.write({**message})


def written(error: BaseException | None) -> None:
    """A function of Python's: what `inspect` makes for a built-in one is garbage of 25 KB."""


def write_with_callbacks(streams: list[SseStream], messages: list[dict[str, str]]) -> None:
    for message in messages:
        for stream in streams:
            stream.write({**message}, callback=written)


def write_by_hand(streams: list[SseStream], messages: list[dict[str, str]]) -> None:
    for message in messages:
        for stream in streams:
            (pipe,) = flow_of(stream).pipes
            pipe.destination.write(f"data: {message['data']}\n\n")  # type: ignore[arg-type]


@pytest.mark.long_except("write_by_stream-300000-3")
@pytest.mark.parametrize(("size", "count"), [(100, 900), (1000, 900), (300_000, 3)])
@pytest.mark.parametrize(
    "write", [write_by_stream, write_by_message, write_with_callbacks, write_by_hand]
)
def test_equal_messages_that_wait_for_many_clients_are_kept_once(
    write: Callable[..., None], size: int, count: int
) -> None:
    letters = iter("abcdefgh")

    def write_all() -> tuple[bool, float]:
        # What an earlier try has left is not found again.
        letter = next(letters)
        messages = [{"data": f"{number:03}".ljust(size, letter)} for number in range(count)]
        # No client is cut, however long a busy machine takes.
        streams = [SseStream(send_timeout=None) for _ in range(12)]
        slow = [Slow(stream) for stream in streams]
        tracemalloc.start()
        try:
            write(streams, messages)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        waiting = sum(outgoing.body_of(each.message).waiting() for each in slow)
        assert waiting > len(streams) * count * size
        # Once, and for each client a place for each message, beside the first messages: these
        # are not worth a look.
        once = count * (size + EACH)
        each = count * (64 + 24) + (2 * size if write is write_by_stream else 1000)
        allowed = once + len(streams) * each + 100_000
        return grown < allowed, grown / allowed

    # A thread that an earlier test has left may make much meanwhile.
    in_one_try(write_all)


@pytest.mark.long_except("SseWorker")
@pytest.mark.server
@pytest.mark.parametrize("kind", SERVERS)
def test_a_client_that_never_reads_is_cut_even_inside_sendall(
    kind: str, serve: Callable[..., Server]
) -> None:
    settings = {"SSESTREAM_SEND_TIMEOUT": 0.5}
    server = serve(kind, "tests.servers.apps.app:app", env={"SETTINGS": json.dumps(settings)})
    client = Client(server.port, receive_buffer=4096).get("/flood?key=stalled")
    opened = server.wait_for(event="open", key="stalled")
    closed = server.wait_for(event="close", key="stalled")
    assert closed["at"] - opened["at"] >= 0.25
    client.fin()


def test_a_stream_ends_cleanly_when_it_is_old() -> None:
    # Without its environ, a stream that nobody sends yet would end.
    environ = EnvironBuilder().get_environ()
    stream = SseStream(environ, max_age=0.05, retry=(2000, 3000))
    began = time.monotonic()
    slow = Slow(stream)
    stream.write({"data": "young"})
    slow.received += list(slow.body)
    assert time.monotonic() - began >= 0.8 * 0.05
    text = b"".join(slow.received).decode()
    first, last = (int(part.split("\n")[0]) for part in text.split("retry: ")[1:])
    assert 2000 <= first <= 3000
    assert 1000 <= last <= 5000
    assert "data: young" in text
    assert stream.destroyed
    assert stream.write({"data": "late"}) is False


@pytest.mark.long_except("SseWorker")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_a_full_server_says_when_to_come_back(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(
        kind,
        "tests.servers.apps.app:app",
        env={"SETTINGS": json.dumps({"SSESTREAM_MAX_STREAMS": 2})},
    )
    inside = [Client(server.port).get(f"/quiet?key=in{n}") for n in range(2)]
    for client in inside:
        client.read_until(b":ok\n\n")
    outside = Client(server.port).get("/quiet?key=out", "Connection: close")
    answer = outside.read_to_end()
    assert b"HTTP/1.1 200 OK" in answer
    assert b"retry: " in answer
    server.wait_for(event="close", key="out")
    inside[0].fin()
    server.wait_for(event="close", key="in0")
    Client(server.port).get("/quiet?key=next").read_until(b":ok\n\n")
