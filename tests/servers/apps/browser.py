"""Chromium's EventSource as a parser of what we send: the messages, the app, the browser.

Server and test make the same messages, each in its own process, from one seed.
"""

import contextlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, request

from ssestream import ServerResponse, SseStream, pipeline

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

app = Flask(__name__)

#: The event upon which the page closes its EventSource. No message is called so.
THE_END = "the end"

#: Line ends, what Python but not the format takes for line ends, what other
#: parsers stumble over, and what looks like fields.
PIECES = [
    "\r", "\n", "\r\n", "\n\r", "\n\n", "\r\r", "\r\n\r\n",
    "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029",
    "\0", "\x01", "\x7f", "\ufeff", "\ufffd", "\ufffe", "\uffff", "\u200b",
    "😀", "\U0010ffff", "é", "e\u0301", "안녕", "שלום",
    " ", "  ", "\t", ":", "::", ": ", "=", "\\n", "\"", "'", "</script>", "%0a", "&#10;",
    "data", "data:", "data: x", "\ndata: x\n\n", "\r\rdata: x\r\r", "id: 5", "\nid: 5\n",
    "event: evil", "\nevent: evil\n", "retry: 1", "\rretry: 1\r", ":ok", "0", "null", "x", "word",
]  # fmt: skip

NAMES = [
    "foo", "message", "error", "open", "a b", " padded ", "data", "이름", "😀", "x:y", ":",
    "\0", "\u2028", "\x85", "\v", "\ufeff", "__proto__", "constructor",
]  # fmt: skip

HOSTILE: list[dict[str, Any]] = [
    {"data": ""},
    {"data": " "},
    {"data": "\n"},
    {"data": "\r\n\n\r"},
    {"data": ":"},
    {"data": " leading and trailing "},
    {"data": "x" * 1_000_000},
    {"data": "\n".join("é😀" * 40 for _ in range(3000))},
    {"data": 0},
    {"data": False},
    {"data": {"a": [1, 2.5, None, "é\n\u2028"], "b": {}}},
    {"data": "bytes: é\r\n😀".encode()},
    {"event": "foo"},  # without data nothing is dispatched
    {"data": "its name was dropped with it"},
    {"event": "", "data": "an empty name is no name"},
    {"id": "persists"},
    {"data": "under an id that came without data"},
    {"id": 0, "data": "id 0"},
    {"data": "still id 0"},
    {"id": "", "data": "no id any more"},
    {"id": " :padded: ", "data": ""},
    {"id": "\ufeff😀\u2028\x85\v", "data": "odd id"},
    {"id": "x" * 5000, "data": "long id"},
    {"retry": 0, "data": "retry 0"},
    {"retry": 10**30, "data": "retry beyond any integer"},
    {"retry": 3},
    {"comment": "data: x\n\ndata: y"},
    {"comment": "\r\n\r", "data": "after empty comment lines"},
    {"comment": "c\rid: 5", "event": "foo", "id": "all", "retry": 5, "data": "every field"},
]


def messages(seed: int = 20, count: int = 400) -> list[dict[str, Any]]:
    """The hostile ones, and *count* random ones made of hostile pieces."""
    chance = random.Random(seed)
    made = list(HOSTILE)
    for number in range(count):
        message: dict[str, Any] = {}
        if chance.random() < 0.9:
            message["data"] = _text(chance, PIECES)
        if chance.random() < 0.5:
            message["event"] = chance.choice(NAMES)
        if chance.random() < 0.4:
            message["id"] = f"{number} {_one_line(_text(chance, PIECES))}"
        if chance.random() < 0.2:
            message["comment"] = _text(chance, PIECES)
        if chance.random() < 0.1:
            message["retry"] = chance.randrange(10_000)
        if message.keys() - {"event"}:
            made.append(message)
    return made


def _text(chance: random.Random, pieces: list[str]) -> str:
    return "".join(chance.choices(pieces, k=chance.randrange(8)))


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "").replace("\0", "")


@app.get("/")
def page() -> str:
    return "<!doctype html><link rel=icon href='data:,'><title>EventSource</title>"


@app.get("/hostile")
def hostile() -> ServerResponse:
    return _stream(messages())


_posted: dict[str, list[dict[str, Any]]] = {}
_numbers = itertools.count()


@app.post("/messages")
def post() -> str:
    number = str(next(_numbers))
    _posted[number] = request.get_json()
    return number


@app.get("/messages/<number>")
def posted(number: str) -> ServerResponse:
    return _stream(_posted.pop(number))


def _stream(made: list[dict[str, Any]]) -> ServerResponse:
    end = {"event": THE_END, "data": ""}
    return pipeline([*made, end], SseStream(request), ServerResponse())


@contextlib.contextmanager
def browser(chromium: tuple[str, str], profile: Path, *arguments: str) -> Iterator["Chrome"]:
    """A headless Chromium, driven; *chromium* is what the fixture of that name gives."""
    # Here, as the server process has no use for it.
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = chromium[0]
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        *arguments,
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, ChromeService(chromium[1]))
    try:
        yield driver
    finally:
        driver.quit()
