"""ServerResponse: Node's ``res`` as a Flask response.

A view makes a `ServerResponse`, writes to it or pipes a stream into it (now, or later
from a timer) and returns it. For Flask it is an ordinary response: cookies, the session and
``after_request`` work as always.

Flask's ``make_response`` turns a response of another class into the app's own class: it assigns
``__class__``. `ServerResponse.__class__` catches the assignment and sets a class that is both.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import flask
import werkzeug
from werkzeug.datastructures import Headers
from werkzeug.wsgi import ClosingIterator

from .config import app_settings, client_of, of_request
from .errors import HeadersSent
from .express import OK, Express
from .http import discarded, kept_heads, unanswered
from .http.async_view import note_loop
from .http.body import Body
from .http.checked_headers import CheckedHeaders, check_status, checked, grouped
from .http.compression import accepts_gzip
from .http.connection import Connection, has_connection
from .http.diagnosis import never_piped
from .http.headfirst import HeadFirst, is_of_server
from .http.kept_heads import STREAM, UNCOMPRESSED
from .http.origin import call_queue_of
from .http.outgoing import HIGH_WATER_MARK, OutgoingMessage
from .http.output import OutputBuffer
from .http.slow_view import UnreturnedBuffer, returned
from .http.view import current_request
from .plain import shortened
from .runtime.callables import check_callable
from .wire import HEADERS

if TYPE_CHECKING:
    from typing_extensions import Self

#: The key of a list in the environ. A server that sets it flushes the heads of the listed
#: responses itself, when it has the body: only then does it know whether the connection ends
#: with the body.
FLUSH_LATER = "ssestream.flush_later"

# A shared empty list, to which nothing may be appended.
_NONE: Any = ()


def _become(response: Any, response_class: Any) -> None:
    """Set the class of *response*; for ``response.__class__ = response_class``."""
    if not issubclass(response_class, ServerResponse):
        own: Any = type(response)
        response_class = _both(own, response_class)
    object.__dict__["__class__"].__set__(response, response_class)


class ServerResponse(Express, OutgoingMessage, flask.Response):  # type: ignore[misc]
    """A Flask response that a view returns and goes on writing to.

    *status* is an int such as 200 or a str such as ``"200 OK"``. *headers* is a
    mapping or pairs; None adds none. *high_water_mark* is the number of bytes that may
    wait before `write` returns False.

    Emits ``close`` exactly once, for every cause (the client has left, the response is
    finished, an error). If everything was sent, ``finish`` comes before it. Also emits
    ``drain``, ``pipe``, ``unpipe`` and ``error``. Handlers run outside the request
    context.

    A stream (``text/event-stream``) gets the headers that stop proxies and compressors
    from buffering it, unless the app has set others. Hop-by-hop headers such as
    ``Connection`` are left out: PEP 3333 forbids them, but Express code often sets them.

    Raises ``TypeError`` for a *high_water_mark* that is no int, ``ValueError`` for one
    below 1, and for *status* and *headers* as `write_head`. Node's
    ``http.ServerResponse``.
    """

    _only_one = "it goes to one client while it is written to. Let no cache or task queue have it"

    __slots__ = ("_flush", "_headers", "_lent")

    # Not __setattr__, because this would run for each of forty attributes.
    __class__: Any = property(type, _become)

    def __init__(
        self,
        status: int | str = 200,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        *,
        high_water_mark: int = HIGH_WATER_MARK,
    ) -> None:
        if not isinstance(high_water_mark, int) or isinstance(high_water_mark, bool):
            raise TypeError(f"high_water_mark is an int of bytes, not {shortened(high_water_mark)}")
        if high_water_mark < 1:
            raise ValueError(f"high_water_mark must be at least 1, and is {high_water_mark}")
        environ = call_queue = None
        if flask.has_request_context():
            environ = current_request().environ
            call_queue = call_queue_of(environ)
        buffer = OutputBuffer if call_queue is None else UnreturnedBuffer
        OutgoingMessage.__init__(self, call_queue, high_water_mark, buffer)
        # Whether `_headers` is shared with other responses and must be copied before a change.
        self._lent = False
        own: Any = type(self)
        self._headers = kept_heads.beginning(own)
        # With direct_passthrough nobody collects the endless body, for example to make an ETag
        # of it.
        flask.Response.__init__(self, self._body, OK, self._headers, direct_passthrough=True)
        self._lent = True
        self._on_close = _NONE
        self._flush = False
        if type(status) is not int or status != 200 or headers is not None:
            self.write_head(status, headers)
        if environ is not None:
            note_loop(environ)
            discarded.made(environ, self)

    # -- status and headers

    @property
    def headers(self) -> Headers:
        """The headers. They may be changed until they are sent."""
        # Copied only when needed: most streams share the same headers, and a copy costs more
        # time than sending them.
        if self._lent:
            self._headers, self._lent = self._headers.copy(), False
        return self._headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        if not isinstance(headers, CheckedHeaders):
            headers = CheckedHeaders(headers)
        self._headers, self._lent = headers, False

    def header(self, name: str | Mapping[str, Any], value: Any = None) -> "Self":
        """Set one header, or several from a mapping. Express's ``res.header``.

        *value* is a str, an int, or a list of them for a header with several lines.
        Returns the response. Raises `HeadersSent` if the headers were sent already,
        ``TypeError`` for a value of another type, and ``ValueError`` for a value with a
        control character or a character beyond Latin-1. `headers` refuses the same.
        """
        self._check_unsent(f"header({name!r}, ...)")
        self._set_all(checked(name.items() if isinstance(name, Mapping) else [(name, value)]))
        return self

    def write_head(
        self,
        status: int | str,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    ) -> "Self":
        """Set the status, and add *headers* to the headers that are set already.

        A header of the same name is replaced. None adds none. Returns the response.
        Raises `HeadersSent` if the headers were sent already, and ``TypeError`` or
        ``ValueError`` for a *status* that is none; for *headers* as `header`. An enum such
        as ``HTTPStatus`` counts as its number. Node's ``response.writeHead``.
        """
        self._check_unsent("write_head() or status()")
        if headers is HEADERS and status == 200:
            # The call of SseStream.pipe(): its headers need no check.
            if self._status_line != OK:
                self.status = OK
            if self._lent:
                self._headers = STREAM
                return self
            for name, value in HEADERS.items():
                self._headers[name] = value
            return self
        line = check_status(status)
        all_headers = [] if headers is None else checked(grouped(headers).items())
        self.status = line
        self._set_all(all_headers)
        return self

    def _set_all(self, headers: list[tuple[str, list[str]]]) -> None:
        for name, texts in headers:
            self.headers.setlist(name, texts)

    def flush_headers(self) -> None:
        """Send the head as soon as the view has returned, before there is a body.

        Node's ``response.flushHeaders``.
        """
        self._flush = True

    # -- methods that Werkzeug and the server call

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.headers_sent:
            raise HeadersSent("a ServerResponse answers one request; this one was sent already")
        returned(self._body.buffer)
        settings, client = None, None
        try:
            if self._is_stream():
                settings = of_request(self._body.settings or app_settings(), environ)
                client = client_of(environ, settings)
                if settings.compress:
                    self._compress(environ)
            body, status, headers = self.get_wsgi_response(environ)
            had_stream = has_connection(environ)
            connection = Connection.of(environ)
            write = start_response(status, headers)
            bodyless = self._bodyless(environ)
            if bodyless:
                self._body.open_empty(connection)
            else:
                self._body.open(connection, settings, client)
                # For Flask's requests, ``http/view.py`` checks this.
                if had_stream and settings is None and not flask.has_request_context():
                    self._warn_if_empty(connection)
            # If bytes wait, the head leaves with them.
            if self._flush and not bodyless and not self.writable_length:
                later = environ.get(FLUSH_LATER)
                if later is not None:
                    later.append(self._body)
                elif is_of_server(write):
                    write(b"")
                else:
                    body = HeadFirst(body)
            discarded.sent(environ, self)
            unanswered.answered(environ, self)
        except BaseException:
            self.close()
            raise
        return body

    def get_app_iter(self, environ: dict[str, Any]) -> Iterable[bytes]:
        """The body that the server iterates."""
        if self._bodyless(environ):
            return _Nothing(self)
        if isinstance(self.response, Body):
            # Not wrapped, so that `SseWorker` can recognise it.
            return self.response
        return ClosingIterator(self.iter_encoded(), self.close)

    def get_wsgi_response(
        self, environ: dict[str, Any]
    ) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        # An app's own class makes its own head, perhaps for one response only: it gets no kept
        # head and its heads are not kept.
        own: Any = type(self)
        usual = _makes_usual_heads(own)
        status = self._status_line
        # Werkzeug asks for `headers`, and these are a copy then, so make the key before.
        key = kept_heads.key_of(status, self._headers)
        head = kept_heads.kept(key) if usual else None
        if head is not None:
            return self.get_app_iter(environ), status, head
        body, _, head = super().get_wsgi_response(environ)
        if usual and self._is_stream():
            kept_heads.keep(key, head)
        return body, status, head

    def _is_stream(self) -> bool:
        if self._headers is STREAM:
            return True
        usual = self._headers.get("Content-Type") == HEADERS["Content-Type"]
        return usual or self.mimetype == "text/event-stream"

    def get_wsgi_headers(self, environ: dict[str, Any]) -> Headers:
        headers = super().get_wsgi_headers(environ)
        kept_heads.complete(headers, self)
        return headers

    def call_on_close(self, func: Callable[[], Any]) -> Callable[[], Any]:
        # Werkzeug makes a list for each response. Nearly all of these would stay empty.
        if self._on_close is _NONE:
            self._on_close = []
        check_callable("func", func)
        return super().call_on_close(func)

    def close(self) -> None:
        """The server is done with the response. An app calls `end` or `destroy` instead."""
        # The functions that were given to Werkzeug's call_on_close().
        functions, self._on_close = self._on_close, _NONE
        if not functions:
            try:
                super().close()
            finally:
                self._close_body()
            return
        # Every function is called, even if another one raises.
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_body)
            for function in reversed(functions):
                stack.callback(function)
            super().close()

    def _close_body(self) -> None:
        if isinstance(self.response, Body):
            # Break the circle of references, so that no memory waits for the garbage collector.
            self.response = ()
        elif hasattr(self.response, "close"):
            self.response.close()

    def _compress(self, environ: dict[str, Any]) -> None:
        encoding = self._headers.get("Content-Encoding", UNCOMPRESSED).lower()
        if encoding != UNCOMPRESSED or not isinstance(self.response, Body):
            return
        if self.status_code in (204, 304):
            return
        self.vary.add("Accept-Encoding")
        if accepts_gzip(environ):
            self.headers["Content-Encoding"] = "gzip"
            if not self._bodyless(environ):
                self.response.compress()

    def _bodyless(self, environ: dict[str, Any]) -> bool:
        return environ.get("REQUEST_METHOD") == "HEAD" or self.status_code in (204, 304)

    def _warn_if_empty(self, connection: Connection) -> None:
        if isinstance(self.response, Body) and not (
            self._body.inlets or self.writable_ended or self._body.over or self.writable_length
        ):
            never_piped(connection)

    def _check_unsent(self, call: str) -> None:
        if self.headers_sent:
            raise HeadersSent(f"{call} after the headers were sent")


class _Nothing(tuple[bytes, ...]):
    """The body of a response without a body.

    Its length is known to be zero. Otherwise gevent's servers would send the end mark of a
    chunked body. A client that keeps the connection would take this for the beginning of
    the next response.
    """

    def __new__(cls, response: ServerResponse) -> "_Nothing":
        return super().__new__(cls)

    def __init__(self, response: ServerResponse) -> None:
        self.close = response.close


@functools.cache
def _both(own: type, response_class: type) -> type:
    """A class that is both *own*, a kind of `ServerResponse`, and the app's *response_class*."""
    if issubclass(own, response_class):
        return own
    return type(f"{own.__name__}{response_class.__name__}", (own, response_class), {})


@functools.cache
def _makes_usual_heads(response_class: Any) -> bool:
    """Whether no class of the app overrides ``get_wsgi_headers``."""
    own = [each for each in response_class.__mro__ if "get_wsgi_headers" in vars(each)]
    return own == [ServerResponse, werkzeug.Response]
