"""Places that cursors share."""

from ssestream import Channels, SseStream
from ssestream.channels.cursor import Cursor
from ssestream.channels.place import NO_PLACE, Place
from tests.kit.insides import listener_of


def cursors_of(channels: Channels) -> list[Cursor]:
    """The cursors of two streams that have just subscribed."""
    channels.publish("news", {"data": "before"})
    streams = [SseStream(), SseStream()]
    for stream in streams:
        channels.subscribe(stream, "news")
    tail = listener_of(channels).tails.get("news")
    assert tail is not None
    return list(tail.cursors)


def test_cursors_at_one_position_share_one_place() -> None:
    one, other = cursors_of(Channels())
    assert one.place is other.place
    assert one.position is not None


def test_a_cursor_that_moves_takes_no_other_with_it() -> None:
    one, other = cursors_of(Channels())
    shared, position = other.place, other.position
    one.go_to(None)
    assert one.position is None
    assert other.place is shared
    assert other.position == shared.position == position
    # It may leave a place that moves nobody as often as it likes.
    one.leave()
    other.leave()
    assert other.place is shared


def test_a_group_moves_all_by_its_place() -> None:
    one, other = cursors_of(Channels())
    place = Place(one.position)
    for cursor in (one, other):
        cursor.stand_at(place)
    place.position = None
    assert one.position is other.position is None


def test_the_place_before_the_first_has_no_position() -> None:
    assert NO_PLACE.position is None
