"""What top shows for an answer."""

from typing import Any

import pytest

from ssestream.top.screen import WIDEST, screen_of, text_of


def stream(client: str, **changes: Any) -> dict[str, Any]:
    told = {"seconds": 5.0, "messages": 1, "bytes": 9, "waiting": 0, "channels": {}}
    return {"client": client, **told, **changes}


def process(number: int, *streams: dict[str, Any], **changes: Any) -> dict[str, Any]:
    told = {"messages": 10, "draining": False, "channels": {}}
    return {"process": number, "open": len(streams), **told, "streams": streams, **changes}


def test_processes_are_added_up_and_the_slow_and_the_old_come_first() -> None:
    one = process(
        1,
        stream("young", seconds=3.2),
        stream("slow", waiting=500, channels={"news": 7, "sports": 2}),
        channels={"news": {"streams": 2, "behind": 1}, "rare": {"streams": 1, "behind": 0}},
    )
    two = process(
        2,
        stream("old", seconds=7300),
        channels={"news": {"streams": 3, "behind": 0}},
        draining=True,
    )
    screen = screen_of({"processes": [one, two]})
    assert screen.line == "3 streams open in 2 processes, 1 draining"
    assert screen.channels.rows == [("news", "5", "1"), ("rare", "1", "0")]
    assert screen.streams.rows == [
        ("slow", "news sports", "9", "5s", "1", "500", "1"),
        ("old", "", "0", "2h", "1", "0", "2"),
        ("young", "", "0", "3s", "1", "0", "1"),
    ]


def test_a_later_look_tells_the_rate() -> None:
    first = screen_of({"processes": [process(1, messages=10)]})
    assert first.line == "0 streams open in 1 process"
    later = screen_of({"processes": [process(1, stream("a"), messages=25)]}, first, 2.0)
    assert later.line == "1 stream open in 1 process, 7.5 messages a second"
    # A process has gone, with its messages.
    assert screen_of({"processes": []}, later, 1.0).line.endswith(", 0.0 messages a second")


def test_what_a_client_has_chosen_steers_no_terminal() -> None:
    evil = stream("\x1b[2J\u202e" + "x" * 100, channels={"\x1b]0;owned\x07": 0})
    screen = screen_of({"processes": [process(1, evil)]})
    (row,) = screen.streams.rows
    assert all(text.isprintable() and len(text) <= WIDEST for text in row)
    assert row[0].startswith("\\x1b[2J\\u202exxx")


def test_the_text_has_columns() -> None:
    screen = screen_of(
        {
            "processes": [
                process(17, stream("somebody"), channels={"n": {"streams": 1, "behind": 0}})
            ]
        }
    )
    assert text_of(screen).splitlines() == [
        "1 stream open in 1 process",
        "CHANNEL  STREAMS  BEHIND",
        "n              1       0",
        "CLIENT    CHANNELS  BEHIND  OPEN  MESSAGES  WAITING  PROCESS",
        "somebody                 0    5s         1        0       17",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"processes": None},
        {"processes": [1]},
        {"processes": [{"open": 1}]},
        {"processes": [process(1, stream("a", waiting="much"))]},
        {"processes": [process(1, {"client": "a"})]},
        {"processes": [process(1, channels={"news": 1})]},
    ],
)
def test_another_answer_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="the answer is not that of"):
        screen_of(answer)
