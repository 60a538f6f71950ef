"""The head goes before the body: who can send it, and the body that lets the others do so."""

from typing import Any

import pytest

from ssestream.http.headfirst import HeadFirst, is_of_server


def write_of(module: object) -> Any:
    def write(data: bytes) -> None: ...

    write.__module__ = module  # type: ignore[assignment]
    return write


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (write_of("gunicorn.http.wsgi"), True),
        (write_of("gevent.pywsgi"), True),
        (write_of("werkzeug.serving"), True),
        (write_of("wsgiref.handlers"), True),
        (write_of("waitress.task"), True),
        (write_of("cheroot.wsgi"), True),
        # Werkzeug has middleware, too, which would wait for the end of the stream.
        (write_of("werkzeug.test"), False),
        (write_of("webob.request"), False),
        (write_of("gunicornish.http"), False),
        (write_of(None), False),
        (None, False),
    ],
)
def test_a_write_of_a_server_is_known_by_its_module(write: Any, expected: bool) -> None:
    assert is_of_server(write) is expected


class Body:
    """A body that notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __iter__(self) -> "Body":
        return self

    def __next__(self) -> bytes:
        self.asked.append("next")
        if len(self.asked) > 2:
            raise StopIteration
        return b"%d" % len(self.asked)

    def close(self) -> None:
        self.asked.append("close")


def test_an_empty_chunk_comes_first_and_asks_nothing_of_the_body() -> None:
    body = Body()
    chunks = iter(HeadFirst(body))
    assert next(chunks) == b""
    assert body.asked == []
    assert list(chunks) == [b"1", b"2"]


def test_the_close_of_the_server_reaches_the_body() -> None:
    body = Body()
    HeadFirst(body).close()
    assert body.asked == ["close"]
