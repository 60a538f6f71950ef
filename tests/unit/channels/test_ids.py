"""Event ids: a position in each channel."""

from collections.abc import Callable

import pytest
from werkzeug.test import create_environ

from ssestream import Channels, SseStream
from ssestream.brokers.broker import Position
from ssestream.channels.ids import check_fits, format_id, parse_id
from ssestream.http.request import MAX_LAST_EVENT_ID
from ssestream.wire import Decoder
from tests.kit.sink import Sink
from tests.kit.states import nothing_remains
from tests.kit.visit import until

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


OLD, NEW = Position("x", 1, "5d0e3a"), Position("x", 3, "9f01c2")


@pytest.mark.parametrize("comma", [",", ", "])
def test_of_two_ids_that_were_joined_the_last_position_in_each_channel_counts(comma: str) -> None:
    old = format_id({"news": OLD, "a+b": OLD, "gone": OLD})
    new = format_id({"news": NEW, "a+b": NEW})
    for text in (f"{old}{comma}{new}", f"{old}{comma}{new}".replace("+", " ")):
        known = parse_id(text) or {}
        assert [known[name] for name in ("news", "a+b", "gone")] == [NEW, NEW, OLD]
    assert parse_id(f"{comma}{new}") == parse_id(new)


def test_the_space_of_a_query_is_a_plus_at_the_beginning_of_a_name_too() -> None:
    positions = {"+a": OLD, "+b": NEW}
    known = parse_id(format_id(positions).replace("+", " ")) or {}
    assert known | positions == known


@pytest.mark.parametrize("comma", [",", ", "])
def test_a_client_that_sends_two_ids_gets_no_event_twice(local: Make, comma: str) -> None:
    channels = local()
    ids = [channels.publish("news", {"data": str(n)}) for n in range(5)]
    joined = f"{ids[1]}{comma}{ids[3]}"
    environ = create_environ(headers={"Last-Event-ID": joined})
    for stream, since in ((SseStream(environ), None), (SseStream(), joined)):
        sink = Sink()
        gaps: list[str] = []
        stream.on("gap", gaps.append)
        stream.pipe(sink)
        channels.subscribe(stream, "news", since=since)
        until(lambda sink=sink: b"data: 4" in b"".join(sink.got), "the last event")
        got = [each["data"] for each in Decoder().feed(b"".join(sink.got)) if "data" in each]
        assert (got, gaps) == (["4"], [])
        stream.destroy()


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "news",
        "news=",
        "=a.1",
        "news=a.1,",
        "news=a.1, ",
        ", ",
        ", , news=a.1",
        "an id of the app, news=a.1",
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
