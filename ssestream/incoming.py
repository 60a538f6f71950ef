"""IncomingMessage: the ``req`` of a ``@handler``, Express's names over Flask's request."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flask

from .errors import ClientDisconnected
from .plain import shortened
from .response import ServerResponse
from .runtime.callables import check_callable, fitting
from .runtime.uncopyable import Uncopyable

_FORM = "application/x-www-form-urlencoded"


class IncomingMessage(Uncopyable):
    """The request of one view, by Express's names, and by Flask's for everything else.

    It is the request itself and no proxy. So it may be kept, for example in a set of clients.
    It stays readable after the view has returned. It can be given to `SseStream`.
    """

    _only_one = "it is the request of one client. Copy the values that you need"

    __slots__ = ("_flask", "_res")

    _flask: flask.Request
    _res: ServerResponse

    def __init__(self, request: flask.Request, res: ServerResponse) -> None:
        object.__setattr__(self, "_flask", request)
        object.__setattr__(self, "_res", res)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._flask, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # An attribute that is set here is set on Flask's request, too: `req.user = user`.
        setattr(self._flask, name, value)

    def __repr__(self) -> str:
        return f"<IncomingMessage {self._flask.method} {self._flask.path!r}>"

    @property
    def query(self) -> Any:
        """The query parameters: Flask's ``request.args``."""
        return self._flask.args

    @property
    def params(self) -> dict[str, Any]:
        """The variables of the route: Flask's ``request.view_args``."""
        return self._flask.view_args or {}

    @property
    def body(self) -> Any:
        """The body as parsed JSON or as a form. None for any other body, and without a body.

        Raises ``BadRequest`` for a JSON body that cannot be parsed.
        """
        request = self._flask
        if request.is_json:
            return request.get_json() if request.get_data() else None
        if request.mimetype in (_FORM, "multipart/form-data"):
            return request.form
        return None

    @property
    def ip(self) -> str | None:
        """The client's address: Flask's ``request.remote_addr``."""
        return self._flask.remote_addr

    @property
    def destroyed(self) -> bool:
        """Whether the response is over. Node's ``request.destroyed``."""
        return self._res.destroyed

    @property
    def aborted(self) -> bool:
        """Whether the client has left before everything was sent."""
        return self._res.closed and not self._res.writable_finished

    def get(self, name: str) -> str | None:
        """The value of a header, or None. Express's ``req.get``."""
        # Express takes both spellings of this header.
        other = {"referrer": "Referer"}.get(name.lower(), name)
        found: str | None = self._flask.headers.get(other)
        return found

    def header(self, name: str) -> str | None:
        """The same as `get`."""
        return self.get(name)

    def on(self, event: str, handler: Callable[..., object] | None = None) -> Any:
        """Add a *handler* of an *event*. Without *handler*, it decorates one.

        ===========  ==================================================================
        ``close``    the response is over, for any cause
        ``aborted``  it is over, and the client has left before everything was sent
        ``error``    the same as ``aborted``, with a `ClientDisconnected`
        ``end``      everything was sent
        ===========  ==================================================================

        Raises ``ValueError`` for another event: a body is read from `body`, or from Flask's
        ``stream``. Raises ``TypeError`` for a *handler* that cannot be called or is an
        ``async def``.
        """
        return self._add(self._res.on, event, handler)

    def once(self, event: str, handler: Callable[..., object] | None = None) -> Any:
        """As `on`, for the event's first time only."""
        return self._add(self._res.once, event, handler)

    def off(self, event: str, handler: Callable[..., object]) -> "IncomingMessage":
        """Remove a handler. Does nothing if it is not there."""
        self._res.off(*self._of_response(event, handler))
        return self

    def _add(self, add: Any, event: str, handler: Callable[..., object] | None) -> Any:
        if handler is None:
            _event_of_response(event)
            return functools.partial(self._add, add, event)
        add(*self._of_response(event, handler))
        return handler

    def _of_response(self, event: str, handler: Any) -> tuple[str, Callable[..., object]]:
        """The event of the response, and its handler, for *handler* of *event*."""
        name = _event_of_response(event)
        if event not in _DEPARTURES:
            return name, handler
        check_callable(f"the handler of {event!r}", handler)
        return name, _OfDeparture(self, event, handler)


@dataclass(frozen=True)
class _OfDeparture:
    """Calls a handler of ``aborted`` or ``error`` when the response has closed.

    It is equal to another one of the same handler, so that `IncomingMessage.off` finds it.
    """

    req: IncomingMessage
    event: str
    handler: Callable[..., object]

    def __call__(self) -> object:
        if not self.req.aborted:
            return None
        args = (ClientDisconnected("the client has left"),) if self.event == "error" else ()
        return self.handler(*fitting(self.handler, args))


#: The events of a request, with those of its response.
_EVENTS = {"close": "close", "aborted": "close", "error": "close", "end": "finish"}

_DEPARTURES = ("aborted", "error")


def _event_of_response(event: str) -> str:
    """The event of the response that stands for *event* of the request. Raises if there is none."""
    if event in _EVENTS:
        return _EVENTS[event]
    why = "its body is in req.body" if event in ("data", "readable") else "res may"
    raise ValueError(
        f"a request emits {', '.join(map(repr, _EVENTS))}, and no {shortened(event)}: {why}"
    )


def read_body(request: flask.Request) -> None:
    """Read the bodies that Express's own parsers read, while the server still has them.

    The handler may ask for ``req.body`` after its response has started.
    """
    if request.is_json or request.mimetype == _FORM:
        request.get_data()
