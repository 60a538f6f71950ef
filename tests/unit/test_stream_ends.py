"""How a stream ends, and how it loses one of its destinations."""

from ssestream import ClientDisconnected, SseStream
from ssestream.http.outgoing import OutgoingMessage, body_of
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
