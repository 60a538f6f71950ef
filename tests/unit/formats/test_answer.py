"""How the pieces of an answer are drawn, whatever the format."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ssestream.formats import anthropic_messages, chat_completions, ui_messages

FORMATS: list[Any] = [
    lambda source: anthropic_messages(source, model="parrot", id="1"),
    lambda source: chat_completions(source, model="parrot", id="1", created=0),
    lambda source: ui_messages(source, message_id="1"),
]


@pytest.fixture(params=FORMATS, ids=["anthropic", "chat", "ui"])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


async def slowly(pieces: list[Any], closed: list[bool]) -> AsyncIterator[Any]:
    try:
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece
    finally:
        closed.append(True)


def test_an_async_source_gives_the_same_messages(make: Any) -> None:
    async def all_of(closed: list[bool]) -> list[Any]:
        return [message async for message in make(slowly(["a", "b"], closed))]

    closed: list[bool] = []
    assert asyncio.run(all_of(closed)) == list(make(["a", "b"]))
    assert closed == [True]


def test_an_async_source_is_closed_where_the_client_leaves(make: Any) -> None:
    async def begin(closed: list[bool]) -> None:
        messages = make(slowly(["a", "b"], closed))
        await anext(messages)
        await messages.aclose()
        assert closed == [True]

    asyncio.run(begin([]))


def test_a_source_is_closed_where_the_client_leaves(make: Any) -> None:
    closed = []

    def source() -> Iterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append(True)

    pieces = source()
    messages = make(pieces)
    next(messages)
    messages.close()
    assert closed == [True]


def test_the_async_stream_of_a_library_is_closed_by_its_own_method(make: Any) -> None:
    closed = []

    class Stream:
        def __aiter__(self) -> AsyncIterator[str]:
            return slowly(["a"], [])

        async def close(self) -> None:
            closed.append(True)

    async def run() -> list[Any]:
        return [message async for message in make(Stream())]

    assert asyncio.run(run()) == list(make(["a"]))
    assert closed == [True]


def test_an_async_source_may_have_a_plain_close(make: Any) -> None:
    closed = []

    class Stream:
        def __aiter__(self) -> AsyncIterator[str]:
            return slowly(["a"], [])

        def close(self) -> None:
            closed.append(True)

    async def run() -> list[Any]:
        return [message async for message in make(Stream())]

    assert asyncio.run(run()) == list(make(["a"]))
    assert closed == [True]


def test_an_error_of_the_source_is_raised_after_what_came(make: Any) -> None:
    def source() -> Iterator[str]:
        yield "a"
        raise OSError("the model is gone")

    got: list[Any] = []
    with pytest.raises(OSError, match="the model is gone"):
        got.extend(make(source()))
    assert got
    assert list(make(["a"]))[: len(got)] == got


@pytest.mark.parametrize("source", ["text", b"bytes", {"type": "start"}, 5, None])
def test_what_is_no_source_is_refused_at_once(make: Any, source: Any) -> None:
    with pytest.raises(TypeError, match="source must be an iterable or an async iterable"):
        make(source)


@pytest.mark.parametrize("piece", [b"bytes", 5, None, ["a"], SimpleNamespace(model_dump=5)])
def test_a_piece_of_another_type_is_named(make: Any, piece: Any) -> None:
    with pytest.raises(TypeError, match=f"a piece of an answer .* not {type(piece).__name__}"):
        list(make([piece]))


def test_an_answer_without_pieces_has_a_beginning_and_an_end(make: Any) -> None:
    assert len(list(make([]))) >= 3
