"""Event ids: a position in each channel."""

from collections.abc import Callable

import pytest

from ssestream import Channels, SseStream
from ssestream.brokers.broker import Position
from ssestream.channels.ids import check_fits, format_id, parse_id
from ssestream.http.request import MAX_LAST_EVENT_ID
from tests.kit.states import nothing_remains

Make = Callable[..., Channels]


def test_more_channels_than_an_id_has_room_for_are_refused(local: Make) -> None:
    channels = local()
    names = [f"{number:0100}" for number in range(40)]
    stream = SseStream()
    with pytest.raises(ValueError, match="40 channels are too many"):
        channels.subscribe(stream, *names)
    channels.subscribe(stream, *names[:20])
    with pytest.raises(ValueError, match="too many"):
        channels.subscribe(stream, *names[20:])
    assert len(channels.statistics()) == 20
    stream.destroy()
    nothing_remains(channels)


def test_the_id_of_as_many_as_may_be_is_one_that_a_request_may_have(local: Make) -> None:
    channels = local()
    names: list[str] = []
    stream = SseStream()
    with pytest.raises(ValueError, match="too many"):  # noqa: PT012
        for number in range(1000):
            channels.subscribe(stream, f"{number:030}")
            names.append(f"{number:030}")
    stream.destroy()
    # As long as one can ever get.
    text = format_id({name: Position("f" * 32, 10**18 - 1) for name in names})
    assert len(text) <= 4096
    assert len(parse_id(text) or ()) == len(names)


POSITIONS = {
    "news": Position("4c1b9a20", 17, "5d0e3a"),
    "a/b:c@d.e+f_g-h": Position("x" * 32, 10**18 - 1),
    "empty": Position("", 0),
    "unknown": Position("nowhere", 0),
}


def test_an_id_is_read_back_as_it_was_written() -> None:
    assert format_id({"news": POSITIONS["news"]}) == "news=4c1b9a20.17.5d0e3a"
    assert parse_id(format_id(POSITIONS)) == POSITIONS
    assert list(parse_id(format_id(POSITIONS)) or ()) == list(POSITIONS)


def test_a_query_may_have_made_a_space_of_a_plus() -> None:
    assert parse_id(format_id(POSITIONS).replace("+", " ")) == POSITIONS


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "news",
        "news=",
        "=a.1",
        "news=a.1,",
        "news=a.1,news=a.2",
        "news=a.01",
        "news=a.1.",
        "news=a.1=",
        "né=a.1",
        "news=a.1\n",
        "news=a.1,sports=?",
    ],
)
def test_what_no_id_can_be_is_none(text: str) -> None:
    assert parse_id(text) is None


def test_an_id_has_a_longest_length() -> None:
    names = [f"channel-{number}" for number in range(1000)]
    longest = Position("x" * 32, 10**18 - 1, "5d0e3a")
    fitting = list(names)
    with pytest.raises(ValueError, match="1000 channels are too many"):
        check_fits(names)
    while True:
        try:
            check_fits(fitting)
            break
        except ValueError:
            fitting.pop()
    text = format_id(dict.fromkeys(fitting, longest))
    assert len(text) <= MAX_LAST_EVENT_ID < len(text) + 100
    assert parse_id(text) == dict.fromkeys(fitting, longest)
    assert parse_id("news=a.1" + "," * MAX_LAST_EVENT_ID) is None
