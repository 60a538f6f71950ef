"""What is inside an iterable of a middleware, as far as that is known."""

import pytest
from werkzeug.wsgi import ClosingIterator

from ssestream import ServerResponse
from ssestream.gunicorn.unwrapping import unwrapped


def nothing() -> None:
    pass


def test_what_nobody_knows_is_itself() -> None:
    for iterable in ([b"a"], (each for each in [b"a"]), ServerResponse().response, 7):
        assert unwrapped(iterable) == (iterable, iterable)


def test_a_closing_iterator_hands_on_its_body_and_is_to_be_closed() -> None:
    body = ServerResponse().response
    inner = ClosingIterator(body, nothing)
    outer = ClosingIterator(inner, nothing)
    assert unwrapped(inner) == (body, inner)
    assert unwrapped(outer) == (body, outer)


def test_a_subclass_may_do_more_and_is_left_alone() -> None:
    class Counting(ClosingIterator):
        pass

    outer = Counting(ServerResponse().response, nothing)
    assert unwrapped(outer) == (outer, outer)
    around = ClosingIterator(outer, nothing)
    assert unwrapped(around) == (outer, around)


def test_another_version_that_keeps_it_elsewhere_is_left_alone() -> None:
    outer = ClosingIterator(ServerResponse().response, nothing)
    del outer._next  # type: ignore[misc]
    assert unwrapped(outer) == (outer, outer)
    outer._next = iter(()).__next__  # type: ignore[method-assign]
    assert unwrapped(outer) == (outer, outer)


def test_sentrys_need_not_be_closed_and_its_scope_may_go() -> None:
    wsgi = pytest.importorskip("sentry_sdk.integrations.wsgi")
    body = ServerResponse().response
    assert unwrapped(wsgi._ScopedResponse(None, body)) == (body, body)
    inner = ClosingIterator(body, nothing)
    assert unwrapped(wsgi._ScopedResponse(None, inner)) == (body, inner)


def test_a_version_of_sentrys_that_ends_something_in_close_is_closed() -> None:
    class _ScopedResponse:
        __slots__ = ("_response", "_scope", "_timer")

    _ScopedResponse.__module__ = "sentry_sdk.integrations.wsgi"
    _ScopedResponse.__qualname__ = "_ScopedResponse"
    outer = _ScopedResponse()
    outer._response = body = ServerResponse().response
    assert unwrapped(outer) == (body, outer)
