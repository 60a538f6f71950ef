"""Answers in each of the formats, for the vendors' own clients."""

import threading
from collections.abc import Iterator
from typing import Any

from flask import Flask, request

from ssestream import Channels, Runs, ServerResponse, SseStream, pipeline
from ssestream.formats import (
    UI_MESSAGES_HEADERS,
    anthropic_messages,
    anthropic_messages_error,
    chat_completions,
    chat_completions_error,
    ui_messages,
    ui_messages_error,
    ui_messages_last,
)
from tests.servers.apps import tell

app = Flask(__name__)

TEXT = ["Hel", "lo,\n", "\u2028wörld \U0001f99c", ""]

TOOL_CALL = {
    "index": 0,
    "id": "call-1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": 1}'},
}

SOURCE = {"type": "source-url", "sourceId": "1", "url": "https://example.org/"}

THINKING = [
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "thinking_delta", "thinking": "hm"},
    },
    {"type": "content_block_stop", "index": 1},
]

CHUNK = {
    "id": "theirs",
    "object": "chat.completion.chunk",
    "created": 7,
    "model": "other",
    "choices": [{"index": 0, "delta": {"content": "all"}, "finish_reason": "length"}],
}

PARTS: dict[str, list[Any]] = {
    "chat": ["a", {"tool_calls": [TOOL_CALL]}, "b"],
    "relay": [CHUNK, {**CHUNK, "choices": [], "usage": None}],
    "ui": ["a", SOURCE, "b", {"type": "finish", "finishReason": "length"}],
    "anthropic": ["a", *THINKING, "b"],
}


def pieces(case: str) -> Iterator[Any]:
    if case in PARTS:
        yield from PARTS[case]
        return
    yield from TEXT
    if case == "fails":
        raise RuntimeError("the secret key of the model")


@app.post("/v1/chat/completions")
def chat() -> ServerResponse:
    source = chat_completions(pieces(request.json["model"]), model="parrot")
    res = ServerResponse()
    return pipeline(source, SseStream(request), res, on_error=chat_completions_error)


@app.post("/ui/<case>")
def ui(case: str) -> ServerResponse:
    res = ServerResponse(headers=UI_MESSAGES_HEADERS)
    source = ui_messages(pieces(case), message_id="m")
    return pipeline(source, SseStream(request), res, on_error=ui_messages_error)


runs = Runs(Channels("memory://"), last=ui_messages_last)

#: The answers that wait, each in its middle, until they may go on.
gates: dict[str, threading.Event] = {}


def in_two_halves(chat: str) -> Iterator[str]:
    yield "Hel"
    gates[chat].wait()
    yield "lo"


@app.post("/chats/<chat>")
def start(chat: str) -> ServerResponse:
    gates[chat] = threading.Event()
    run = runs.start(ui_messages(in_two_halves(chat), message_id="m"), id=chat)
    return run.stream(request)


@app.post("/chats/<chat>/go-on")
def go_on(chat: str) -> str:
    gates[chat].set()
    return ""


@app.get("/chats/<chat>/stream")
def resume(chat: str) -> Any:
    if runs.status(chat) != "running":
        return "", 204
    tell(resumed=chat)
    return runs.stream(chat, request)


@app.post("/v1/messages")
def anthropic() -> ServerResponse:
    source = anthropic_messages(pieces(request.json["model"]), model="parrot")
    res = ServerResponse()
    return pipeline(source, SseStream(request), res, on_error=anthropic_messages_error)
