"""OpenAI's chat completions, as clients with ``stream=True`` read them.

Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, overload

from ..wire import Message
from .answer import FAILED, Format, Piece, answer


@overload
def chat_completions(
    source: Iterable[Piece], *, model: str, id: str | None = None, created: int | None = None
) -> Iterator[Message]: ...
@overload
def chat_completions(
    source: AsyncIterable[Piece], *, model: str, id: str | None = None, created: int | None = None
) -> AsyncIterator[Message]: ...
def chat_completions(
    source: Iterable[Piece] | AsyncIterable[Piece],
    *,
    model: str,
    id: str | None = None,
    created: int | None = None,
) -> Iterator[Message] | AsyncIterator[Message]:
    """The messages of an answer as OpenAI's chat completion chunks, with ``[DONE]`` at the end.

    *source* yields the pieces of the answer, of three kinds:

    * a str, which becomes a delta with this ``content``;
    * a mapping without ``choices``, which is a delta: ``{"tool_calls": [...]}``;
    * a mapping with ``choices``, or an object of the ``openai`` library, which is a whole chunk
      and is passed on as it is. A chunk with a ``finish_reason`` ends the answer.

    *model* and *id* are the ``model`` and the ``id`` of all chunks that are made here; *created*
    is the time in seconds since 1970. None makes a new id, and takes the time of now.

    The clients read any message without data as an error. So such a stream must have no blocks
    that hold only an id: set ``SSESTREAM_ID_BLOCKS`` to False for channels in this format.

    Raises ``TypeError`` if *source* is one piece, or cannot be iterated. A piece of another type
    is a ``TypeError`` when it is drawn.
    """
    id = f"chatcmpl-{secrets.token_hex(12)}" if id is None else id
    created = int(time.time()) if created is None else created
    return answer(source, _ChatCompletion(model, id, created))


def chat_completions_error(error: BaseException | None, message: str = FAILED) -> Message:
    """The message that tells a client of *error*; for ``on_error=``.

    The ``openai`` library raises an ``APIError`` with *message*. The text of *error* itself is
    not sent.
    """
    return {
        "data": {"error": {"message": message, "type": "server_error", "param": None, "code": None}}
    }


def chat_completions_last(status: str, error: BaseException | None) -> Message | None:
    """The last message of a run in this format; for ``Runs(last=)``.

    None for the *status* ``"done"``, because the answer has its own end. ``[DONE]`` for
    ``"stopped"``. The message of `chat_completions_error` for ``"failed"`` and ``"lost"``.
    """
    if status == "done":
        return None
    return {"data": "[DONE]"} if status == "stopped" else chat_completions_error(error)


class _ChatCompletion(Format):
    def __init__(self, model: str, id: str, created: int) -> None:
        self._head = {
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._begun = False
        self._finished = False

    def text(self, text: str) -> Iterator[Message]:
        return self._deltas({"content": text})

    def part(self, part: Mapping[str, Any]) -> Iterator[Message]:
        if "choices" not in part:
            yield from self._deltas(part)
            return
        self._begun = True
        choices = part["choices"] or ()
        self._finished |= any(choice.get("finish_reason") for choice in choices)
        yield {"data": part}

    def end(self) -> Iterator[Message]:
        if not self._finished:
            yield from self._deltas({}, "stop")
        yield {"data": "[DONE]"}

    def _deltas(
        self, delta: Mapping[str, Any], finish_reason: str | None = None
    ) -> Iterator[Message]:
        # The first delta names the role, as the clients take it from there.
        if not self._begun and "role" not in delta:
            yield self._chunk({"role": "assistant", "content": ""})
        self._begun = True
        yield self._chunk(delta, finish_reason)

    def _chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> Message:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {"data": {**self._head, "choices": [choice]}}
