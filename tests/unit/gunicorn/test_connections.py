"""A stream keeps the place of its greenlet among the connections of a worker."""

from types import SimpleNamespace
from typing import Any

import gevent

from ssestream.gunicorn.connections import Connections, Serving, note_answer
from tests.kit.visit import until


def test_a_stream_takes_the_place_of_its_greenlet_and_frees_it_at_its_end() -> None:
    pool, stream = Connections(2), object()
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
    pool, stream = Connections(1), object()
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
    pool = Connections(1)
    note_answer(list)  # of no connection, and so of no interest

    def serve() -> tuple[Any, list[Any]]:
        greenlet: Any = gevent.getcurrent()
        greenlet.serve_in(pool)
        answers = [greenlet.answer]
        for answer in (list, None):
            note_answer(answer)
            answers.append(greenlet.answer)
        return greenlet.pool, answers

    greenlet = pool.spawn(serve)
    assert isinstance(greenlet, Serving)
    assert greenlet.get(timeout=60) == (pool, [None, list, None])
