"""What a stream and its flow know of each other, and where a flow goes on without its stream."""

import gc
import re
import threading
import weakref
from collections.abc import Callable, Iterable

import gevent
import greenlet
import pytest
from flask import Flask, request
from gevent.queue import Queue
from werkzeug.test import EnvironBuilder

from ssestream import ServerResponse, SseStream
from ssestream.http.body import Body
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.http.output import OutputBuffer
from ssestream.runtime.waker import Wakeable
from ssestream.stream import flow_of
from tests.kit.visit import as_a_greenlet, until


def of_a_request() -> tuple[SseStream, OutgoingMessage]:
    _kept.append(EnvironBuilder().get_environ())
    return SseStream(_kept[-1]), OutgoingMessage()


# A stream ends with the environ of its request.
_kept: list[object] = []


def of_no_request() -> tuple[SseStream, OutgoingMessage]:
    return SseStream(), OutgoingMessage()


def run_calls(stream: SseStream) -> None:
    """Emit what is to be emitted soon, now."""
    flow_of(stream).call_queue.run()


# -- the stream and its flow are no cycle that stays


@pytest.mark.usefixtures("no_collector")
def test_a_stream_without_a_request_may_be_dropped_before_it_has_closed() -> None:
    stream = SseStream()
    stream.on("close", print)
    stream.write({"data": "nobody reads this"})
    known = weakref.ref(stream)
    del stream
    assert known() is None


@pytest.mark.usefixtures("no_collector")
def test_a_stream_that_its_last_client_has_left_may_be_dropped() -> None:
    stream, outgoing = of_no_request()
    stream.pipe(outgoing)
    outgoing.destroy()
    run_calls(stream)
    known = weakref.ref(stream)
    del stream
    assert known() is None


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", [SseStream.end, SseStream.destroy])
def test_a_stream_of_a_request_is_freed_once_it_is_over(end: Callable[[SseStream], None]) -> None:
    stream, outgoing = of_a_request()
    stream.pipe(outgoing)
    end(stream)
    body_of(outgoing).close()
    run_calls(stream)
    known, flow = weakref.ref(stream), flow_of(stream)
    assert flow.closed
    assert flow.stream is None
    del stream, outgoing
    assert known() is None


@pytest.mark.usefixtures("no_collector")
def test_a_stream_is_freed_with_the_request_that_has_not_sent_it() -> None:
    app = Flask(__name__)
    known: list[weakref.ref[SseStream]] = []

    @app.get("/")
    def view() -> str:
        known.append(weakref.ref(SseStream(request)))
        return "nothing of it"

    environ = EnvironBuilder().get_environ()
    b"".join(app(environ, lambda status, headers, error=None: lambda data: None))
    environ.clear()
    # Its "close" is emitted in the next turn of the loop.
    until(lambda: [stream() for stream in known] == [None], "the stream to be freed")


@pytest.mark.long_except("of_a_request")
@pytest.mark.parametrize("pair", [of_a_request, of_no_request])
def test_a_pipe_keeps_a_stream_that_the_app_has_dropped(
    pair: Callable[[], tuple[SseStream, OutgoingMessage]],
) -> None:
    heard: list[str] = []
    stream, outgoing = pair()
    stream.on("drain", lambda: heard.append("drain"))
    outgoing.on("unpipe", lambda of: heard.append(type(of).__name__))
    stream.pipe(outgoing)
    flow = flow_of(stream)
    del stream
    gc.collect()
    assert flow.stream is not None
    outgoing.destroy()
    flow.call_queue.run()
    body_of(outgoing).call_queue.run()
    assert "SseStream" in heard


def test_no_event_is_lost_when_the_flow_forgets_the_stream() -> None:
    heard: list[str] = []
    stream, outgoing = of_a_request()
    for event in ("finish", "end", "error", "close"):
        stream.on(event, lambda *args, event=event: heard.append(event))
    stream.pipe(outgoing)
    stream.end({"data": "last"})
    run_calls(stream)
    assert heard == ["finish", "end", "close"]
    assert flow_of(stream).stream is None


# -- one call queue, one lock


def test_the_events_of_a_stream_and_of_its_response_share_a_call_queue_from_the_pipe_on() -> None:
    stream, outgoing = of_a_request()
    body, flow = body_of(outgoing), flow_of(stream)
    lock = flow.lock
    assert flow.call_queue is not body.call_queue
    stream.pipe(outgoing)
    assert flow.call_queue is body.call_queue
    assert flow.lock is lock


def test_in_a_request_stream_and_response_share_one_lock() -> None:
    app = Flask(__name__)
    with app.request_context(EnvironBuilder().get_environ()):
        stream, res = SseStream(request), ServerResponse()
        stream.pipe(res)
    assert flow_of(stream).lock is body_of(res).call_queue.lock


def test_a_stream_of_many_clients_keeps_a_call_queue_of_its_own() -> None:
    stream = SseStream()
    first, second = OutgoingMessage(), OutgoingMessage()
    for outgoing in (first, second):
        stream.pipe(outgoing)
        assert flow_of(stream).call_queue is not body_of(outgoing).call_queue
    assert flow_of(stream).call_queue.loop is body_of(first).call_queue.loop


# -- frames that go past the queue


def test_frames_go_past_the_queue_only_to_one_response_and_while_nothing_waits() -> None:
    stream, outgoing = of_no_request()
    flow = flow_of(stream)
    outputs: list[OutputBuffer | None] = [flow.output]
    stream.pipe(outgoing)
    outputs.append(flow.output)
    second = OutgoingMessage()
    stream.pipe(second)
    outputs.append(flow.output)
    stream.unpipe(second)
    outputs.append(flow.output)
    stream.unpipe()
    outputs.append(flow.output)
    assert outputs == [None, body_of(outgoing).buffer, None, body_of(outgoing).buffer, None]


# -- events that are handed on together

FRAMES = [b"data: %d\n\n" % number for number in range(40)]


def test_events_leave_together_and_each_counts_as_a_message() -> None:
    stream, outgoing = SseStream(max_messages=60), OutgoingMessage(high_water_mark=100)
    stream.pipe(outgoing)
    flow, body = flow_of(stream), body_of(outgoing)
    next(body)  # the opening comment
    assert flow.hand_on_together(FRAMES) == 31
    # Half of the queue's bound was taken. Then the mark of the response stopped the flow.
    chunks = [next(body)]
    assert stream.writable_need_drain
    assert stream.writable_length == 31 - chunks[0].count(b"data:")
    while stream.writable_length:
        chunks.append(next(body))
        run_calls(stream)
    assert not stream.writable_need_drain
    assert flow.hand_on_together(FRAMES[31:]) == 9
    chunks.append(next(body))
    assert b"".join(chunks) == b"".join(FRAMES)
    body.mark_sent()
    assert body.sent()[0] == 40
    body.close()


@pytest.mark.parametrize("way", ["ended", "closed", "abandoned", "unpiped", "alone"])
def test_events_that_may_not_wait_together_are_handed_on_one_by_one(way: str) -> None:
    stream, outgoing = of_no_request()
    stream.pipe(outgoing)
    flow = flow_of(stream)
    if way == "ended":
        stream.end()
    elif way == "closed":
        stream.destroy()
    elif way == "abandoned":
        outgoing.destroy()
    elif way == "unpiped":
        stream.unpipe()
    assert flow.hand_on_together(FRAMES[:1] if way == "alone" else FRAMES) == 0
    assert stream.writable_length == 0


class EndedMeanwhile(OutputBuffer):
    """A buffer whose response the server ends while frames are on their way to it."""

    body: Body
    ending: threading.Thread | None = None

    def put_together(self, frames: bytes, messages: int, wakers: list[Wakeable]) -> bool:
        if self.ending is None:
            self.ending = threading.Thread(target=self.body.retire, args=("age",))
            self.ending.start()
            until(lambda: self.body.retired is not None, "the other thread to end the response")
        return super().put_together(frames, messages, wakers)


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("writes", ["together", "one by one"])
def test_a_thread_that_ends_the_response_overtakes_no_frame(writes: str, others: int) -> None:
    outgoing, stream = OutgoingMessage(high_water_mark=100, buffer=EndedMeanwhile), SseStream()
    for _ in range(others):
        stream.pipe(OutgoingMessage())
    stream.pipe(outgoing)
    body, buffer = body_of(outgoing), body_of(outgoing).buffer
    assert isinstance(buffer, EndedMeanwhile)
    buffer.body = body
    if writes == "together":
        assert flow_of(stream).hand_on_together(FRAMES[:20]) == 20
    else:
        for frame in FRAMES[:20]:
            flow_of(stream).enqueue(frame, None)
    assert buffer.ending is not None
    buffer.ending.join()
    sent = b"".join(body)
    numbers = [int(number) for number in re.findall(rb"data: (\d+)", sent)]
    assert numbers == list(range(len(numbers)))
    # What is written after the end is dropped. With other responses, a frame waits in the stream
    # until all are ready.
    assert len(numbers) == 20 or (numbers and (others or writes == "one by one"))
    assert body.finished


@pytest.mark.parametrize("with_request", [False, True])
def test_frames_for_a_response_that_has_ended_are_one_error(with_request: bool) -> None:
    stream, outgoing = of_a_request() if with_request else of_no_request()
    stream.pipe(outgoing)
    events: list[str] = []
    for name in ("error", "close"):
        stream.on(name, lambda *args, name=name: events.append(name))
    outgoing.end()
    assert flow_of(stream).hand_on_together(FRAMES[:20]) == 20
    run_calls(stream)
    assert events == (["error", "close"] if with_request else ["error"])
    assert flow_of(stream).hand_on_together(FRAMES[:20]) == 0


# -- messages that waited leave together


class Puts(OutputBuffer):
    """A buffer that tells what is put into it."""

    def __init__(self, high_water_mark: int, lock: object = None) -> None:
        super().__init__(high_water_mark, lock)
        self.puts: list[tuple[bytes, int]] = []

    def put_together(self, frames: bytes, messages: int, wakers: list[Wakeable]) -> bool:
        taken = super().put_together(frames, messages, wakers)
        if taken:
            self.puts.append((frames, messages))
        return taken


def test_messages_that_waited_leave_together_up_to_the_mark_of_the_response() -> None:
    outgoing, stream = OutgoingMessage(high_water_mark=100, buffer=Puts), SseStream()
    stream.pipe(outgoing)
    body, errors = body_of(outgoing), []
    stream.push(b"x" * 98 + b"\n\n")
    for number in range(12):
        stream.write({"data": number}, errors.append)
    assert (stream.writable_length, errors) == (12, [])
    frames = [b"data: %d\n\n" % number for number in range(12)]
    next(body)
    # The server asks for more, so the first message has left. Eleven frames have 100 bytes.
    assert next(body) == b"".join(frames[:11])
    run_calls(stream)
    assert (stream.writable_length, errors) == (1, [None] * 11)
    assert next(body) == frames[11]
    run_calls(stream)
    assert errors == [None] * 12
    puts = body.buffer.puts  # type: ignore[attr-defined]
    assert puts == [(b"".join(frames[:11]), 11), (frames[11], 1)]
    # The server has not asked for more since it got the last message.
    assert body.sent()[0] == 12
    body.close()


# -- from write() to the server


def switches_of(body: Iterable[bytes], write: Callable[[], object]) -> int:
    """The switches of greenlets until a server has what *write* writes."""
    got: list[bytes] = []
    server = gevent.spawn(lambda: got.extend(body))
    until(lambda: got, "the opening")
    gevent.sleep(0)
    seen: list[object] = []
    greenlet.settrace(lambda event, args: seen.append(event))
    try:
        write()
        gevent.sleep(0)
    finally:
        greenlet.settrace(None)
    assert len(got) == 2
    server.kill()
    return len(seen)


@as_a_greenlet
def test_as_few_switches_lead_to_the_server_as_with_a_queue_by_hand() -> None:
    queue: Queue[bytes] = Queue()
    queue.put(b":ok\n\n")
    by_hand = switches_of(iter(queue.get, None), lambda: queue.put(b"data: 1\n\n"))
    message, stream = OutgoingMessage(), SseStream()
    stream.pipe(message)
    assert switches_of(body_of(message), lambda: stream.write({"data": 1})) <= by_hand
