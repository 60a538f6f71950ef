"""The app's end of a response: what may be written, when, and how much of it may wait."""

from typing import Any

import pytest
from werkzeug.local import LocalProxy

from ssestream import SseStream, statistics
from ssestream.http.connection import Connection
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.settings import Settings
from ssestream.wire import encode


def test_another_kind_of_response_is_bounded_once_it_is_sent() -> None:
    before = statistics()
    view = OutgoingMessage()
    for _ in range(3):  # which its view writes, and it is all there
        assert view.write(b"x" * Settings().max_bytes) is False
    body_of(view).open(Connection())
    assert not view.closed
    assert view.write(b"x") is False
    assert view.closed
    message = OutgoingMessage()
    body_of(message).open(Connection())
    while body_of(message).buffer.length < Settings().max_bytes - 1000:
        message.write(b"x" * 1000)
    assert not message.closed
    message.write(b"x" * 1001)
    assert message.closed
    assert body_of(message).cause == "overflow"
    assert statistics().open == before.open


def test_what_is_written_by_hand_is_bounded() -> None:
    message = OutgoingMessage()
    body_of(message).open(Connection(), Settings(max_bytes=10_000))
    while message.write(b"data: by hand\n\n"):
        pass
    for _ in range(1000):
        message.write(b"data: by hand\n\n")
    assert message.closed
    assert message.writable_length == 0


class Long(bytes):
    """Bytes that are three to all who look at them by their own methods."""

    def __bytes__(self) -> bytes:
        return self

    def __len__(self) -> int:
        return 3

    def endswith(self, *args: Any) -> bool:
        return False


@pytest.mark.parametrize("kind", [Long, lambda data: LocalProxy(lambda: data)])
def test_bytes_of_another_class_are_counted_and_sent_as_they_are(kind: Any) -> None:
    frame = encode({"data": "x" * 1000})
    sse_stream = SseStream()
    message = OutgoingMessage()
    sse_stream.pipe(message)
    sse_stream.push(kind(frame))
    assert message.writable_length == len(b":ok\n\n") + len(frame)
    message.write(kind(frame))
    message.end()
    body_of(message).open(Connection())
    assert b"".join(body_of(message)) == b":ok\n\n" + 2 * frame


def test_text_of_another_class_is_written_as_it_is() -> None:
    class Other(str):
        def encode(self, *args: Any, **kwargs: Any) -> bytes:
            return b"something else"

    message = OutgoingMessage()
    message.write(Other("data: x\n\n"))
    assert body_of(message).buffer.take() == b"data: x\n\n"


def test_a_chunk_that_cannot_be_read_is_refused_as_that() -> None:
    view = memoryview(b"x")
    view.release()
    for chunk, word in [(view, "released"), ("\ud800", "lone surrogate")]:
        with pytest.raises(ValueError, match=f"^a chunk.*{word}"):
            OutgoingMessage().write(chunk)
