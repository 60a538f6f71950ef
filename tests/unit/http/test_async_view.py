"""Which tasks an ``async def`` view leaves behind, which die with it."""

import asyncio
from typing import Any

import pytest

from ssestream.http.async_view import cancelled_tasks, note_loop


async def push() -> None:
    await asyncio.sleep(3600)


async def tidy() -> None:
    await asyncio.sleep(0)


async def view(environ: dict[str, Any], *left: Any, awaited: Any = None) -> None:
    note_loop(environ)
    note_loop(environ)  # as each stream of the view does
    tasks = [asyncio.create_task(each()) for each in left]
    await asyncio.sleep(0)
    if awaited is not None:
        await awaited()
    assert len(tasks) == len(left)


@pytest.mark.parametrize(
    ("left", "names"),
    [((), []), ((push,), ["push"]), ((push, push), ["push"])],
)
def test_a_task_that_is_cancelled_with_its_view_is_named(left: Any, names: list[str]) -> None:
    environ: dict[str, Any] = {}
    asyncio.run(view(environ, *left))
    assert cancelled_tasks(environ) == names
    # It is told once.
    assert cancelled_tasks(environ) == []


def test_what_a_view_awaits_is_not_left_behind() -> None:
    environ: dict[str, Any] = {}
    asyncio.run(view(environ, awaited=tidy))
    assert cancelled_tasks(environ) == []


def test_a_loop_that_still_runs_is_no_views_loop() -> None:
    async def server() -> list[str]:
        environ: dict[str, Any] = {}
        await asyncio.create_task(view(environ, push))
        (left,) = asyncio.all_tasks() - {asyncio.current_task()}
        left.cancel()
        await asyncio.wait([left])
        return cancelled_tasks(environ)

    assert asyncio.run(server()) == []


def test_a_view_of_no_loop_leaves_nothing_in_its_environ() -> None:
    environ: dict[str, Any] = {}
    note_loop(environ)
    assert environ == {}
    assert cancelled_tasks(environ) == []
