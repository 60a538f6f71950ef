"""The request that code runs for, in the log."""

import contextvars
import logging

import pytest

from ssestream.runtime.origin import Origin, enter, log_failure, running_origin

ORIGIN = Origin("10.0.0.1 '/news'", {"path": "/news", "client": None})


def test_code_has_the_origin_of_its_context() -> None:
    context, other = contextvars.Context(), contextvars.Context()
    enter(context, ORIGIN)
    enter(other, None)
    assert context.run(running_origin) is ORIGIN
    assert other.run(running_origin) is None
    assert running_origin() is None


def test_nothing_takes_an_origin_away() -> None:
    context = contextvars.Context()
    enter(context, ORIGIN)
    enter(context, None)
    assert context.run(running_origin) is ORIGIN


def test_a_failure_is_logged_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise LookupError("why")
    except LookupError:
        log_failure(ORIGIN, "%r failed", "a handler")
        log_failure(None, "%r failed", "a timer")
    first, second = caplog.records
    assert (first.levelno, second.levelno) == (logging.ERROR, logging.ERROR)
    assert first.getMessage() == "10.0.0.1 '/news': 'a handler' failed"
    assert (first.path, first.client) == ("/news", None)  # type: ignore[attr-defined]
    assert second.getMessage() == "'a timer' failed"
    assert not hasattr(second, "path")
    for record in (first, second):
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)


def test_one_without_an_exception_shows_none(caplog: pytest.LogCaptureFixture) -> None:
    log_failure(ORIGIN, "returned a coroutine", exc_info=None)
    assert caplog.records[0].exc_info is None
