"""The same behaviour as npm's ssestream on Node's streams, and where not.

Each scenario is played twice: by ``tests/node/scenarios.js`` on the real
package, on real destinations and over real HTTP, and by a function of the same
name here. Both write down what they see. A table says what that is.
"""

import contextlib
import json
import logging
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import pytest
from pyee import EventEmitter
from werkzeug.test import EnvironBuilder

from ssestream import (
    HeadersSent,
    MessageError,
    ServerResponse,
    SseStream,
    SseStreamError,
    StreamDestroyed,
    StreamError,
    WriteAfterEnd,
)
from tests.kit.servers import wait_until

pytestmark = pytest.mark.node

SCRIPTS = Path(__file__).parent

#: What Node calls them.
CODES = {
    WriteAfterEnd: "ERR_STREAM_WRITE_AFTER_END",
    HeadersSent: "ERR_HTTP_HEADERS_SENT",
    StreamDestroyed: "ERR_STREAM_DESTROYED",
}


def code_of(error: object) -> str:
    if isinstance(error, SseStreamError):
        return CODES.get(type(error), type(error).__name__)
    return str(error)


#: What was seen from one settling to the next.
Steps = list[list[str]]


class _Telling(logging.Handler):
    def __init__(self, tell: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.WARNING)
        self.emit = tell


class Stage:
    """Where a scenario is played: what it saw, and how it waits."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.over = False

    def see(self, text: str) -> None:
        if not self.over:
            self.seen.append(text)

    @contextlib.contextmanager
    def listening_to_the_log(self) -> Iterator[None]:
        handler = _Telling(self._log)
        logger = logging.getLogger("ssestream")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def _log(self, record: logging.LogRecord) -> None:
        if "a message was refused" in str(record.msg):
            return  # beside the exception, which both sides see
        error = record.exc_info[1] if record.exc_info else record.getMessage()
        self.see(f"logged: {code_of(error)}")

    def settle(self) -> None:
        """Let everything happen that is about to."""
        raise NotImplementedError

    def until(self, condition: Callable[[], Any]) -> None:
        raise NotImplementedError

    def start(self, function: Callable[[], None]) -> None:
        """Run *function* beside the scenario: the server."""
        raise NotImplementedError

    # -- what scenarios do, in the words of scenarios.js

    def watch(self, emitter: EventEmitter, name: str, *events: str) -> None:
        for event in events:

            def saw(argument: object = None, event: str = event) -> None:
                code = f" {code_of(argument)}" if isinstance(argument, Exception) else ""
                self.see(f"{name} {event}{code}")

            emitter.on(event, saw)

    def stream(self, request: Any = None) -> SseStream:
        sse = SseStream(request)
        self.watch(sse, "stream", "drain", "finish", "end", "close", "error")
        return sse

    def piped(self, sse: SseStream, name: str, **options: Any) -> "Tap":
        """A destination that *sse* is piped to, once that has happened."""
        tap = Tap(self, name, **options)
        sse.pipe(tap)
        self.settle()
        return tap

    def write(self, sse: SseStream, text: object, callback: Any = None) -> None:
        self.see(f"write {text} -> {str(sse.write(data(text), callback)).lower()}")

    def delivered(self, sse: SseStream, client: "Exchange") -> None:
        """The first message, once the client has it."""
        self.write(sse, 1)
        self.until(lambda: "1" in client.text)

    def closed(self) -> None:
        self.until(lambda: "res close" in self.seen)
        self.settle()

    @contextlib.contextmanager
    def throwing(self, what: str) -> Iterator[None]:
        try:
            yield
        except StreamError as error:
            self.see(f"{what} throws {code_of(error)}")

    def heard(self, name: object) -> Callable[[BaseException | None], None]:
        def callback(error: BaseException | None) -> None:
            self.see(f"callback {name}: {'no error' if error is None else code_of(error)}")

        return callback

    def write_many(self, sse: SseStream, first: int, last: int) -> None:
        results = [sse.write(data(n)) for n in range(first, last + 1)]
        changes = [r for n, r in enumerate(results) if n == 0 or r != results[n - 1]]
        self.see(f"writes {first}-{last} -> " + ", ".join(str(r).lower() for r in changes))

    def got_many(self, tap: "Tap", count: int) -> None:
        """What a quiet destination got, in short."""
        self.until(lambda: len(tap.got) > count)
        numbers = [int(text) for text in tap.got[1:]]
        in_order = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        self.see(
            f"{tap.name} got {tap.got[0]} {numbers[0]}-{numbers[-1]},"
            f" in order: {str(in_order).lower()}"
        )

    def exchange(self) -> "contextlib.AbstractContextManager[Exchange]":
        return contextlib.closing(Exchange(self))


class Greenlets(Stage):
    """All in one thread, as in Node."""

    def settle(self) -> None:
        for _ in range(3):
            gevent.idle()
        self.see("--")

    def until(self, condition: Callable[[], Any]) -> None:
        with gevent.Timeout(60):
            while not condition():
                gevent.sleep(0.001)

    def start(self, function: Callable[[], None]) -> None:
        gevent.spawn(function)


class Threads(Stage):
    """Events and destinations on threads of their own: what is seen is sure, its order is not."""

    def __init__(self, expected: Steps) -> None:
        super().__init__()
        self._expected = expected

    def settle(self) -> None:
        number = self.seen.count("--")
        expected = sorted(self._expected[number]) if number < len(self._expected) else []
        with contextlib.suppress(AssertionError):  # the test says it better
            wait_until(lambda: sorted(in_steps(self.seen)[-1]) == expected, "a step", 20)
        self.see("--")

    def until(self, condition: Callable[[], Any]) -> None:
        wait_until(condition, "a condition", 60)

    def start(self, function: Callable[[], None]) -> None:
        threading.Thread(target=function).start()


def told(seen: list[str]) -> list[str]:
    """*seen* as the table has it.

    What the writer did comes first in its step: in Node a destination is
    written to within ``write()``, here soon after.
    """
    steps = [
        " | ".join(sorted(step, key=lambda text: not text.startswith(("write ", "writes "))))
        for step in in_steps(seen)
    ]
    while steps and not steps[-1]:
        steps.pop()
    return steps


def in_steps(seen: list[str]) -> Steps:
    steps: Steps = [[]]
    for text in seen:
        if text == "--":
            steps.append([])
        else:
            steps[-1].append(text)
    return steps


def data(text: object) -> dict[str, str]:
    return {"data": str(text)}


class Tap(EventEmitter):
    """A destination that takes every message, and says that it is full when told to."""

    def __init__(self, stage: Stage, name: str, quiet: bool = False, full: bool = False) -> None:
        super().__init__()
        self.stage = stage
        self.name = name
        self.quiet = quiet
        self.got: list[str] = []
        self.full = full
        for event in ("pipe", "unpipe"):
            self.on(event, lambda source, event=event: self._met(event, source))

    def _met(self, event: str, source: object) -> None:
        self.stage.see(f"{self.name} {event} {type(source).__name__}")

    def write(self, chunk: bytes) -> bool:
        text = chunk.decode().rstrip().removeprefix("data: ")
        self.got.append(text)
        if not self.quiet:
            self.stage.see(f"{self.name} got {text}")
        return not self.full

    def end(self) -> None:
        self.stage.see(f"{self.name} end()")
        self.emit("finish")
        self.emit("close")

    def drain(self, full: bool = False) -> None:
        self.full = full
        self.emit("drain")


class Exchange:
    """A real socket pair: a WSGI server's end, served from a body, and the client's."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.text = ""
        self.ended = False
        self.closed = False
        self._server, self._client = socket.socketpair()
        self.request = EnvironBuilder().get_environ()
        self.request["werkzeug.socket"] = self._server
        self.res = ServerResponse()

    def serve(self) -> None:
        body: Any = self.res(self.request, lambda status, headers, exc_info=None: None)

        def send() -> None:
            for chunk in body:
                self.text += chunk.decode()
            self.ended = True
            body.close()
            self.closed = True

        self.stage.start(send)

    def received(self) -> None:
        frames = [frame.replace("data: ", "") for frame in self.text.strip().split("\n\n")]
        self.stage.see("client got " + " ".join(frames))

    def leave(self) -> None:
        self._client.close()

    def cut_off(self) -> None:
        self._client.setblocking(False)
        try:
            cut = self._client.recv(1) == b""
        except BlockingIOError:
            cut = False
        self.stage.see(f"client cut off: {str(cut).lower()}")

    def close(self) -> None:
        self.stage.over = True
        self.res.destroy()
        self.stage.until(lambda: self.closed)
        self._client.close()
        self._server.close()


Play = Callable[[Stage], None]
PLAYS: dict[str, Play] = {}


def play(function: Play) -> Play:
    PLAYS[function.__name__] = function
    return function


# -- the table


@dataclass(frozen=True)
class Row:
    """What is seen there and here, from one settling to the next; *here* None is the same."""

    play: str
    there: list[str]
    here: list[str] | None = None
    because: str = ""


TWO_BUFFERS = (
    "a Node stream of this kind has two buffers, and tells 'finish' of the first and 'end' of"
    " the second as each is empty; here it is one, and 'finish' comes first (divergence 9)"
)

TABLE = [
    # -- writing
    Row(
        "write_below_at_and_above_the_mark_unpiped",
        [
            "writes 1-40 -> true, false",
            "a pipe SseStream | stream drain",
            "write 41 -> true | a got :ok 1-40, in order: true",
        ],
    ),
    Row(
        "write_while_the_destination_is_full",
        [
            "a pipe SseStream",
            "writes 1-40 -> true, false",
            "stream drain",
            "a got :ok 1-40, in order: true",
        ],
    ),
    Row(
        "each_drain_lets_one_message_through",
        [
            "a got :ok | a pipe SseStream",
            "write 1 -> true | write 2 -> true | write 3 -> true",
            "a got 1",
            "a got 2",
            "a got 3",
        ],
    ),
    Row(
        "below_the_mark_there_is_no_drain",
        ["write 1 -> true", "a got :ok | a pipe SseStream | a got 1"],
    ),
    Row(
        "writes_from_a_handler",
        [
            "writes 1-40 -> true, false | write 41 -> true | a pipe SseStream | stream drain",
            "a got :ok 1-41, in order: true",
        ],
    ),
    Row(
        "callbacks_come_in_order",
        [
            "a got :ok | a pipe SseStream",
            "a got 1 | a got 2 | a got 3"
            " | callback 1: no error | callback 2: no error | callback 3: no error",
            "a got 4 | a got 5 | callback 4: no error | callback 5: no error",
        ],
    ),
    Row(
        "a_callback_while_nothing_is_piped",
        there=["callback 1: no error", "a got :ok | a pipe SseStream | a got 1"],
        here=["", "a got :ok | a pipe SseStream | a got 1 | callback 1: no error"],
        because="here a callback says that the message was handed on; there it was only copied",
    ),
    Row("a_null_message", ["write throws"]),
    Row(
        "a_bad_message",
        there=["a got :ok | a pipe SseStream", "write throws | write 1 -> true"],
        here=["a got :ok | a pipe SseStream", "write throws | write 1 -> true | a got 1"],
        because="there a message that throws leaves the stream stuck; here nothing was queued",
    ),
    Row(
        "what_a_stream_tells_of_itself",
        [
            "writes 1-40 -> true, false | mark 16, length 0 | nothing | writableNeedDrain"
            " | a pipe SseStream | stream drain",
            "write 41 -> true | a got :ok 1-40, in order: true | nothing | writableEnded"
            " | stream finish",
            "stream end | a end() | a unpipe SseStream | stream close",
            "writableEnded, writableFinished, destroyed",
        ],
    ),
    # -- several destinations
    Row(
        "several_destinations_go_at_the_pace_of_the_slowest",
        [
            "fast got :ok | fast pipe SseStream",
            "slow got :ok | slow pipe SseStream",
            "write 1 -> true | write 2 -> true | write 3 -> true | fast got 1 | slow got 1",
            "fast got 2 | slow got 2",
            "fast got 3 | slow got 3",
        ],
    ),
    Row(
        "two_full_destinations_are_both_waited_for",
        [
            "a got :ok | a pipe SseStream",
            "b got :ok | b pipe SseStream",
            "write 1 -> true | write 2 -> true | a got 1 | b got 1",
            "",
            "a got 2 | b got 2",
        ],
    ),
    Row(
        "unpiping_the_slow_one_lets_the_others_go_on",
        [
            "fast got :ok | fast pipe SseStream",
            "slow got :ok | slow pipe SseStream",
            "write 1 -> true | write 2 -> true | fast got 1 | slow got 1",
            "slow unpipe SseStream | fast got 2",
        ],
    ),
    # -- pipe and unpipe
    Row(
        "the_head_goes_first",
        [
            "write 1 -> true | a writeHead 200 text/event-stream; charset=utf-8 | a flushHeaders"
            " | a got :ok | a pipe SseStream | a got 1"
        ],
    ),
    Row(
        "pipe_to_a_response_that_is_being_sent",
        ["write 1 -> true | pipe throws ERR_HTTP_HEADERS_SENT | piped: false"],
    ),
    Row(
        "pipe_to_another_stream",
        there=["a got :ok | a pipe SseStream", "write 1 -> true | a got "],
        here=["a got :ok | a pipe SseStream", "write 1 -> true | pipe throws TypeError"],
        because="there each chunk of the one is an empty message of the other, and what was written"
        " is lost; here it is refused",
    ),
    Row(
        "pipe_returns_its_destination",
        [
            "a got :ok | a pipe SseStream",
            "pipe gives the destination: true | a unpipe SseStream",
            "unpipe gives the stream: true",
        ],
    ),
    Row(
        "pipe_twice_to_one_destination",
        there=[
            "write 1 -> true | a got :ok | a pipe SseStream | a got :ok | a pipe SseStream"
            " | a got 1\ndata: 1"
        ],
        here=["write 1 -> true | a got :ok | pipe throws StreamError | a pipe SseStream | a got 1"],
        because="there every chunk arrives twice and makes another message; here it is refused",
    ),
    Row(
        "unpipe_and_pipe_again",
        [
            "write 1 -> true | a got :ok | a pipe SseStream | a got 1",
            "write 2 -> true | write 3 -> true | a unpipe SseStream",
            "write 4 -> true | b got :ok | b pipe SseStream | b got 2 | b got 3 | b got 4",
        ],
    ),
    Row(
        "unpipe_all",
        [
            "a got :ok | a pipe SseStream",
            "b got :ok | b pipe SseStream",
            "write 1 -> true | a unpipe SseStream | b unpipe SseStream",
        ],
    ),
    Row("unpipe_what_was_never_piped", []),
    # -- the end
    Row(
        "a_piped_stream_ends",
        there=[
            "write 1 -> true | a got :ok | a pipe SseStream | a got 1",
            "stream end | a end() | a unpipe SseStream | stream finish | stream close",
        ],
        here=[
            "write 1 -> true | a got :ok | a pipe SseStream | a got 1",
            "stream finish | stream end | a end() | a unpipe SseStream | stream close",
        ],
        because=TWO_BUFFERS,
    ),
    Row(
        "pipe_without_end",
        there=[
            "write 1 -> true | a got :ok | a pipe SseStream | a got 1",
            "stream end | a unpipe SseStream | stream finish | stream close",
        ],
        here=[
            "write 1 -> true | a got :ok | a pipe SseStream | a got 1",
            "stream finish | stream end | a unpipe SseStream | stream close",
        ],
        because=TWO_BUFFERS,
    ),
    Row(
        "a_response_ends",
        there=[
            "write 1 -> true | res pipe",
            "stream end | stream finish | res finish | res unpipe | stream close | res close",
            "client got :ok 1 2 | client saw the end: false",
        ],
        here=[
            "write 1 -> true | res pipe",
            "stream finish | stream end | stream close | res finish | res unpipe | res close",
            "client got :ok 1 2 | client saw the end: true",
        ],
        because="Transfer-Encoding: identity (divergence 8) hides the end there; and "
        + TWO_BUFFERS,
    ),
    Row(
        "end_with_messages_queued",
        there=[
            "write 1 -> true | write 2 -> true | stream finish",
            "a got :ok | a pipe SseStream | a got 1 | a got 2 | a got 3"
            " | stream end | a end() | a unpipe SseStream | stream close",
        ],
        here=[
            "write 1 -> true | write 2 -> true",
            "a got :ok | a pipe SseStream | a got 1 | a got 2 | a got 3"
            " | stream finish | stream end | a end() | a unpipe SseStream | stream close",
        ],
        because=TWO_BUFFERS,
    ),
    Row(
        "end_while_the_destination_is_full",
        there=[
            "a got :ok | a pipe SseStream",
            "write 1 -> true | write 2 -> true | stream finish",
            "a got 1",
            "a got 2 | stream end | a end() | a unpipe SseStream | stream close",
        ],
        here=[
            "a got :ok | a pipe SseStream",
            "write 1 -> true | write 2 -> true",
            "a got 1",
            "a got 2 | stream finish",
            "stream end | a end() | a unpipe SseStream | stream close",
        ],
        because="there the end waits for the last drain or not, as the last message left at once"
        " or from a buffer; here it always waits, and " + TWO_BUFFERS,
    ),
    Row(
        "end_twice",
        there=[
            "a got :ok | a pipe SseStream | stream end | a end() | a unpipe SseStream"
            " | stream finish | stream close"
        ],
        here=[
            "a got :ok | a pipe SseStream | stream finish | stream end | a end()"
            " | a unpipe SseStream | stream close"
        ],
        because=TWO_BUFFERS,
    ),
    Row(
        "write_after_end",
        there=[
            "a got :ok | a pipe SseStream",
            "write 1 -> true | write 2 -> true | write 3 -> false | stream finish"
            " | callback 3: ERR_STREAM_WRITE_AFTER_END"
            " | stream error ERR_STREAM_WRITE_AFTER_END | stream close",
        ],
        here=[
            "a got :ok | a pipe SseStream",
            "write 1 -> true | write 2 -> true | write 3 throws ERR_STREAM_WRITE_AFTER_END",
            "a got 1 | a got 2 | stream finish | stream end | a end() | a unpipe SseStream"
            " | stream close",
        ],
        because="there the mistake destroys the stream and what was queued; here whoever makes"
        " it is told",
    ),
    Row(
        "write_after_everything_is_over",
        there=[
            "a got :ok | a pipe SseStream | stream end | a end() | a unpipe SseStream"
            " | stream finish | stream close",
            "write 1 -> false",
        ],
        here=[
            "a got :ok | a pipe SseStream | stream finish | stream end | a end()"
            " | a unpipe SseStream | stream close",
            "write 1 -> false",
        ],
        because=TWO_BUFFERS,
    ),
    Row(
        "what_a_close_handler_has_ended_takes_late_writes",
        ["stream close", "write 1 -> false | callback 1: ERR_STREAM_WRITE_AFTER_END"],
    ),
    Row(
        "a_response_that_a_close_handler_has_ended_takes_late_writes",
        ["res close", "res.write -> false"],
    ),
    Row(
        "handlers_that_take_no_argument",
        [
            "a got :ok | a pipe SseStream",
            "a got 1 | callback 1",
            "a unpipe SseStream | stream error boom | error handler | error handler, once"
            " | stream close",
        ],
    ),
    Row(
        "callbacks_after_unpipe",
        [
            "a got :ok | a pipe SseStream",
            "write 1 -> true | a unpipe SseStream | callback 1: no error",
            "b got :ok | b pipe SseStream | b got 1",
        ],
    ),
    Row(
        "callbacks_of_what_waits_when_it_is_unpiped",
        [
            "a got :ok | a pipe SseStream",
            "write 1 -> true | a got 1",
            "write 2 -> true | a unpipe SseStream | callback 2: no error",
            "write 3 -> true | callback 3: no error",
            "b got :ok | b pipe SseStream | b got 2 | b got 3",
        ],
    ),
    Row(
        "pipe_after_the_end",
        there=[
            "a got :ok | a pipe SseStream | stream end | a end() | a unpipe SseStream"
            " | stream finish | stream close",
            "b got :ok | b pipe SseStream | b end() | b unpipe SseStream",
        ],
        here=[
            "a got :ok | a pipe SseStream | stream finish | stream end | a end()"
            " | a unpipe SseStream | stream close",
            "pipe throws ERR_STREAM_DESTROYED",
        ],
        because="there the second client gets an empty stream; here it is an error",
    ),
    # -- destroy
    Row(
        "destroy_without_an_error",
        there=[
            "a got :ok | a pipe SseStream",
            "writes 1-30 -> true, false",
            "destroyed: true | stream close",
            "write 33 -> false | callback 33: ERR_STREAM_DESTROYED",
        ],
        here=[
            "a got :ok | a pipe SseStream",
            "writes 1-30 -> true, false",
            "destroyed: true | callback 31: ERR_STREAM_DESTROYED"
            " | callback 32: ERR_STREAM_DESTROYED"
            " | a unpipe SseStream | a destroy() | stream close",
            "write 33 -> false | callback 33: ERR_STREAM_DESTROYED",
        ],
        because="there the destination is left open and callbacks are forgotten, which only"
        " a plain Writable calls",
    ),
    Row(
        "destroy_with_an_error",
        there=["writes 1-30 -> true, false | stream error boom | stream close"],
        here=["writes 1-30 -> true, false | callback 31: boom | stream error boom | stream close"],
        because="there callbacks are forgotten, which only a plain Writable calls",
    ),
    Row(
        "the_stream_is_destroyed_under_a_response",
        there=["write 1 -> true | stream close", "client cut off: false"],
        here=[
            "write 1 -> true | res unpipe | res close | stream close",
            "client cut off: true",
        ],
        because="there the client is left waiting for ever; here its connection is cut",
    ),
    Row(
        "the_response_is_destroyed_under_the_stream",
        there=["write 1 -> true | res unpipe | res close", "client cut off: true"],
        here=["write 1 -> true | res unpipe | stream close | res close", "client cut off: true"],
        because="a stream that was made with a request is over with its client",
    ),
    # -- departures
    Row(
        "the_client_leaves",
        there=[
            "write 1 -> true | res unpipe | res close",
            "write 2 -> true | callback 2: no error",
        ],
        here=[
            "write 1 -> true | res unpipe | stream close | res close",
            "write 2 -> false | callback 2: ClientDisconnected",
        ],
        because="there what is written afterwards is kept, for nobody, and without a bound",
    ),
    Row(
        "a_client_leaves_a_stream_of_no_request",
        there=[
            "write 1 -> true | res unpipe | res close",
            "",
            "write 3 -> true | a got :ok | a pipe SseStream | a got 2 | a got 3",
        ],
        here=[
            "write 1 -> true | res unpipe | res close",
            "",
            "write 3 -> true | a got :ok | a pipe SseStream | a got 3 | stream drain",
        ],
        because="what is written while nobody is left is not kept, as nobody may ever come: write()"
        " is false, and a drain follows when somebody comes",
    ),
    Row(
        "one_of_two_clients_leaves",
        [
            "",
            "write 1 -> true | a got :ok | a pipe SseStream | a got 1 | res unpipe | res close",
            "write 2 -> true | a got 2",
        ],
    ),
    Row(
        "a_close_handler_raises",
        there=["first handler | uncaught: boom"],
        here=["stream close | first handler | logged: boom | second handler"],
        because="there the process ends; here it is logged, and the other handlers run",
    ),
    Row(
        "the_response_is_ended_under_the_stream",
        there=["write 1 -> true | res finish | res unpipe | res close", "", "client got :ok 1"],
        here=[
            "write 1 -> true | res finish | res unpipe | stream close | res close",
            "",
            "client got :ok 1",
        ],
        because="a stream that was made with a request is over with its client",
    ),
    Row(
        "the_response_is_ended_and_the_stream_written_to_at_once",
        there=[
            "write 1 -> true",
            "res unpipe | uncaught: ERR_STREAM_WRITE_AFTER_END | res close",
            "client got :ok 1",
        ],
        here=[
            "write 1 -> true",
            "stream error ERR_STREAM_WRITE_AFTER_END | res unpipe | stream close | res close",
            "client got :ok 1",
        ],
        because="there the process ends unless 'error' of the response is handled; here it is"
        " the stream that tells it",
    ),
    # -- destinations that fail
    Row(
        "a_destination_raises",
        there=[
            "bad got :ok | bad pipe SseStream",
            "good got :ok | good pipe SseStream",
            "write 1 throws boom | write 2 -> true",
        ],
        here=[
            "bad got :ok | bad pipe SseStream",
            "good got :ok | good pipe SseStream",
            "write 1 -> true | write 2 -> true | good got 1 | good got 2 | stream error boom"
            " | bad unpipe SseStream",
        ],
        because="there the stream is stuck from then on; here only that destination is let go",
    ),
    Row(
        "a_destination_tells_an_error",
        [
            "bad got :ok | bad pipe SseStream",
            "good got :ok | good pipe SseStream",
            "write 1 -> true | bad unpipe SseStream | good got 1",
        ],
    ),
    Row(
        "a_destination_finishes_by_itself",
        [
            "a got :ok | a pipe SseStream",
            "b got :ok | b pipe SseStream",
            "write 1 -> true | a unpipe SseStream | b got 1",
        ],
    ),
    Row(
        "a_destination_closes_by_itself",
        [
            "a got :ok | a pipe SseStream",
            "b got :ok | b pipe SseStream",
            "write 1 -> true | a unpipe SseStream | b got 1",
        ],
    ),
]


def _sentences(rows: list[Row]) -> list[Any]:
    return [pytest.param(row, id=row.play.replace("_", " ")) for row in rows]


@pytest.fixture(scope="module")
def seen_there(node: str) -> dict[str, list[str]]:
    """What the real package was seen to do, all scenarios in one process."""
    done = subprocess.run(
        [node, str(SCRIPTS / "scenarios.js")], capture_output=True, check=True, timeout=60
    )
    seen: dict[str, list[str]] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("row", _sentences(TABLE))
def test_in_node(row: Row, seen_there: dict[str, list[str]]) -> None:
    assert told(seen_there[row.play]) == row.there


@pytest.fixture(autouse=True)
def nothing_is_said_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are of kinds that a stream warns of, once in a process."""
    monkeypatch.setattr("ssestream.http.diagnosis._warn", lambda text, *args: None)
    monkeypatch.setattr("ssestream.http.body.look_at_server", lambda connection, loop: None)


@pytest.mark.parametrize("row", _sentences(TABLE))
def test_here_on_greenlets(row: Row) -> None:
    stage = Greenlets()
    with stage.listening_to_the_log():
        gevent.spawn(PLAYS[row.play], stage).get()
    assert told(stage.seen) == (row.there if row.here is None else row.here)


@pytest.mark.parametrize("row", _sentences(TABLE))
def test_here_on_threads(row: Row) -> None:
    expected = row.there if row.here is None else row.here
    stage = Threads([step.split(" | ") if step else [] for step in expected])
    with stage.listening_to_the_log():
        PLAYS[row.play](stage)
    assert [sorted(step.split(" | ")) for step in told(stage.seen)] == [
        sorted(step.split(" | ")) for step in expected
    ]


def test_every_scenario_is_in_the_table_once(seen_there: dict[str, list[str]]) -> None:
    rows = sorted(row.play for row in TABLE)
    assert rows == sorted(PLAYS) == sorted(seen_there)


def test_every_difference_has_a_reason() -> None:
    for row in TABLE:
        assert (row.here is None) == (not row.because), row.play
        assert row.here != row.there, row.play


# -- the scenarios, as in scenarios.js


@play
def write_below_at_and_above_the_mark_unpiped(stage: Stage) -> None:
    sse = stage.stream()
    stage.write_many(sse, 1, 40)
    stage.settle()
    a = stage.piped(sse, "a", quiet=True)
    stage.got_many(a, 40)
    stage.write(sse, 41)
    stage.settle()


@play
def write_while_the_destination_is_full(stage: Stage) -> None:
    sse = stage.stream()
    a = stage.piped(sse, "a", quiet=True, full=True)
    stage.write_many(sse, 1, 40)
    stage.settle()
    a.drain()
    stage.settle()
    stage.got_many(a, 40)


@play
def each_drain_lets_one_message_through(stage: Stage) -> None:
    sse = stage.stream()
    a = stage.piped(sse, "a", full=True)
    for n in (1, 2, 3):
        stage.write(sse, n)
    stage.settle()
    for _ in range(4):
        a.drain(full=True)
        stage.settle()


@play
def below_the_mark_there_is_no_drain(stage: Stage) -> None:
    sse = stage.stream()
    stage.write(sse, 1)
    stage.settle()
    stage.piped(sse, "a")


@play
def a_piped_stream_ends(stage: Stage) -> None:
    sse = stage.stream()
    sse.pipe(Tap(stage, "a"))
    stage.write(sse, 1)
    stage.settle()
    sse.end()
    stage.settle()


@play
def a_response_ends(stage: Stage) -> None:
    with stage.exchange() as client:
        sse = stage.stream(client.request)
        stage.watch(client.res, "res", "pipe", "unpipe", "finish", "close")
        sse.pipe(client.res)
        client.serve()
        stage.write(sse, 1)
        stage.settle()
        sse.end(data(2))
        stage.until(lambda: client.ended)
        stage.settle()
        client.received()
        stage.see(f"client saw the end: {str(client.ended).lower()}")


@play
def end_with_messages_queued(stage: Stage) -> None:
    sse = stage.stream()
    for n in (1, 2):
        stage.write(sse, n)
    sse.end(data(3))
    stage.settle()
    stage.piped(sse, "a")


@play
def end_while_the_destination_is_full(stage: Stage) -> None:
    sse = stage.stream()
    a = stage.piped(sse, "a", full=True)
    for n in (1, 2):
        stage.write(sse, n)
    sse.end()
    stage.settle()
    for _ in range(3):
        a.drain(full=True)
        stage.settle()


@play
def end_twice(stage: Stage) -> None:
    sse = stage.stream()
    sse.pipe(Tap(stage, "a"))
    sse.end()
    sse.end()
    stage.settle()
    sse.end()
    stage.settle()


@play
def write_after_end(stage: Stage) -> None:
    sse = stage.stream()
    a = stage.piped(sse, "a", full=True)
    for n in (1, 2):
        stage.write(sse, n)
    sse.end()
    with stage.throwing("write 3"):
        stage.write(sse, 3, stage.heard(3))
    stage.settle()
    a.drain()
    stage.settle()


@play
def write_after_everything_is_over(stage: Stage) -> None:
    sse = stage.stream()
    sse.pipe(Tap(stage, "a"))
    sse.end()
    stage.settle()
    with stage.throwing("write 1"):
        stage.write(sse, 1)
    stage.settle()


@play
def what_a_close_handler_has_ended_takes_late_writes(stage: Stage) -> None:
    sse = stage.stream()
    sse.on("close", lambda: sse.end())
    sse.destroy()
    stage.settle()
    stage.write(sse, 1, stage.heard(1))
    stage.settle()


@play
def a_response_that_a_close_handler_has_ended_takes_late_writes(stage: Stage) -> None:
    with stage.exchange() as client:
        res = client.res
        stage.watch(res, "res", "error")

        @res.on("close")
        def closed() -> None:
            stage.see("res close")
            res.end()

        client.serve()
        res.write("x")
        stage.until(lambda: "x" in client.text)
        client.leave()
        stage.closed()
        stage.see(f"res.write -> {str(res.write('y')).lower()}")
        res.end("z")
        stage.settle()


@play
def handlers_that_take_no_argument(stage: Stage) -> None:
    sse = stage.stream()
    sse.on("error", lambda: stage.see("error handler"))
    sse.once("error", lambda: stage.see("error handler, once"))
    stage.piped(sse, "a")
    sse.write(data(1), lambda: stage.see("callback 1"))  # type: ignore[arg-type]
    stage.settle()
    sse.unpipe()
    sse.destroy(Exception("boom"))
    stage.settle()


@play
def callbacks_after_unpipe(stage: Stage) -> None:
    sse = stage.stream()
    a = stage.piped(sse, "a")
    sse.unpipe(a)
    stage.write(sse, 1, stage.heard(1))
    stage.settle()
    stage.piped(sse, "b")


@play
def callbacks_of_what_waits_when_it_is_unpiped(stage: Stage) -> None:
    sse = stage.stream()
    a = stage.piped(sse, "a")
    a.full = True
    stage.write(sse, 1)
    stage.settle()
    stage.write(sse, 2, stage.heard(2))
    sse.unpipe(a)
    stage.settle()
    stage.write(sse, 3, stage.heard(3))
    stage.settle()
    stage.piped(sse, "b")


@play
def several_destinations_go_at_the_pace_of_the_slowest(stage: Stage) -> None:
    sse = stage.stream()
    slow = Tap(stage, "slow")
    stage.piped(sse, "fast")
    sse.pipe(slow)
    stage.settle()
    slow.full = True
    for n in (1, 2, 3):
        stage.write(sse, n)
    stage.settle()
    slow.drain(full=True)
    stage.settle()
    slow.drain()
    stage.settle()


@play
def two_full_destinations_are_both_waited_for(stage: Stage) -> None:
    sse = stage.stream()
    a, b = Tap(stage, "a"), Tap(stage, "b")
    sse.pipe(a)
    stage.settle()
    sse.pipe(b)
    stage.settle()
    a.full = b.full = True
    for n in (1, 2):
        stage.write(sse, n)
    stage.settle()
    a.drain()
    stage.settle()
    b.drain()
    stage.settle()


@play
def unpiping_the_slow_one_lets_the_others_go_on(stage: Stage) -> None:
    sse = stage.stream()
    slow = Tap(stage, "slow")
    stage.piped(sse, "fast")
    sse.pipe(slow)
    stage.settle()
    slow.full = True
    for n in (1, 2):
        stage.write(sse, n)
    stage.settle()
    sse.unpipe(slow)
    stage.settle()


@play
def unpipe_and_pipe_again(stage: Stage) -> None:
    sse = stage.stream()
    a = Tap(stage, "a")
    sse.pipe(a)
    stage.write(sse, 1)
    stage.settle()
    sse.unpipe(a)
    for n in (2, 3):
        stage.write(sse, n)
    stage.settle()
    sse.pipe(Tap(stage, "b"))
    stage.write(sse, 4)
    stage.settle()


@play
def unpipe_all(stage: Stage) -> None:
    sse = stage.stream()
    stage.piped(sse, "a")
    stage.piped(sse, "b")
    sse.unpipe()
    stage.write(sse, 1)
    stage.settle()


@play
def unpipe_what_was_never_piped(stage: Stage) -> None:
    sse = stage.stream()
    sse.unpipe()
    sse.unpipe(Tap(stage, "a"))
    stage.settle()


@play
def pipe_without_end(stage: Stage) -> None:
    sse = stage.stream()
    sse.pipe(Tap(stage, "a"), end=False)
    stage.write(sse, 1)
    stage.settle()
    sse.end()
    stage.settle()


@play
def pipe_returns_its_destination(stage: Stage) -> None:
    sse = stage.stream()
    a = Tap(stage, "a")
    piped = sse.pipe(a)
    stage.settle()
    stage.see(f"pipe gives the destination: {str(piped is a).lower()}")
    unpiped = sse.unpipe(a)
    stage.settle()
    stage.see(f"unpipe gives the stream: {str(unpiped is sse).lower()}")
    stage.settle()


@play
def pipe_twice_to_one_destination(stage: Stage) -> None:
    sse = stage.stream()
    a = Tap(stage, "a")
    sse.pipe(a)
    with stage.throwing("pipe"):
        sse.pipe(a)
    stage.write(sse, 1)
    stage.settle()


@play
def pipe_after_the_end(stage: Stage) -> None:
    sse = stage.stream()
    sse.pipe(Tap(stage, "a"))
    sse.end()
    stage.settle()
    with stage.throwing("pipe"):
        sse.pipe(Tap(stage, "b"))
    stage.settle()


@play
def the_head_goes_first(stage: Stage) -> None:
    sse = stage.stream()
    a: Any = Tap(stage, "a")
    a.write_head = lambda status, headers: stage.see(
        f"a writeHead {status} {headers['Content-Type']}"
    )
    a.flush_headers = lambda: stage.see("a flushHeaders")
    stage.write(sse, 1)
    sse.pipe(a)
    stage.settle()


@play
def pipe_to_a_response_that_is_being_sent(stage: Stage) -> None:
    with stage.exchange() as client:
        sse = stage.stream(client.request)
        client.res.write("x")
        client.serve()
        with stage.throwing("pipe"):
            sse.pipe(client.res)
        stage.write(sse, 1)
        stage.see(f"piped: {str(sse.writable_length == 0).lower()}")


@play
def pipe_to_another_stream(stage: Stage) -> None:
    sse, other = stage.stream(), SseStream()
    stage.piped(other, "a")
    try:
        sse.pipe(other)
    except TypeError:
        stage.see("pipe throws TypeError")
    stage.write(sse, 1)
    stage.settle()


@play
def callbacks_come_in_order(stage: Stage) -> None:
    sse = stage.stream()
    stage.piped(sse, "a")
    for n in (1, 2, 3):
        sse.write(data(n), stage.heard(n))
    stage.settle()
    sse.write(data(4), "utf-8", stage.heard(4))
    sse.write_message(data(5), "utf-8", stage.heard(5))
    stage.settle()


@play
def a_callback_while_nothing_is_piped(stage: Stage) -> None:
    sse = stage.stream()
    sse.write(data(1), stage.heard(1))
    stage.settle()
    stage.piped(sse, "a")


@play
def destroy_without_an_error(stage: Stage) -> None:
    sse = stage.stream()
    a: Any = Tap(stage, "a")
    a.full = True
    a.destroy = lambda: stage.see("a destroy()")
    sse.pipe(a)
    stage.settle()
    stage.write_many(sse, 1, 30)
    for n in (31, 32):
        sse.write(data(n), stage.heard(n))
    stage.settle()
    sse.destroy()
    stage.see(f"destroyed: {str(sse.destroyed).lower()}")
    stage.settle()
    a.drain()
    stage.write(sse, 33, stage.heard(33))
    stage.settle()


@play
def destroy_with_an_error(stage: Stage) -> None:
    sse = stage.stream()
    stage.write_many(sse, 1, 30)
    sse.write(data(31), stage.heard(31))
    sse.destroy(Exception("boom"))
    sse.destroy(Exception("again"))
    stage.settle()
    sse.end()
    stage.settle()


@play
def the_stream_is_destroyed_under_a_response(stage: Stage) -> None:
    with stage.exchange() as client:
        sse = stage.stream(client.request)
        stage.watch(client.res, "res", "unpipe", "finish", "close")
        sse.pipe(client.res)
        client.serve()
        stage.delivered(sse, client)
        sse.destroy()
        stage.settle()
        client.cut_off()


@play
def the_response_is_destroyed_under_the_stream(stage: Stage) -> None:
    with stage.exchange() as client:
        sse = stage.stream(client.request)
        stage.watch(client.res, "res", "unpipe", "finish", "close")
        sse.pipe(client.res)
        client.serve()
        stage.delivered(sse, client)
        client.res.destroy()
        stage.settle()
        client.cut_off()


@play
def the_client_leaves(stage: Stage) -> None:
    with stage.exchange() as client:
        sse = stage.stream(client.request)
        stage.watch(client.res, "res", "unpipe", "finish")
        sse.pipe(client.res)

        @client.res.on("close")
        def closed() -> None:
            stage.see("res close")
            sse.unpipe(client.res)

        client.serve()
        stage.delivered(sse, client)
        client.leave()
        stage.closed()
        stage.write(sse, 2, stage.heard(2))
        stage.settle()


@play
def a_client_leaves_a_stream_of_no_request(stage: Stage) -> None:
    sse = stage.stream()
    with stage.exchange() as client:
        stage.watch(client.res, "res", "unpipe", "finish", "close")
        sse.pipe(client.res)
        client.serve()
        stage.delivered(sse, client)
        client.leave()
        stage.closed()
        sse.write(data(2))
        stage.settle()
        sse.pipe(Tap(stage, "a"))
        stage.write(sse, 3)
        stage.settle()


@play
def one_of_two_clients_leaves(stage: Stage) -> None:
    sse = stage.stream()
    with stage.exchange() as client:
        stage.watch(client.res, "res", "unpipe", "close")
        sse.pipe(client.res)
        stage.settle()
        sse.pipe(Tap(stage, "a"))
        client.serve()
        stage.delivered(sse, client)
        client.leave()
        stage.closed()
        stage.write(sse, 2)
        stage.settle()


@play
def the_response_is_ended_under_the_stream(stage: Stage) -> None:
    with stage.exchange() as client:
        sse = stage.stream(client.request)
        stage.watch(client.res, "res", "unpipe", "finish", "close")
        sse.pipe(client.res)
        client.serve()
        stage.delivered(sse, client)
        client.res.end()
        stage.closed()
        sse.write(data(2))
        stage.settle()
        client.received()


@play
def the_response_is_ended_and_the_stream_written_to_at_once(stage: Stage) -> None:
    with stage.exchange() as client:
        sse = stage.stream(client.request)
        stage.watch(client.res, "res", "unpipe", "close")
        sse.pipe(client.res)
        client.serve()
        stage.delivered(sse, client)
        stage.settle()
        client.res.end()
        sse.write(data(2))
        stage.closed()
        client.received()


@play
def a_close_handler_raises(stage: Stage) -> None:
    with stage.exchange() as client:
        sse = stage.stream(client.request)
        sse.pipe(client.res)

        @client.res.on("close")
        def first() -> None:
            stage.see("first handler")
            raise Exception("boom")

        client.res.on("close", lambda: stage.see("second handler"))
        client.serve()
        stage.until(lambda: client.text)
        client.leave()
        stage.until(lambda: "first handler" in stage.seen)
        stage.settle()


@play
def a_destination_raises(stage: Stage) -> None:
    sse = stage.stream()
    bad: Any = stage.piped(sse, "bad")
    stage.piped(sse, "good")

    def fail(chunk: bytes) -> bool:
        raise Exception("boom")

    bad.write = fail
    for n in (1, 2):
        stage.write(sse, n)
    stage.settle()


@play
def a_destination_tells_an_error(stage: Stage) -> None:
    sse = stage.stream()
    bad = Tap(stage, "bad")
    bad.on("error", lambda error: None)
    sse.pipe(bad)
    stage.settle()
    stage.piped(sse, "good")
    bad.emit("error", Exception("boom"))
    stage.write(sse, 1)
    stage.settle()


@play
def a_destination_finishes_by_itself(stage: Stage) -> None:
    sse = stage.stream()
    a = stage.piped(sse, "a")
    stage.piped(sse, "b")
    a.emit("finish")
    stage.write(sse, 1)
    stage.settle()


@play
def a_destination_closes_by_itself(stage: Stage) -> None:
    sse = stage.stream()
    a = stage.piped(sse, "a")
    stage.piped(sse, "b")
    a.emit("close")
    stage.write(sse, 1)
    stage.settle()


@play
def a_bad_message(stage: Stage) -> None:
    sse = stage.stream()
    stage.piped(sse, "a")
    try:
        sse.write({"data": object()})
    except MessageError:
        stage.see("write throws")
    stage.write(sse, 1)
    stage.settle()


@play
def a_null_message(stage: Stage) -> None:
    sse = stage.stream()
    try:
        nothing: Any = None
        sse.write(nothing)
    except MessageError:
        stage.see("write throws")
    stage.settle()


@play
def writes_from_a_handler(stage: Stage) -> None:
    sse = stage.stream()
    sse.on("drain", lambda: stage.write(sse, 41))
    stage.write_many(sse, 1, 40)
    a = stage.piped(sse, "a", quiet=True)
    stage.got_many(a, 41)


@play
def what_a_stream_tells_of_itself(stage: Stage) -> None:
    sse = stage.stream()

    def state() -> None:
        stage.see(
            ", ".join(
                node_name
                for node_name, is_so in (
                    ("writableEnded", sse.writable_ended),
                    ("writableFinished", sse.writable_finished),
                    ("destroyed", sse.destroyed),
                    ("writableNeedDrain", sse.writable_need_drain),
                )
                if is_so
            )
            or "nothing"
        )

    stage.see(f"mark {sse.writable_high_water_mark}, length {sse.writable_length}")
    state()
    stage.write_many(sse, 1, 40)
    state()
    a = stage.piped(sse, "a", quiet=True)
    stage.got_many(a, 40)
    state()
    a.full = True
    stage.write(sse, 41)
    sse.end()
    state()
    stage.settle()
    a.drain()
    stage.settle()
    state()
