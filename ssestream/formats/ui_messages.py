"""The AI SDK's UI message stream, version 1, as ``useChat`` and ``DefaultChatTransport`` read it.

Source: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
"""

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, overload

from ..wire import Message
from .answer import FAILED, Format, Piece, answer

#: The header that names the protocol. The response of such a stream needs it:
#: ``ServerResponse(headers=UI_MESSAGES_HEADERS)``.
UI_MESSAGES_HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}


@overload
def ui_messages(source: Iterable[Piece], *, message_id: str | None = None) -> Iterator[Message]: ...
@overload
def ui_messages(
    source: AsyncIterable[Piece], *, message_id: str | None = None
) -> AsyncIterator[Message]: ...
def ui_messages(
    source: Iterable[Piece] | AsyncIterable[Piece], *, message_id: str | None = None
) -> Iterator[Message] | AsyncIterator[Message]:
    """The messages of an answer as a UI message stream, with ``[DONE]`` at the end.

    *source* yields the pieces of the answer, of two kinds:

    * a str, which becomes a part of a text block. Blocks are begun and ended as needed;
    * a mapping with a ``type``, which is a part of the protocol and is passed on as it is:
      ``{"type": "source-url", ...}``, ``{"type": "data-weather", "data": ...}``.

    The parts ``start`` and ``finish`` are added unless *source* yields its own. A part ``abort``
    or ``error`` ends the answer without ``finish``. *message_id* is the id of the message in the
    page; None makes a new one.

    Raises ``TypeError`` if *source* is one piece, or cannot be iterated. A piece of another type
    is a ``TypeError`` when it is drawn, and a mapping without a ``type`` a ``ValueError``.
    """
    message_id = f"msg-{secrets.token_hex(12)}" if message_id is None else message_id
    return answer(source, _UiMessage(message_id))


def ui_messages_error(error: BaseException | None, message: str = FAILED) -> Message:
    """The message that tells a client of *error*; for ``on_error=``.

    The page's ``useChat`` gets an error with the text *message*. The text of *error* itself is
    not sent.
    """
    return {"data": {"type": "error", "errorText": message}}


def ui_messages_last(status: str, error: BaseException | None) -> Message | None:
    """The last message of a run in this format; for ``Runs(last=)``.

    None for the *status* ``"done"``, because the answer has its own end. A part ``abort`` for
    ``"stopped"``. The message of `ui_messages_error` for ``"failed"`` and ``"lost"``.
    """
    if status == "done":
        return None
    return {"data": {"type": "abort"}} if status == "stopped" else ui_messages_error(error)


class _UiMessage(Format):
    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._begun = False
        self._finished = False
        # How many text blocks were begun, and whether the last one is open.
        self._blocks = 0
        self._is_open = False

    def text(self, text: str) -> Iterator[Message]:
        yield from self._begin()
        if not self._is_open:
            self._is_open = True
            self._blocks += 1
            yield self._block("text-start")
        yield self._block("text-delta", delta=text)

    def part(self, part: Mapping[str, Any]) -> Iterator[Message]:
        kind = part.get("type")
        if not isinstance(kind, str):
            raise ValueError("a part of a UI message stream needs a 'type' that is a str")
        if kind != "start":
            yield from self._begin()
        self._begun = True
        # The page shows the parts in the order in which they begin.
        yield from self._end_block()
        self._finished |= kind in ("finish", "abort", "error")
        yield {"data": part}

    def end(self) -> Iterator[Message]:
        yield from self._begin()
        yield from self._end_block()
        if not self._finished:
            yield {"data": {"type": "finish"}}
        yield {"data": "[DONE]"}

    def _begin(self) -> Iterator[Message]:
        if not self._begun:
            self._begun = True
            yield {"data": {"type": "start", "messageId": self._message_id}}

    def _end_block(self) -> Iterator[Message]:
        if self._is_open:
            self._is_open = False
            yield self._block("text-end")

    def _block(self, kind: str, **rest: str) -> Message:
        return {"data": {"type": kind, "id": f"text-{self._blocks}", **rest}}
