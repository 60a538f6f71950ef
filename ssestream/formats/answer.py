"""Draw the pieces of an answer, and give each to a format.

A piece is text, or a part of the format itself as a mapping or as an object of the vendor's
library. The source may be an iterable or an async iterable; the messages are the same.
"""

import abc
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

from ..wire import Message

#: One piece of an answer: text, a mapping, or an object with ``model_dump()`` (Pydantic's).
Piece = Any

#: What a client is told of an error. The error's own text may hold secrets, such as the URL of
#: the model and its key.
FAILED = "The answer failed."

_P = TypeVar("_P")


class Format(abc.ABC):
    """The state of one answer in one format. Each method gives the messages that come next."""

    @abc.abstractmethod
    def text(self, text: str) -> Iterator[Message]:
        """The messages of a piece of text."""

    @abc.abstractmethod
    def part(self, part: Mapping[str, Any]) -> Iterator[Message]:
        """The messages of *part*, which has the form that this format has on the wire."""

    @abc.abstractmethod
    def end(self) -> Iterator[Message]:
        """The messages after the last piece."""

    def piece(self, piece: Piece) -> Iterator[Message]:
        """The messages of *piece*. Raises ``TypeError`` for a piece of another type."""
        if isinstance(piece, str):
            return self.text(piece)
        dump = getattr(piece, "model_dump", None)
        if callable(dump):
            piece = dump(mode="json", exclude_unset=True)
        if isinstance(piece, Mapping):
            return self.part(piece)
        raise TypeError(
            "a piece of an answer is a str, a mapping or an object with model_dump(),"
            f" not {type(piece).__name__}"
        )


@overload
def answer(source: Iterable[Piece], format: Format) -> Iterator[Message]: ...
@overload
def answer(source: AsyncIterable[Piece], format: Format) -> AsyncIterator[Message]: ...
def answer(
    source: Iterable[Piece] | AsyncIterable[Piece], format: Format
) -> Iterator[Message] | AsyncIterator[Message]:
    """The messages of all pieces of *source* in *format*.

    Raises ``TypeError`` if *source* is one piece, or cannot be iterated.
    """
    if isinstance(source, AsyncIterable):
        return _answer_async(source, format)
    if isinstance(source, (str, bytes, Mapping)) or not isinstance(source, Iterable):
        raise TypeError(
            "source must be an iterable or an async iterable of the pieces of an answer,"
            f" not {type(source).__name__}"
        )
    return _answer(source, format)


def _answer(source: Iterable[Piece], format: Format) -> Iterator[Message]:
    try:
        for piece in source:
            yield from format.piece(piece)
        yield from format.end()
    finally:
        # The client may have left. A generator's ``finally`` blocks must run now, and not when
        # the garbage collector finds it.
        close = getattr(source, "close", None)
        if callable(close):
            close()


async def _answer_async(source: AsyncIterable[Piece], format: Format) -> AsyncIterator[Message]:
    try:
        async for piece in source:
            for message in format.piece(piece):
                yield message
        for message in format.end():
            yield message
    finally:
        # An async generator has ``aclose``. The streams of the vendors' libraries have an async
        # ``close``. Any other source may have a plain one.
        close = getattr(source, "aclose", None) or getattr(source, "close", None)
        if callable(close):
            result = close()
            if inspect.isawaitable(result):
                await result
