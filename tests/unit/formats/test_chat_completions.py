"""OpenAI's chat completions. ``tests/servers/test_formats.py`` has its real client."""

from typing import Any

import pytest

from ssestream import MessageError
from ssestream.formats import chat_completions, chat_completions_error, chat_completions_last
from ssestream.wire import encode


def data_of(pieces: list[Any], **options: Any) -> list[Any]:
    return [message["data"] for message in chat_completions(pieces, model="parrot", **options)]


def deltas(pieces: list[Any]) -> list[Any]:
    *chunks, done = data_of(pieces)
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    return [choice["finish_reason"] or choice["delta"] for choice in choices]


def test_text_becomes_deltas_behind_the_role() -> None:
    begin = {"role": "assistant", "content": ""}
    assert deltas(["a", "b"]) == [begin, {"content": "a"}, {"content": "b"}, "stop"]
    assert deltas([]) == [begin, "stop"]


def test_a_delta_that_names_the_role_is_the_first() -> None:
    first = {"role": "assistant", "refusal": "no"}
    assert deltas([first]) == [first, "stop"]


def test_a_chunk_with_a_reason_ends_the_answer_and_one_without_does_not() -> None:
    chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}
    ended = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    usage: dict[str, Any] = {"choices": [], "usage": {"total_tokens": 3}}
    assert data_of([chunk, ended, usage]) == [chunk, ended, usage, "[DONE]"]
    assert [len(data_of([chunk])), len(data_of([ended]))] == [3, 2]


def test_a_chunk_of_the_library_is_passed_on_without_what_it_did_not_have() -> None:
    chunk = {
        "id": "theirs",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "other",
        "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}],
    }
    # It takes a second to import, in each process that collects these tests.
    from openai.types.chat import ChatCompletionChunk

    made = ChatCompletionChunk.model_validate(chunk)
    assert data_of([made]) == [chunk, "[DONE]"]


def test_one_answer_has_one_id_and_one_time_and_another_has_another_id() -> None:
    heads = [{(c["id"], c["created"]) for c in data_of(["a"])[:-1]} for _ in range(2)]
    assert [len(each) for each in heads] == [1, 1]
    assert heads[0] != heads[1]
    assert {(c["id"], c["created"]) for c in data_of(["a"], id="", created=0)[:-1]} == {("", 0)}


def test_an_error_tells_the_client_only_what_the_app_says() -> None:
    secret = RuntimeError("the key is 17")
    assert b"17" not in encode(chat_completions_error(secret))
    assert b"try again" in encode(chat_completions_error(secret, "try again"))


def test_what_json_cannot_hold_is_refused_by_the_stream_and_not_here() -> None:
    message = next(iter(chat_completions([{"role": "assistant", "x": object()}], model="parrot")))
    with pytest.raises(MessageError):
        encode(message)


def test_a_run_has_one_last_message_and_none_after_a_whole_answer() -> None:
    assert chat_completions_last("done", None) is None
    for status in ("failed", "lost"):
        assert chat_completions_last(status, None) == chat_completions_error(None)
    stopped = chat_completions_last("stopped", None)
    assert stopped is not None
    assert "[DONE]" in str(stopped["data"])
