"""What all brokers share: names, positions, bounds and slices."""

import pytest

from ssestream.brokers.broker import (
    HISTORY,
    Bounds,
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


# -- bounds


def test_a_new_log_keeps_what_is_asked_or_the_usual() -> None:
    assert Bounds().of_new_log() == (HISTORY, None)
    assert Bounds(5, 60).of_new_log() == (5, 60)
    assert Bounds(None, 60).of_new_log() == (HISTORY, 60)


def test_a_request_widens_and_never_narrows() -> None:
    own = Bounds(100, 60.0)
    assert own.widened(Bounds(10, 6.0)) == own
    assert own.widened(Bounds(1000, 600.0)) == (1000, 600.0)
    assert own.widened(Bounds()) == own
    # Entries of any age are the widest already.
    assert Bounds(100, None).widened(Bounds(100, 60.0)) == (100, None)


@pytest.mark.parametrize(
    ("asked", "warns"),
    [
        (Bounds(), False),
        (Bounds(100, 60.0), False),
        (Bounds(1000, 600.0), False),
        (Bounds(99, None), True),
        (Bounds(None, 59.0), True),
    ],
)
def test_a_log_that_keeps_more_than_is_asked_is_warned_of(
    asked: Bounds, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert Bounds(100, 60.0).warn_of(asked, "news") is warns
    said = [record.getMessage() for record in caplog.records]
    assert [words for words in said if "'news'" in words and "100 events of 60 s" in words] == said
    assert len(said) == warns


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
