"""When too much waits in a stream, and which clients are the reason."""

import pytest

from ssestream import SseStream
from ssestream.http.outgoing import OutgoingMessage
from ssestream.message_queue import MessageQueue
from ssestream.overflow import is_too_much, to_cut
from ssestream.pipe import Pipe
from ssestream.runtime.emitter import Emitter
from ssestream.stream import flow_of

MESSAGES, BYTES = 10, 1000


class Full(Emitter):
    """A destination that never takes more."""

    def write(self, chunk: bytes) -> bool:
        return False


def queue_of(count: int, size: int = 1) -> MessageQueue:
    queue = MessageQueue(4, MESSAGES, BYTES)
    for _ in range(count):
        queue.append(b"x" * size, None)
    return queue


def pipe_to(destination: Full | OutgoingMessage) -> Pipe:
    stream = SseStream()
    stream.pipe(destination)
    (pipe,) = flow_of(stream).pipes
    return pipe


def to_a_response_that_nobody_reads() -> Pipe:
    """A pipe that is not ready, to a client that had no time to read yet."""
    outgoing = OutgoingMessage(high_water_mark=1)
    pipe = pipe_to(outgoing)
    outgoing.write(b"x")
    assert not pipe.ready
    return pipe


@pytest.mark.parametrize("will_be_piped", [True, False])
def test_up_to_the_bound_it_is_never_too_much(will_be_piped: bool) -> None:
    assert not is_too_much(queue_of(MESSAGES), (), will_be_piped)
    assert not is_too_much(queue_of(MESSAGES - 1), (pipe_to(Full()),), will_be_piped, b"x")


def test_without_a_pipe_only_a_stream_that_may_never_be_piped_has_too_many_messages() -> None:
    assert is_too_much(queue_of(MESSAGES), (), False, b"x")
    assert not is_too_much(queue_of(MESSAGES), (), True, b"x")


def test_a_client_that_had_time_to_read_has_too_many_messages() -> None:
    assert is_too_much(queue_of(MESSAGES), (pipe_to(Full()),), True, b"x")
    assert not is_too_much(queue_of(MESSAGES), (to_a_response_that_nobody_reads(),), True, b"x")


def test_too_many_bytes_are_always_too_much() -> None:
    pipes = (to_a_response_that_nobody_reads(),)
    assert is_too_much(queue_of(2, BYTES // 2), pipes, True, b"x")
    assert is_too_much(queue_of(2, BYTES // 2), (), True, b"x")


def test_a_burst_that_was_no_fault_of_the_client_may_wait_until_the_queue_is_empty() -> None:
    queue = queue_of(MESSAGES + 1)
    assert not is_too_much(queue, (), True, b"x")
    queue.append(b"x", None)
    assert not is_too_much(queue, (), False)
    assert is_too_much(queue, (), False, b"x")


def test_the_slow_pipes_are_cut_or_else_all_that_are_not_ready() -> None:
    slow, unready = pipe_to(Full()), to_a_response_that_nobody_reads()
    ready = pipe_to(OutgoingMessage())
    queue = queue_of(MESSAGES)
    assert to_cut(queue, (ready, unready, slow)) == [slow]
    assert to_cut(queue, (ready, unready)) == [unready]
    assert to_cut(queue, (ready,)) == to_cut(queue, ()) == []
