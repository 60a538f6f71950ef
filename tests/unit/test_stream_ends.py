"""How a stream ends, and how it loses one of its destinations."""

from collections.abc import Callable

import pytest

from ssestream import ClientDisconnected, SseStream, WriteAfterEnd
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.runtime.emitter import Emitter
from ssestream.stream import flow_of
from tests.kit.states import settled


def test_a_flow_knows_why_it_has_no_pipe() -> None:
    stream, outgoing = SseStream(), OutgoingMessage()
    flow = flow_of(stream)
    assert flow.idle == ""
    stream.pipe(outgoing)
    stream.unpipe(outgoing)
    assert flow.idle == "unpiped"
    stream.pipe(outgoing)
    assert flow.idle == ""
    outgoing.destroy()
    assert flow.idle == "abandoned"
    # Its messages have been dropped, and an unpipe of nothing does not let it keep any.
    stream.unpipe()
    assert flow.idle == "abandoned"
    seen: list[object] = []
    stream.write({"data": "1"}, callback=seen.append)
    settled(stream)
    assert stream.writable_length == 0
    assert [type(error) for error in seen] == [ClientDisconnected]
    retiring = OutgoingMessage()
    stream.pipe(retiring)
    body_of(retiring).retire("shutdown")
    assert flow.idle == "retired"
    # The app cannot know that the server has ended it.
    stream.end()
    assert stream.write({"data": "2"}) is False


# -- a stream of no request, between two clients


#: How a stream loses a client.
LOSSES: dict[str, Callable[[OutgoingMessage], object]] = {
    "it leaves": lambda outgoing: body_of(outgoing).connection_lost(),
    "too old": lambda outgoing: body_of(outgoing).retire("age"),
    "a shutdown": lambda outgoing: body_of(outgoing).retire("shutdown"),
    "refused": lambda outgoing: body_of(outgoing).retire("refused"),
    "destroyed": lambda outgoing: outgoing.destroy(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_writer_that_waits_when_the_last_client_goes_is_told_to_go_on(loss: str) -> None:
    stream, outgoing, drains = SseStream(), OutgoingMessage(high_water_mark=10), []
    stream.on("drain", lambda: drains.append(loss))
    stream.pipe(outgoing)
    while stream.write({"data": "waits"}):
        pass
    assert stream.writable_need_drain
    LOSSES[loss](outgoing)
    settled(stream)
    assert (drains, stream.writable_need_drain) == ([loss], False)
    assert stream.writable_length == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_a_writer_that_nobody_is_there_for_goes_on_with_the_next_client(loss: str) -> None:
    stream, first, second = SseStream(), OutgoingMessage(), OutgoingMessage()
    numbers = iter(range(100))

    def fill() -> None:
        for number in numbers:
            if not stream.write({"data": number}):
                stream.once("drain", fill)
                return

    stream.pipe(first)
    LOSSES[loss](first)
    fill()
    settled(stream)
    # The first message was dropped, and the others are not written yet.
    assert (next(numbers), stream.writable_need_drain) == (1, True)
    stream.unpipe()
    settled(stream)
    assert next(numbers) == 2
    stream.pipe(second)
    settled(stream)
    assert b"data: 3\n\n" in next(body_of(second))
    stream.destroy()


@pytest.mark.parametrize("end", [SseStream.end, SseStream.destroy])
def test_a_stream_that_takes_no_more_writes_emits_no_drain(
    end: Callable[[SseStream], None],
) -> None:
    stream, outgoing, drains = SseStream(), OutgoingMessage(high_water_mark=10), []
    stream.on("drain", lambda: drains.append("drain"))
    stream.pipe(outgoing)
    while stream.write({"data": "waits"}):
        pass
    end(stream)
    outgoing.destroy()
    if not stream.destroyed:
        with pytest.raises(WriteAfterEnd):
            stream.write({"data": "late"})
    settled(stream)
    assert drains == []


class Leaving(Emitter):
    """A destination that runs *meanwhile* as soon as the stream has let it go."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self._meanwhile: Callable[[], None] | None = meanwhile

    def write(self, chunk: bytes) -> None:
        pass

    def remove_listener(self, event: str, handler: Callable[..., object]) -> None:
        super().remove_listener(event, handler)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()


def test_the_next_client_gets_all_that_is_written_while_the_last_one_leaves() -> None:
    stream, outgoing, errors = SseStream(), OutgoingMessage(high_water_mark=10), []

    def come() -> None:
        stream.pipe(outgoing)
        for number in range(5):
            stream.write({"data": number}, errors.append)

    leaving = Leaving(come)
    stream.pipe(leaving)
    leaving.emit("close")
    settled(leaving)
    stream.end()
    frames = b"".join(b"data: %d\n\n" % number for number in range(5))
    assert b"".join(body_of(outgoing)) == b":ok\n\n" + frames
    settled(stream)
    assert errors == [None] * 5
