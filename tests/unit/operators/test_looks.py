"""What the page is told: of all processes, and never more than it can show."""

from typing import Any

import pytest
from flask import Flask

from ssestream import Channels
from ssestream.operators.looks import CHANNELS, ENDS, NAMES, STREAMS, WIDEST, Looks, shown
from ssestream.top import OpenStreams
from ssestream.top.open_streams import MOST


def stream(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"0000000a-{number}",
        "client": f"192.0.2.7 '/follow/{number}'",
        "seconds": float(number),
        "messages": 1,
        "bytes": 10,
        "waiting": 0,
        "channels": {"news": 0},
        **fields,
    }


def process(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "process": number,
        "at": 100.0,
        "open": 0,
        "opened": 0,
        "closed": {},
        "refused": 0,
        "messages": 0,
        "waiting": 0,
        "draining": False,
        "channels": {},
        "streams": [],
        "ends": [],
        **fields,
    }


class Told(OpenStreams):
    """Streams of processes that are elsewhere: what they have written into the folder."""

    def __init__(self, *processes: dict[str, Any], channels: Channels | None = None) -> None:
        super().__init__(Flask("app"), channels)
        self.processes = list(processes)

    def of_all(self) -> list[dict[str, Any]]:
        return self.processes


def test_nothing_is_open() -> None:
    look = Looks(Told(process(1), channels=Channels())).next()
    assert look["open"] == 0
    assert look["rates"] is None
    assert look["channels"] == {"rows": [], "more": 0, "at_least": False}
    assert look["streams"] == {"rows": [], "more": 0, "at_least": False}
    assert look["ends"] == {"rows": []}


def test_an_app_without_channels_has_no_table_of_them() -> None:
    assert Looks(Told(process(1))).next()["channels"] is None


def test_the_numbers_of_processes_are_added_up_and_their_growth_is_a_rate() -> None:
    told = Told(
        process(1, messages=100, open=2, waiting=5, channels={"news": numbers(2, 1, 40)}),
        process(
            2, messages=1000, open=1, closed={"client": 3}, channels={"news": numbers(1, 0, 7)}
        ),
        channels=Channels(),
    )
    looks = Looks(told)
    first = looks.next()
    assert (first["open"], first["waiting"], first["closed"]) == (3, 5, {"client": 3})
    assert first["rates"] is None
    assert first["channels"]["rows"] == [{"name": "news", "streams": 3, "behind": 1, "rate": None}]
    told.processes = [
        process(1, at=102.0, messages=110, opened=4, channels={"news": numbers(2, 1, 50)}),
        # The same process has written nothing since then, so it tells of no time.
        process(2, messages=1000, closed={"client": 3}, channels={"news": numbers(1, 0, 7)}),
        # Another one has begun.
        process(3, at=102.0, messages=5000),
    ]
    second = looks.next()
    assert second["rates"] == {"messages": 5.0, "opened": 2.0, "closed": 0.0}
    assert second["channels"]["rows"][0]["rate"] == 5.0


def test_a_process_with_the_number_of_another_gives_no_rate_below_zero() -> None:
    told = Told(process(1, messages=100))
    looks = Looks(told)
    looks.next()
    told.processes = [process(1, at=101.0, messages=3)]
    assert looks.next()["rates"]["messages"] == 0.0


def numbers(streams: int, behind: int, delivered: int) -> dict[str, int]:
    return {"streams": streams, "behind": behind, "delivered": delivered}


def test_a_page_gets_a_bounded_number_of_rows_and_is_told_how_many_more_there_are() -> None:
    ends = [{"id": str(n), "client": "c", "at": float(n), "cause": "client"} for n in range(MOST)]
    told = Told(
        *(
            process(
                number,
                open=MOST + 500,
                streams=[stream(each + number * MOST) for each in range(MOST)],
                channels={f"room:{each}": numbers(1, 0, 0) for each in range(MOST)},
                ends=ends,
            )
            for number in (1, 2)
        ),
        channels=Channels(),
    )
    look = Looks(told).next()
    assert len(look["streams"]["rows"]) == STREAMS
    assert look["streams"]["more"] == 2 * (MOST + 500) - STREAMS
    assert look["streams"]["at_least"] is False
    assert len(look["channels"]["rows"]) == CHANNELS
    assert look["channels"]["more"] == MOST - CHANNELS
    # A process tells of so many channels at most.
    assert look["channels"]["at_least"] is True
    assert len(look["ends"]["rows"]) == ENDS
    assert look["ends"]["rows"][0]["at"] == float(MOST - 1)


def test_the_slow_streams_come_first_and_then_the_old_ones() -> None:
    rows = [stream(1), stream(3), stream(2, waiting=7)]
    look = Looks(Told(process(1, open=3, streams=rows))).next()
    assert [each["id"][-1] for each in look["streams"]["rows"]] == ["2", "3", "1"]


def test_a_search_finds_clients_channels_and_causes_in_any_case() -> None:
    ends = [
        {"id": "1", "client": "192.0.2.1 '/a'", "at": 1.0, "cause": "stalled"},
        {"id": "2", "client": "192.0.2.1 '/b'", "at": 2.0, "cause": "client"},
    ]
    told = Told(
        process(
            1,
            open=3,
            streams=[stream(1, channels={"Sports": 0}), stream(2), stream(31)],
            channels={"Sports": numbers(1, 0, 0), "news": numbers(2, 0, 0)},
            ends=ends,
        ),
        channels=Channels(),
    )

    def found(text: str) -> tuple[list[str], list[str], list[str]]:
        look = Looks(told, text).next()
        assert look["open"] == 3
        assert look["streams"]["more"] == 0
        return (
            [each["id"].partition("-")[2] for each in look["streams"]["rows"]],
            [each["name"] for each in look["channels"]["rows"]],
            [each["id"] for each in look["ends"]["rows"]],
        )

    assert found("sports ") == (["1"], ["Sports"], [])
    assert found("FOLLOW/31") == (["31"], [], [])
    assert found("stalled") == ([], [], ["1"])
    assert found("nowhere") == ([], [], [])


def test_a_search_among_streams_of_which_some_are_not_told_says_so() -> None:
    told = Told(process(1, open=MOST + 1, streams=[stream(each) for each in range(MOST)]))
    look = Looks(told, "follow/7'").next()
    assert len(look["streams"]["rows"]) == 1
    assert (look["streams"]["more"], look["streams"]["at_least"]) == (0, True)


def test_a_stream_of_many_channels_names_some() -> None:
    channels = {f"room:{number}": 2 for number in range(10)}
    look = Looks(Told(process(1, open=1, streams=[stream(1, channels=channels)]))).next()
    (row,) = look["streams"]["rows"]
    assert row["channels"] == [f"room:{number}" for number in range(NAMES)]
    assert row["more_channels"] == 10 - NAMES
    assert row["behind"] == 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("a\u202eb\nc", "a\\u202eb\\nc"),
        ("x" * WIDEST, "x" * WIDEST),
        ("x" * 10_000, "x" * (WIDEST - 1) + "…"),
        ("\0" * 10_000, ("\\x00" * WIDEST)[: WIDEST - 1] + "…"),
    ],
)
def test_a_text_that_a_client_chose_is_one_short_line(text: str, expected: str) -> None:
    assert shown(text) == expected
