"""The messages that wait in a stream: their order, their callbacks and their bounds."""

import pytest

from ssestream.message_queue import Callback, MessageQueue
from ssestream.settings import Settings


def queue(high_water_mark: int = 4, max_messages: int = 10, max_bytes: int = 100) -> MessageQueue:
    return MessageQueue(high_water_mark, max_messages, max_bytes)


def filled(count: int, frame: bytes = b"x", **bounds: int) -> MessageQueue:
    made = queue(**bounds)
    for _ in range(count):
        made.append(frame, None)
    return made


def nothing(error: BaseException | None) -> None:
    pass


def test_what_comes_first_leaves_first_with_its_own_callback() -> None:
    made = queue()
    callbacks: list[Callback | None] = [None, nothing, None]
    for number, callback in enumerate(callbacks):
        made.append(b"%d" % number, callback)
    assert (len(made), made.bytes) == (3, 3)
    assert [made.popleft() for _ in range(3)] == [(b"0", None), (b"1", nothing), (b"2", None)]
    assert (len(made), made.bytes) == (0, 0)


def test_messages_are_taken_together_up_to_a_size_but_at_least_one() -> None:
    made = queue()
    for number, callback in enumerate([None, nothing, None, nothing]):
        made.append(b"%d" % number * 3, callback)
    assert made.take(2) == ([b"000"], [None])
    assert made.take(8) == ([b"111", b"222"], [nothing, None])
    assert (len(made), made.bytes) == (1, 3)
    assert made.take(8) == ([b"333"], [nothing])
    assert (len(made), made.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("waiting", "frame", "added"),
    [
        (0, b"x", 6),
        (4, b"x", 2),
        (6, b"x", 0),
        (0, b"x" * 20, 2),
        (3, b"x" * 24, 1),
        (0, b"x" * 51, 0),
    ],
)
def test_frames_are_added_together_until_the_queue_is_more_than_half_full(
    waiting: int, frame: bytes, added: int
) -> None:
    made = filled(waiting, max_messages=10, max_bytes=100)
    assert made.extend([frame] * 8) == added
    assert (len(made), made.bytes) == (waiting + added, waiting + added * len(frame))
    taken = [made.popleft() for _ in range(len(made))]
    assert taken == [(b"x", None)] * waiting + [(frame, None)] * added
    assert (len(made), made.bytes) == (0, 0)


def test_equal_frames_that_are_added_together_are_kept_once() -> None:
    copies = [[bytes(bytearray(b"data: %d\n\n" % number)) for number in range(4)] for _ in range(3)]
    queues = []
    for frames in copies:
        queues.append(queue())
        assert queues[-1].extend(frames) == 4
    kept = [[each.popleft()[0] for each in queues] for _ in range(4)]
    # The first frame of a queue mostly leaves at once, and is not looked up.
    assert [len({id(frame) for frame in frames}) for frames in kept] == [3, 1, 1, 1]


def test_clearing_gives_everything_back() -> None:
    made = queue()
    made.append(b"one", nothing)
    made.append(b"two", None)
    assert made.clear() == [(b"one", nothing), (b"two", None)]
    assert (len(made), made.bytes) == (0, 0)
    assert made.clear() == []


def test_streams_with_equal_bounds_share_one_empty_queue() -> None:
    settings = Settings(max_messages=50)
    empty = MessageQueue.empty(16, settings)
    assert MessageQueue.empty(16, Settings(max_messages=50)) is empty
    assert MessageQueue.empty(8, settings) is not empty
    own = empty.appendable()
    own.append(b"x", None)
    assert own is not empty
    assert own.appendable() is own
    assert len(empty) == 0


def test_a_writer_has_to_wait_from_the_mark_or_the_bytes_on() -> None:
    assert [filled(count).is_full() for count in (3, 4)] == [False, True]
    assert [filled(1, b"x" * size).is_full() for size in (99, 100)] == [False, True]


def test_there_is_room_up_to_half_of_each_bound() -> None:
    assert [filled(count).has_room() for count in (5, 6)] == [True, False]
    assert [filled(1, b"x" * size).has_room() for size in (50, 51)] == [True, False]


def test_a_bound_is_passed_by_one_message_more_or_one_byte_more() -> None:
    assert not filled(10).exceeds_bounds()
    assert filled(10).exceeds_bounds(b"x")
    assert not filled(2, b"x" * 49).exceeds_bounds(b"xx")
    assert filled(2, b"x" * 49).exceeds_bounds(b"xxx")
    assert filled(2, b"x" * 49).exceeds_bytes(b"xxx")
    assert not filled(10).exceeds_bytes(b"x")


def test_a_single_message_may_be_of_any_size() -> None:
    assert not queue().exceeds_bounds(b"x" * 1000)
    assert not filled(1, b"x" * 1000).exceeds_bounds()
    assert filled(1, b"x" * 1000).exceeds_bounds(b"x")


@pytest.mark.parametrize("how", ["popleft", "clear"])
def test_a_grant_holds_until_the_queue_is_empty(how: str) -> None:
    made = filled(9)
    made.grant(20)
    made.grant(15)
    for _ in range(11):
        made.append(b"x", None)
    assert not made.exceeds_bounds()
    assert made.exceeds_bounds(b"x")
    if how == "clear":
        made.clear()
    while made:
        made.popleft()
    for _ in range(10):
        made.append(b"x", None)
    assert made.exceeds_bounds(b"x")


def test_trimming_drops_the_oldest_until_the_bounds_hold() -> None:
    made = queue(max_messages=3)
    for number in range(5):
        made.append(b"%d" % number, nothing if number == 0 else None)
    assert made.trim() == [nothing, None]
    assert [frame for frame, _ in made.clear()] == [b"2", b"3", b"4"]
    heavy = filled(3, b"x" * 60)
    assert heavy.trim() == [None, None]
    assert heavy.bytes == 60


def test_callbacks_are_taken_up_to_the_mark_and_the_frames_stay() -> None:
    made = queue(high_water_mark=2)
    for number in range(3):
        made.append(b"%d" % number, nothing)
    assert made.take_callbacks() == [nothing, nothing]
    assert made.take_callbacks() == [None, None]
    assert made.clear() == [(b"0", None), (b"1", None), (b"2", nothing)]
