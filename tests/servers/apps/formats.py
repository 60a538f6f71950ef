"""Answers in each of the formats, for the vendors' own clients."""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, request
from gevent import GreenletExit

from ssestream import Channels, Runs, ServerResponse, SseStream, pipeline
from ssestream.formats import (
    UI_MESSAGES_HEADERS,
    anthropic_messages,
    anthropic_messages_error,
    anthropic_messages_last,
    chat_completions,
    chat_completions_error,
    chat_completions_last,
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
    if "GATE" in os.environ:
        # Another worker cannot open a gate of this one.
        while not os.path.exists(os.environ["GATE"]):
            time.sleep(0.02)
    else:
        gates[chat].wait()
    yield "lo"


def with_protocol(res: ServerResponse) -> ServerResponse:
    res.headers.update(UI_MESSAGES_HEADERS)
    return res


@app.post("/chats/<chat>")
def start(chat: str) -> ServerResponse:
    gates[chat] = threading.Event()
    run = runs.start(ui_messages(in_two_halves(chat), message_id="m"), id=chat)
    return with_protocol(run.stream(request))


@app.post("/chats/<chat>/go-on")
def go_on(chat: str) -> str:
    gates[chat].set()
    return ""


@app.get("/chats/<chat>/stream")
def resume(chat: str) -> Any:
    if runs.status(chat) != "running":
        return "", 204
    tell(resumed=chat)
    return with_protocol(runs.stream(chat, request, on_shutdown="finish"))


@app.get("/chats/<chat>/for-an-event-source")
def watch(chat: str) -> ServerResponse:
    return runs.stream(chat, request)


@app.post("/v1/messages")
def anthropic() -> ServerResponse:
    source = anthropic_messages(pieces(request.json["model"]), model="parrot")
    res = ServerResponse()
    return pipeline(source, SseStream(request), res, on_error=anthropic_messages_error)


# -- answers that are runs

chat_runs = Runs(Channels("memory://"), last=chat_completions_last)
anthropic_runs = Runs(Channels("memory://"), last=anthropic_messages_last)


def run_of(
    runs: Runs, case: str, formatted: Callable[[Iterator[str]], Any], **options: Any
) -> ServerResponse:
    """The answer to whoever starts a run that ends as *case* says."""
    id = uuid.uuid4().hex

    def source() -> Iterator[str]:
        yield from TEXT
        if case == "fails":
            raise RuntimeError("the secret key of the model")
        if case == "is stopped":
            runs.stop(id)
        if case == "is lost":
            # Nobody but the end of a process raises this.
            raise GreenletExit

    return runs.start(formatted(source()), id=id).stream(request, **options)


@app.post("/runs/v1/chat/completions")
def chat_run() -> ServerResponse:
    return run_of(
        chat_runs,
        request.json["model"],
        lambda source: chat_completions(source, model="parrot"),
        # This client reads no block without data.
        id_blocks=False,
    )


@app.post("/runs/v1/messages")
def anthropic_run() -> ServerResponse:
    case = request.json["model"]
    return run_of(anthropic_runs, case, lambda source: anthropic_messages(source, model="parrot"))


@app.post("/runs/ui/<case>")
def ui_run(case: str) -> ServerResponse:
    return run_of(runs, case, lambda source: ui_messages(source, message_id="m"))
