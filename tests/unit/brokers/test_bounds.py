"""How much a log keeps, and what a later request changes of it."""

import pytest

from ssestream.brokers.bounds import HISTORY, Bounds


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
