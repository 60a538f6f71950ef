"""Status and headers are checked where they are set, and refused by name."""

import enum
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
from werkzeug.datastructures import Headers
from werkzeug.local import LocalProxy
from werkzeug.test import EnvironBuilder

from ssestream import ServerResponse
from ssestream.wire import encode


def environ() -> dict[str, Any]:
    return EnvironBuilder().get_environ()


# Each way to give a response a header.
GIVING: dict[str, Callable[[ServerResponse, Any, Any], object]] = {
    "header": lambda res, name, value: res.header(name, value),
    "header of several": lambda res, name, value: res.header(name, ["fine", value]),
    "header of a mapping": lambda res, name, value: res.header({"X-Fine": "1", name: value}),
    "write_head": lambda res, name, value: res.write_head(404, {"X-Fine": "1", name: value}),
    "write_head of pairs": lambda res, name, value: res.write_head(404, [(name, value)]),
    "the constructor": lambda res, name, value: ServerResponse(200, {name: value}),
    "headers[]": lambda res, name, value: res.headers.__setitem__(name, value),
    "headers[0]": lambda res, name, value: res.headers.__setitem__(0, (name, value)),
    "headers[:]": lambda res, name, value: res.headers.__setitem__(slice(1), [(name, value)]),
    "headers.add": lambda res, name, value: res.headers.add(name, value),
    "headers.add_header": lambda res, name, value: res.headers.add_header(name, value),
    "headers.set": lambda res, name, value: res.headers.set(name, value),
    "headers.setlist": lambda res, name, value: res.headers.setlist(name, [value]),
    "headers.setdefault": lambda res, name, value: res.headers.setdefault(name, value),
    "headers.setlistdefault": lambda res, name, value: res.headers.setlistdefault(name, [value]),
    "headers.extend": lambda res, name, value: res.headers.extend({name: value}),
    "headers.update": lambda res, name, value: res.headers.update([(name, value)]),
    # Werkzeug's own looks for line ends, and does not say where.
    "headers": lambda res, name, value: setattr(res, "headers", Unchecked(name, value)),
}


class Unchecked(Headers):
    def __init__(self, name: str, value: str) -> None:
        super().__init__()
        self._list.append((name, value))


class Sly(str):
    """One in which nothing is found by its own methods, and which prints as another."""

    def __str__(self) -> str:
        return "a\r\nX-Two: b"

    def __contains__(self, other: object) -> bool:
        return False

    def __iter__(self) -> Any:
        return iter(())

    def strip(self, *args: Any) -> str:
        return str(self)


@pytest.mark.parametrize("way", GIVING)
@pytest.mark.parametrize(
    "value",
    ["a\0b", "a\x1bb", "\x1e: ", "a\x7fb", "a\nb", "a\rb", "\u4f60", Sly("a\0"), *"\0\x0b\x0c\x1f"],
    ids=ascii,
)
def test_a_header_that_http_cannot_carry_is_refused_by_name(way: str, value: str) -> None:
    res = ServerResponse()
    before = list(res.headers)
    with pytest.raises(ValueError, match="X-One"):
        GIVING[way](res, "X-One", value)
    # Nothing is half done.
    assert (list(res.headers), res.status) == (before, "200 OK")


@pytest.mark.parametrize("way", GIVING)
@pytest.mark.parametrize("name", ["X One", "X-One\0", "X-One:", "X-\x1b", "X-One\r\nX-Two", "\xe9"])
def test_so_is_the_name_of_none(way: str, name: str) -> None:
    with pytest.raises(ValueError, match="the name of a header"):
        GIVING[way](ServerResponse(), name, "1")


@pytest.mark.parametrize("way", GIVING)
def test_a_header_of_another_class_is_its_plain_text(way: str) -> None:
    for value, text in [
        (Sly("plain"), "plain"),
        (LocalProxy(lambda: Sly("plain")), "plain"),
        (HTTPStatus.NOT_FOUND, "404"),
        ("tab\tand \xe9", "tab\tand \xe9"),
    ]:
        res = ServerResponse()
        given = GIVING[way](res, "X-One", value)
        res = given if isinstance(given, ServerResponse) else res
        _, _, head = res.get_wsgi_response(environ())
        (sent,) = {its for name, its in head if name == "X-One"} - {"fine"}
        assert (type(sent), sent) == (str, text)


@pytest.mark.parametrize(
    "give",
    [
        ServerResponse,
        lambda status: ServerResponse().write_head(status),
        lambda status: setattr(ServerResponse(), "status", status),
    ],
)
def test_a_status_that_http_cannot_carry_is_refused(give: Any) -> None:
    for status in ("200 A\0", "200 A\x1b", "200 \u4f60", "200 A\n", "200 A\x7f", "0200", 10**5000):
        with pytest.raises(ValueError, match=r"^a status "):
            give(status)


class Code(enum.IntEnum):
    GONE = 410


class Text(str, enum.Enum):
    GONE = "410 Gone"


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (HTTPStatus.OK, "200 OK"),
        (HTTPStatus.NOT_FOUND, "404 NOT FOUND"),
        (Code.GONE, "410 GONE"),
        (Text.GONE, "410 Gone"),
        (LocalProxy(lambda: Code.GONE), "410 GONE"),
        (Sly("299 Fine"), "299 Fine"),
    ],
    ids=repr,
)
def test_a_status_of_any_class_counts_as_its_number_or_text(status: Any, line: str) -> None:
    res = ServerResponse()
    res.status = status
    for response in (ServerResponse(status), ServerResponse().write_head(status), res):
        _, sent, _ = response.get_wsgi_response(environ())
        assert (type(sent), sent, response.status) == (str, line, line)
        assert response.status_code == int(line[:3])
    if isinstance(status, int):
        assert (
            encode({"id": status, "retry": status})
            == f"id: {line[:3]}\nretry: {line[:3]}\n\n".encode()
        )
