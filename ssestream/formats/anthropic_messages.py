"""Anthropic's messages, as clients with ``stream=True`` read them: named events.

Source: https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, overload

from ..wire import Message
from .answer import FAILED, Format, Piece, answer


@overload
def anthropic_messages(
    source: Iterable[Piece], *, model: str, id: str | None = None
) -> Iterator[Message]: ...
@overload
def anthropic_messages(
    source: AsyncIterable[Piece], *, model: str, id: str | None = None
) -> AsyncIterator[Message]: ...
def anthropic_messages(
    source: Iterable[Piece] | AsyncIterable[Piece], *, model: str, id: str | None = None
) -> Iterator[Message] | AsyncIterator[Message]:
    """The messages of an answer as Anthropic's events, from ``message_start`` to ``message_stop``.

    *source* yields the pieces of the answer, of two kinds:

    * a str, which becomes a ``text_delta`` of a text block. Blocks are begun and ended as needed;
    * a mapping with a ``type``, or an object of the ``anthropic`` library, which is a whole event
      and is passed on under the name of its type. If it begins a block, its ``index`` is kept,
      and the blocks made here count on from there.

    ``message_start``, ``message_delta`` and ``message_stop`` are added unless *source* yields its
    own. The counts of tokens in those that are added are 0. *model* and *id* are the ``model``
    and the ``id`` of the message; None makes a new id.

    Raises ``TypeError`` if *source* is one piece, or cannot be iterated. A piece of another type
    is a ``TypeError`` when it is drawn, and a mapping without a ``type`` a ``ValueError``.
    """
    id = f"msg_{secrets.token_hex(12)}" if id is None else id
    return answer(source, _AnthropicMessage(model, id))


def anthropic_messages_error(error: BaseException | None, message: str = FAILED) -> Message:
    """The message that tells a client of *error*; for ``on_error=``.

    The ``anthropic`` library raises an ``APIStatusError`` with *message*. The text of *error*
    itself is not sent.
    """
    return _event({"type": "error", "error": {"type": "api_error", "message": message}})


def anthropic_messages_last(status: str, error: BaseException | None) -> Message | None:
    """The last message of a run in this format; for ``Runs(last=)``.

    None for the *status* ``"done"``, because the answer has its own end. ``message_stop`` for
    ``"stopped"``. The message of `anthropic_messages_error` for ``"failed"`` and ``"lost"``.
    """
    if status == "done":
        return None
    return (
        _event({"type": "message_stop"}) if status == "stopped" else anthropic_messages_error(error)
    )


class _AnthropicMessage(Format):
    def __init__(self, model: str, id: str) -> None:
        self._message: dict[str, Any] = {
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        # The types of the events so far that come once in a message.
        self._seen: set[str] = set()
        # The index of the next block, and whether the text block before it is open.
        self._next_index = 0
        self._is_open = False

    def text(self, text: str) -> Iterator[Message]:
        yield from self._begin()
        if not self._is_open:
            self._is_open = True
            self._next_index += 1
            yield self._block("start", content_block={"type": "text", "text": ""})
        yield self._block("delta", delta={"type": "text_delta", "text": text})

    def part(self, part: Mapping[str, Any]) -> Iterator[Message]:
        kind = part.get("type")
        if not isinstance(kind, str):
            raise ValueError("an event of Anthropic's format needs a 'type' that is a str")
        if kind not in ("message_start", "ping", "error"):
            yield from self._begin()
        if kind in ("content_block_start", "message_delta", "message_stop"):
            yield from self._end_block()
        if kind == "message_stop":
            yield from self._message_delta()
        if kind == "content_block_start":
            self._next_index = int(part.get("index", self._next_index)) + 1
        self._seen.add(kind)
        yield _event(part)

    def end(self) -> Iterator[Message]:
        if not self._seen & {"error", "message_stop"}:
            yield from self.part({"type": "message_stop"})

    def _begin(self) -> Iterator[Message]:
        if "message_start" not in self._seen:
            self._seen.add("message_start")
            yield _event({"type": "message_start", "message": self._message})

    def _message_delta(self) -> Iterator[Message]:
        if "message_delta" not in self._seen:
            delta = {"stop_reason": "end_turn", "stop_sequence": None}
            yield _event({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0}})

    def _end_block(self) -> Iterator[Message]:
        if self._is_open:
            self._is_open = False
            yield self._block("stop")

    def _block(self, kind: str, **rest: Any) -> Message:
        return _event({"type": f"content_block_{kind}", "index": self._next_index - 1, **rest})


def _event(data: Mapping[str, Any]) -> Message:
    return {"event": data["type"], "data": data}
