"""The request of a client for a stream, made by Werkzeug's own builder."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import werkzeug.test

#: The headers that a browser's EventSource sends.
HEADERS = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}


@dataclasses.dataclass(frozen=True)
class Question:
    """A request, without the id that it goes on from. The fields are those of `stream`."""

    path: str
    method: str | None
    json: Any
    data: Any
    query_string: Any
    headers: Mapping[str, str]

    @property
    def name(self) -> str:
        """The method and the path, for messages."""
        return f"{self._method} {self.path}"

    @property
    def _method(self) -> str:
        has_body = self.json is not None or self.data is not None
        return (self.method or ("POST" if has_body else "GET")).upper()

    def environ(self, last_event_id: str, make: Callable[..., Any], **options: Any) -> Any:
        """The environ of the request. *make* makes the builder, such as Flask's own."""
        headers = {**HEADERS, **self.headers}
        if last_event_id:
            # WSGI's headers are Latin-1, and browsers send UTF-8.
            headers["Last-Event-ID"] = last_event_id.encode().decode("latin-1")
        body = {"json": self.json, "data": self.data, "query_string": self.query_string}
        given = {name: value for name, value in body.items() if value is not None}
        builder = make(path=self.path, method=self._method, headers=headers, **given, **options)
        try:
            return builder.get_environ()
        finally:
            builder.close()


def builder_for(app: Any) -> Callable[..., Any]:
    """The class of the builder of a request to *app*: Flask's knows the app's name and root."""
    import flask.testing

    if isinstance(app, flask.Flask):
        return functools.partial(flask.testing.EnvironBuilder, app)
    return werkzeug.test.EnvironBuilder
