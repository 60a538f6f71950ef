"""`stream`: a client of an event stream, as a browser is one, for tests."""

import json as json_module
import ssl
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple

from werkzeug.datastructures import Headers

from ..runtime.uncopyable import Uncopyable
from ..wire import Decoder
from . import clock as clock_room
from .by_url import Asked, ByUrl
from .in_process import InProcess, Served
from .question import Question
from .waiting import PATIENCE, wait_until

#: Milliseconds until a browser comes back, if the server has given no ``retry``. It is Chromium's.
RETRY = 3000

#: Characters of a body that an error shows.
SHOWN = 200


class WaitedInVain(AssertionError):
    """A wait of a test has met its deadline. The text says what came instead."""


class Event(NamedTuple):
    """An event, as a page gets it."""

    #: The text of the event.
    data: str
    #: The type of the event.
    event: str = "message"
    #: The client's last id at the time of the event: its own id, or the id of an earlier event.
    id: str = ""

    def json(self) -> Any:
        """The value of *data*, which is JSON."""
        return json_module.loads(self.data)


class Events(Uncopyable):
    """A client of one response. `stream` makes it.

    It reads as a browser does: an event needs ``data``, and an ``id`` holds until another comes.
    Every wait has a deadline of *timeout* seconds, which no stopped clock moves. A wait that meets
    it raises `WaitedInVain`. The next wait raises an exception that the app has raised outside of
    its handlers.
    """

    _only_one = "it reads the response of one request. Ask again with stream()"

    def __init__(self, source: InProcess | ByUrl, name: str, last_id: str, timeout: float) -> None:
        self._source, self._name, self._timeout = source, name, timeout
        #: The id of the last event. `reconnect` sends it.
        self.last_event_id = last_id
        #: The last ``retry``, in milliseconds; None if there was none.
        self.retry: int | None = None
        #: The texts of all comments. The first is the ``ok`` of a stream that is piped.
        self.comments: list[str] = []
        self._events: deque[Event] = deque()
        self._number = 0
        self._newest: Event | None = None
        self._heartbeats = 0
        self._is_raised = False
        self._is_stream = False
        self._head = 0, Headers()
        # Whether this client has left, and how the response was then.
        self._has_left = False
        self._ended_before: Literal["clean", "cut"] | None = None
        self._connect()

    # -- the response

    @property
    def status(self) -> int:
        """The status, such as 200."""
        return self._head[0]

    @property
    def headers(self) -> Headers:
        """The headers."""
        return self._head[1]

    @property
    def heartbeats(self) -> int:
        """The number of heartbeats so far."""
        self._read()
        return self._heartbeats + self._decoder.heartbeats

    @property
    def ended(self) -> Literal["clean", "cut"] | None:
        """How the response ended. None while it is open.

        ``"clean"``: the server has ended it, as after ``end()``. ``"cut"``: it broke off, as after
        ``destroy()``. After this client has left, it says how the response was then.
        """
        self._read()
        return self._ending

    @property
    def text(self) -> str:
        """The body of a response that is no event stream. Waits for its end.

        Raises `WaitedInVain` for an event stream.
        """
        if self._is_stream:
            raise WaitedInVain(f"{self._name}: it is an event stream; take its events")
        self._wait(lambda: self.ended, self._timeout, "the end of the body")
        return self._body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The value of `text`, which is JSON."""
        return json_module.loads(self.text)

    # -- the events

    def next(self, timeout: float | None = None) -> Event:
        """The next event. Waits for it for at most *timeout* seconds; None is the default."""
        return self.take(1, timeout)[0]

    def take(self, number: int, timeout: float | None = None) -> list[Event]:
        """The next *number* events, in at most *timeout* seconds together."""
        what = "an event" if number == 1 else f"{number} events"
        self._wait_for_events(lambda: len(self._events) >= number, timeout, what)
        return [self._events.popleft() for _ in range(number)]

    def until(
        self, condition: Callable[[Event], object], timeout: float | None = None
    ) -> list[Event]:
        """The next events up to the first one that *condition* is true for, which is the last."""
        taken: list[Event] = []

        def is_met() -> bool:
            while self._events:
                taken.append(self._events.popleft())
                if condition(taken[-1]):
                    return True
            return False

        try:
            self._wait_for_events(is_met, timeout, "an event that fits")
        except BaseException:
            self._events.extendleft(reversed(taken))
            raise
        return taken

    def rest(self, timeout: float | None = None) -> list[Event]:
        """The events up to the end of the response."""
        self._check_stream()
        seconds = self._timeout if timeout is None else timeout
        self._wait(lambda: self._asked.ended, seconds, "the end of the stream")
        return self.pending()

    def pending(self) -> list[Event]:
        """The events that have come and were not taken. Never waits."""
        self._read()
        events = list(self._events)
        self._events.clear()
        return events

    # -- the acts of a client

    def stall(self) -> None:
        """Read nothing more, as a client that is stuck. `resume` reads on."""
        self._read()
        self._asked.stall(True)
        self._read()

    def resume(self) -> None:
        """Read on after `stall`."""
        self._asked.stall(False)

    def reconnect(self) -> None:
        """Leave, and come back as a browser does: with the last id, and with the cookies.

        If a clock of `stopped_clock` is running, it advances by ``retry``, or by 3 s if there was
        none. Else the client comes back at once. Events that were not taken stay. Raises
        `WaitedInVain` if a browser would not come back: after another status than 200, and after a
        response that is no event stream.
        """
        if not self._is_stream:
            raise WaitedInVain(f"{self._describe()} A browser does not come back.")
        self.close()
        self._heartbeats += self._decoder.heartbeats
        clock = clock_room.running()
        if clock is not None:
            clock.advance((RETRY if self.retry is None else self.retry) / 1000)
        self._connect()

    def close(self) -> None:
        """Leave. In this process, the handlers of ``"close"`` have run when this returns."""
        self._read()
        asked = self._asked
        if not self._has_left:
            self._ended_before, self._has_left = asked.ended, True
        asked.leave()
        if not wait_until(lambda: asked.is_over, max(self._timeout, PATIENCE)):
            raise WaitedInVain(
                f"{self._name}: its client has left, and the app has not ended the response: it is"
                " a generator that waits, or a handler of 'close' has not returned"
            )
        self._raise_error()

    def __enter__(self) -> "Events":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except BaseException:
            if error is None:
                raise

    def __repr__(self) -> str:
        return f"<Events: {self._describe()}>"

    # -- the insides

    def _connect(self) -> None:
        self._decoder = Decoder()
        self._body = bytearray()
        self._gzip: Any = None
        self._has_left, self._ended_before = False, None
        self._asked: Served | Asked = self._source.ask(self.last_event_id)
        asked = self._asked
        arrived = wait_until(lambda: asked.head or asked.ended, self._timeout)
        if asked.head is None:
            asked.leave()
            self._raise_error()
            if arrived:
                raise WaitedInVain(f"{self._name} was not answered: the connection was closed")
            raise WaitedInVain(
                f"{self._name} was not answered within {self._timeout:g} s. A stream sends its"
                " status with its first bytes: has the view returned, and is the stream piped?"
            )
        self._head = asked.head
        self._is_stream = self.status == 200 and _mimetype(self.headers) == "text/event-stream"
        if self.headers.get("Content-Encoding") == "gzip":
            self._gzip = zlib.decompressobj(31)

    @property
    def _ending(self) -> Literal["clean", "cut"] | None:
        return self._ended_before if self._has_left else self._asked.ended

    def _read(self) -> None:
        """Take all that has come."""
        data = self._asked.take()
        if self._gzip is not None:
            data = self._gzip.decompress(data)
        if not self._is_stream:
            self._body += data
            return
        for message in self._decoder.feed(data):
            if "comment" in message:
                self.comments.append(str(message["comment"]))
            if "retry" in message:
                self.retry = int(message["retry"])
            self.last_event_id = str(message.get("id", self.last_event_id))
            if "data" in message:
                kind = str(message.get("event", "message"))
                self._newest = Event(str(message["data"]), kind, self.last_event_id)
                self._events.append(self._newest)
                self._number += 1

    def _wait_for_events(
        self, is_met: Callable[[], object], timeout: float | None, what: str
    ) -> None:
        self._check_stream()
        seconds = self._timeout if timeout is None else timeout
        self._wait(is_met, seconds, what, until_end=True)

    def _wait(
        self, is_met: Callable[[], object], seconds: float, what: str, until_end: bool = False
    ) -> None:
        met: list[bool] = []

        def look() -> bool:
            # Look for the end before reading, so that all that came before the end is read.
            is_over = self._asked.ended is not None
            self._read()
            if is_met():
                met.append(True)
            return bool(met) or (until_end and is_over)

        was_late = not wait_until(look, seconds)
        if met:
            return
        self._raise_error()
        when = f"within {seconds:g} s" if was_late else "before its end"
        raise WaitedInVain(f"{what} did not come {when}. {self._describe()}")

    def _check_stream(self) -> None:
        if not self._is_stream:
            wait_until(lambda: self.ended, PATIENCE)
            raise WaitedInVain(self._describe())

    def _raise_error(self) -> None:
        error = self._asked.error
        if error is not None and not self._is_raised:
            self._is_raised = True
            raise error

    def _describe(self) -> str:
        self._read()
        if not self._is_stream:
            to = f" to {self.headers['Location']}" if "Location" in self.headers else ""
            body = self._body.decode("utf-8", "replace")
            shown = body if len(body) <= SHOWN else body[:SHOWN] + "..."
            return (
                f"{self._name} was answered with {self.status}{to} and"
                f" {_mimetype(self.headers) or 'no type'}, which is no event stream: {shown!r}."
            )
        ended = {None: "is open", "clean": "has ended", "cut": "was cut"}[self._ending]
        if self._has_left and self._ending is None:
            ended = "was left by this client"
        parts = [f"events so far: {self._number}"]
        if self._newest is not None:
            parts.append(f"the last one: {self._newest}")
        if self._events:
            parts.append(f"not taken: {list(self._events)[:5]}")
        parts.append(f"heartbeats: {self._heartbeats + self._decoder.heartbeats}")
        parts.append(f"comments: {self.comments[-5:]}")
        stalled = "; this client is stalled" if self._asked.is_stalled else ""
        return f"{self._name} {ended}: {'; '.join(parts)}{stalled}."


def _mimetype(headers: Headers) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def stream(
    app: Any,
    path: str = "",
    *,
    last_event_id: str = "",
    method: str | None = None,
    json: Any = None,
    data: Any = None,
    query_string: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,
    ssl_context: ssl.SSLContext | None = None,
) -> Events:
    """Ask *app* for an event stream, and return a client that reads it.

    *app* is a Flask app or any other WSGI app, a test client of Flask or Werkzeug, for its cookies
    and its session, or the URL of a server that runs. *path* is the path of the view, with its
    query if it has one. After a URL it may be left out.

    *last_event_id* is the id that the client goes on from. *method* is GET, or POST if there is
    *json* or *data*: the value that is sent as JSON, or the form, bytes or text, as Werkzeug's
    ``EnvironBuilder`` takes them, as it takes *query_string*. *headers* replace those of the same
    name. *timeout* is the deadline of each wait in seconds. *ssl_context* is for ``https://``.

    Use the client in a ``with`` block: its end is the departure of the client. Returns when the
    status and the headers have come. Raises `WaitedInVain` if they do not come in time,
    ``TypeError`` or ``ValueError`` for another *app*, ``OSError`` if there is no server, and what
    the view raises if the app does not make a response of it, as with ``TESTING``.
    """
    if isinstance(app, str):
        base, question = _split(app, path)
        path = question
    asked = Question(path or "/", method, json, data, query_string, dict(headers or {}))
    source = ByUrl(base, asked, ssl_context) if isinstance(app, str) else InProcess(app, asked)
    return Events(source, asked.name, last_event_id, timeout)


def _split(url: str, path: str) -> tuple[str, str]:
    """The URL of the server, and the path of the view on it."""
    scheme, _, rest = url.partition("://")
    host, slash, below = rest.partition("/")
    return f"{scheme}://{host}", (slash + below).rstrip("/" if path else "") + path
