"""Express's conveniences of ``res``: ``res.status(404).json({...})`` and its family.

`ServerResponse` has them, in every view. They only set the status and the headers and call
``end()``, so everything that holds for a written response holds for them.
"""

import functools
import mimetypes
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import flask
from werkzeug.utils import get_content_type

from .compact_json import compact_json, json_text
from .config import app_dumps
from .http.checked_headers import check_status
from .http.kept_heads import UNCOMPRESSED, beginning
from .plain import plain_text, unproxied

if TYPE_CHECKING:
    from typing_extensions import Self
    from werkzeug.datastructures import Headers

#: The status of a new response.
OK = "200 OK"

# Python's own table, and not that of the system, which differs from host to host.
_TYPES = mimetypes.MimeTypes(())

#: Short names that Express knows and that are no suffix of a file in Python's table.
_MORE_TYPES = {"text": "text/plain", "form": "application/x-www-form-urlencoded"}


R = TypeVar("R", bound="Express")


class Status(str, Generic[R]):
    """The status line of a response, such as ``"200 OK"``. A call sets another status.

    Flask's ``res.status`` is a str, and Express's ``res.status(404)`` is a call. This is both.
    """

    __slots__ = ("_owner",)

    _owner: R

    def __new__(cls, line: str, response: R) -> "Status[R]":
        self = super().__new__(cls, line)
        self._owner = response
        return self

    def __call__(self, status: int | str) -> R:
        """Set the status, and return the response. Raises as ``write_head()``."""
        return self._owner.write_head(status)


class Express:
    """The methods of Express's ``res`` that Flask's response lacks, or has in another form."""

    __slots__ = ()

    if TYPE_CHECKING:
        # `ServerResponse` has them.
        mimetype: str
        headers: Headers

        @property
        def writable_ended(self) -> bool: ...
        @property
        def writable_length(self) -> int: ...
        def header(self, name: str | Mapping[str, Any], value: Any = None) -> Self: ...
        def end(self, chunk: bytes | str | None = None) -> None: ...
        def write_head(self, status: int | str) -> Self: ...
        def _check_unsent(self, call: str) -> None: ...

    @property
    def status(self) -> "Status[Self]":
        """The status line, such as ``"200 OK"``. An int may be assigned too.

        A call sets the status and returns the response, as in Express: ``res.status(404)``.
        """
        return Status(self._status_line, self)

    @status.setter
    def status(self, status: int | str) -> None:
        # The app's response class may have a setter of its own.
        base: Any = super(Express, type(self))
        base.status.fset(self, status if status is OK else check_status(status))

    @property
    def _status_line(self) -> str:
        # Servers refuse a subclass of str.
        base: Any = super()
        return str(base.status)

    def set(self, name: str | Mapping[str, Any], value: Any = None) -> "Self":
        """The same as `header`. Express's ``res.set``."""
        return self.header(name, value)

    def set_header(self, name: str, value: Any) -> "Self":
        """Set one header, as `header` does. Node's ``response.setHeader``."""
        return self.header(name, value)

    def get_header(self, name: str) -> str | list[str] | None:
        """The value of a header: a list if it has several lines, None if it is not set.

        Node's ``response.getHeader``.
        """
        values = self.headers.getlist(name)
        if not values or (name.lower() == "content-encoding" and values == [UNCOMPRESSED]):
            return None
        return values[0] if len(values) == 1 else values

    def get(self, name: str) -> str | list[str] | None:
        """The same as `get_header`. Express's ``res.get``."""
        return self.get_header(name)

    def has_header(self, name: str) -> bool:
        """Whether a header is set. Node's ``response.hasHeader``."""
        return self.get_header(name) is not None

    def remove_header(self, name: str) -> None:
        """Remove a header. Does nothing if it is not set.

        Raises `HeadersSent` if the headers were sent already. Node's
        ``response.removeHeader``.
        """
        self._check_unsent(f"remove_header({name!r})")
        if self.has_header(name):
            self.headers.remove(name)

    def type(self, name: str) -> "Self":
        """Set the type: a short name such as ``"json"`` or ``".html"``, or a whole type.

        Returns the response. Raises ``ValueError`` for a short name that is not known, and as
        `header`. Express's ``res.type``.
        """
        if not isinstance(name, str):
            raise TypeError(f"a type is a str, not {type(name).__name__}")
        found: str | None = plain_text(name)
        if "/" not in name:
            short = name.lower().removeprefix(".")
            found = _MORE_TYPES.get(short) or _TYPES.guess_type(f"file.{short}")[0]
            if found is None:
                raise ValueError(f"no type is known by the short name {name!r}: write it out")
        return self.header("Content-Type", _with_charset(found or ""))

    def json(self, value: Any) -> "Self":
        """Answer with *value* as JSON, and end the response.

        The JSON is compact, and written by the app's JSON provider. The status is not changed:
        ``res.status(404).json({...})``. Returns the response. Raises `HeadersSent` if the
        headers were sent already, and ``TypeError`` or ``ValueError`` if *value* cannot be
        JSON. Express's ``res.json``.
        """
        self._check_unsent("json()")
        body = json_text((app_dumps() or compact_json)(unproxied(value))).encode()
        self._default_type("application/json; charset=utf-8")
        return self._answer(body)

    def send(self, body: Any = None) -> "Self":
        """Answer with *body*, and end the response.

        Text is sent as HTML and bytes as ``application/octet-stream``, unless the type is set.
        Anything else is sent as `json` does; None sends nothing. Returns the response. Raises
        `HeadersSent` if the headers were sent already, and for other values as `json`.
        Express's ``res.send``.
        """
        self._check_unsent("send()")
        body = unproxied(body)
        if body is None:
            return self._answer(b"")
        if isinstance(body, str):
            text = plain_text(body).encode()
            given = self.headers.get("Content-Type", "text/html")
            self.header("Content-Type", _with_charset(given))
            return self._answer(text)
        if isinstance(body, (bytes, bytearray, memoryview)):
            self._default_type("application/octet-stream")
            return self._answer(bytes(body))
        return self.json(body)

    def send_status(self, status: int) -> "Self":
        """Answer with the *status* and its name as text. Express's ``res.sendStatus``."""
        self.write_head(status)
        try:
            name = HTTPStatus(status).phrase
        except ValueError:
            name = str(status)
        return self.type("txt").send(name)

    def flush(self) -> None:
        """Does nothing: no write waits for a later one, also when it is compressed.

        The ``compression`` middleware of Express needs ``res.flush()``.
        """

    @functools.cached_property
    def locals(self) -> Any:
        """Values of one response, for decorators that prepare it: ``res.locals.user = user``.

        It works as ``flask.g``, and lives as long as the response. Express's ``res.locals``.
        """
        return flask.Flask.app_ctx_globals_class()

    @property
    def finished(self) -> bool:
        """The same as `writable_ended`. Node's older name of it."""
        return self.writable_ended

    def _default_type(self, content_type: str) -> None:
        """Set the type, unless the app has set one."""
        own: Any = type(self)
        default = beginning(own).get("Content-Type")
        if self.headers.get("Content-Type", default) == default:
            self.header("Content-Type", content_type)

    def _answer(self, body: bytes) -> "Self":
        # The length is known only if nothing was written before. An event stream gets none,
        # because it may be compressed.
        if not self.writable_length and self.mimetype != "text/event-stream":
            self.header("Content-Length", len(body))
        self.end(body)
        return self


def _with_charset(content_type: str) -> str:
    if "charset" in content_type.lower():
        return content_type
    return get_content_type(content_type, "utf-8")
