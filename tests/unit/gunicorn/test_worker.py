"""The worker's own parts: its pool, what it owes, its head, and its greenlets."""

from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from ssestream.gunicorn.worker import (
    _closing,
    _Connections,
    _flush,
    _note_answer,
    _Serving,
    _writes_access_log,
)
from tests.kit.visit import until

# -- the pool of worker_connections


def test_a_stream_takes_the_place_of_its_greenlet_and_frees_it_at_its_end() -> None:
    pool, stream = _Connections(2), object()
    taken: list[int] = []

    def serve() -> None:
        greenlet: Any = gevent.getcurrent()
        pool.hand_on(greenlet, stream)  # type: ignore[arg-type]
        taken.append(pool.free_count())

    pool.spawn(serve)
    until(lambda: taken, "the greenlet")
    gevent.sleep(0)
    # The greenlet is over, and its connection is not.
    assert (taken, pool.free_count(), len(pool)) == ([1], 1, 1)
    pool.discard_stream(SimpleNamespace(body=stream))  # type: ignore[arg-type]
    assert (pool.free_count(), len(pool)) == (2, 0)


def test_a_full_pool_has_no_place_while_one_is_handed_on() -> None:
    pool, stream = _Connections(1), object()
    order: list[str] = []

    def first() -> None:
        pool.hand_on(gevent.getcurrent(), stream)  # type: ignore[arg-type]
        gevent.sleep(0.01)
        order.append("handed on")
        pool.discard_stream(SimpleNamespace(body=stream))  # type: ignore[arg-type]

    def second() -> None:
        order.append("second")

    pool.spawn(first)
    gevent.spawn(pool.spawn, second)
    until(lambda: len(order) == 2, "both")
    assert order == ["handed on", "second"]


def test_a_greenlet_of_the_pool_knows_its_pool_and_its_last_answer() -> None:
    pool = _Connections(1)
    _note_answer(list)  # of no connection, and so of no interest

    def serve() -> tuple[Any, list[Any]]:
        greenlet: Any = gevent.getcurrent()
        greenlet.serve_in(pool)
        answers = [greenlet.answer]
        for answer in (list, None):
            _note_answer(answer)
            answers.append(greenlet.answer)
        return greenlet.pool, answers

    greenlet = pool.spawn(serve)
    assert isinstance(greenlet, _Serving)
    assert greenlet.get(timeout=10) == (pool, [None, list, None])


# -- what is owed to a middleware


@pytest.mark.parametrize("fails", [False, True])
def test_the_iterable_of_a_middleware_is_closed_before_the_stream_is_over(fails: bool) -> None:
    calls: list[Any] = []

    class Owed:
        def close(self) -> None:
            calls.append("close")
            if fails:
                raise OSError("a middleware that fails")

    over = _closing(Owed(), calls.append)
    sender: Any = object()
    if fails:
        with pytest.raises(OSError, match="a middleware that fails"):
            over(sender)
    else:
        over(sender)
    assert calls == ["close", sender]


class Closes:
    def __init__(self, fails: bool = False) -> None:
        self.closes, self._fails = 0, fails

    def close(self) -> None:
        self.closes += 1
        if self._fails:
            raise ValueError("a close that fails")


class Response:
    """gunicorn's response to a client that may be gone."""

    def __init__(self, is_gone: bool) -> None:
        self.sent: list[bytes] = []
        self._is_gone = is_gone

    def write(self, data: bytes) -> None:
        if self._is_gone:
            raise BrokenPipeError
        self.sent.append(data)


def test_the_head_that_is_sent_closes_nothing() -> None:
    response, outer, streamed = Response(False), Closes(), Closes()
    _flush(response, outer, streamed)  # type: ignore[arg-type]
    assert response.sent == [b""]
    assert (outer.closes, streamed.closes) == (0, 0)


@pytest.mark.parametrize(("outer", "error"), [({}, BrokenPipeError), ({"fails": True}, ValueError)])
def test_a_head_that_cannot_be_sent_ends_the_body_and_every_stream_in_it(
    outer: dict[str, bool], error: type[Exception]
) -> None:
    body, streamed = Closes(**outer), [Closes(), Closes()]
    with pytest.raises(error):
        _flush(Response(True), body, *streamed)  # type: ignore[arg-type]
    assert [each.closes for each in (body, *streamed)] == [1, 1, 1]


def test_a_body_without_a_close_needs_none() -> None:
    streamed = Closes()
    with pytest.raises(BrokenPipeError):
        _flush(Response(True), (b"no close",), streamed)  # type: ignore[arg-type]
    assert streamed.closes == 1


# -- the access log


@pytest.mark.parametrize(
    ("settings", "writes"),
    [
        ({}, False),
        ({"accesslog": "-"}, True),
        ({"logconfig": "log.ini"}, True),
        ({"logconfig_dict": {"version": 1}}, True),
        ({"logconfig_json": "log.json"}, True),
        ({"syslog": True}, True),
        ({"syslog": True, "disable_redirect_access_to_syslog": True}, False),
    ],
)
def test_a_request_is_kept_where_the_configuration_writes_a_line_of_it(
    settings: dict[str, Any], writes: bool
) -> None:
    usual = {
        "accesslog": None,
        "logconfig": None,
        "logconfig_dict": {},
        "syslog": False,
        "disable_redirect_access_to_syslog": False,
    }
    assert _writes_access_log(SimpleNamespace(**usual | settings)) is writes
