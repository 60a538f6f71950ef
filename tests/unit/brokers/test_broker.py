"""What all brokers share: names, positions and slices."""

import pytest

from ssestream.brokers.broker import (
    Entry,
    Position,
    Slice,
    check_name,
    parse_position,
)
from tests.kit.brokers import (
    NEVER,
)


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a\n", "a=b", "a,b", "é", "\0", "x" * 101, "a*", "{a}", "'", "%", "\\"]
)
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="channel"):
        check_name(name)


@pytest.mark.parametrize("name", [None, b"a", 7])
def test_what_is_no_text_is_no_name(name: object) -> None:
    with pytest.raises(TypeError, match="channel"):
        check_name(name)


def test_a_position_is_read_from_its_text() -> None:
    for position in (
        NEVER,
        Position("ab12", 0),
        Position("x" * 32, 10**18 - 1),
        Position("ab12", 7, "0123ef"),
    ):
        assert parse_position(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a",
        "a.",
        ".1",
        "a.-1",
        "a.+1",
        "a.01",
        "a.1.2",
        "a.1.",
        ".0.abcdef",
        "a.1.ABCDEF",
        "a. 1",
        "a.1 ",
        "a.1\n",
        "a.٣",
    ]
    + ["a.1.", ".0.abcdef", "a.1.ABCDEF", "a.1.abcdef0", "a.1.abcdef.", "a..abcdef"]
    + ["a.1e3", "a.0x1", "a.1_0", "a-b.1", "é.1", "\0.1", "a.\0", "x" * 33 + ".1", "a." + "9" * 19],
)
def test_rubbish_is_no_position(text: str) -> None:
    assert parse_position(text) is None


# -- slices

KEPT = Slice("log", 5, 7, [Entry(7, b"x", "cc")], check="bb", last_check="cc")


def test_a_slice_knows_its_two_ends() -> None:
    assert KEPT.end == Position("log", 7, "cc")
    assert KEPT.beginning == Position("log", 4)


@pytest.mark.parametrize(
    ("at", "misses", "has_other_past"),
    [
        (Position("log", 6, "bb"), False, False),
        (Position("log", 6), False, False),
        (Position("log", 4), False, False),
        # Removed, never written, another entry there, another log, and no log at all.
        (Position("log", 3), True, False),
        (Position("log", 8), True, True),
        (Position("log", 6, "zz"), True, True),
        (Position("other", 6, "bb"), True, False),
    ],
)
def test_what_is_lost_after_a_position(at: Position, misses: bool, has_other_past: bool) -> None:
    assert KEPT.misses(at) is misses
    assert KEPT.has_other_past(at) is has_other_past


def test_who_came_before_the_first_entry_misses_just_what_was_removed() -> None:
    nothing = Position("", 0)
    assert KEPT.misses(nothing)
    assert not Slice("log", 1, 7, []).misses(nothing)
