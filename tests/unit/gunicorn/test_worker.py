"""What the worker owes to a middleware, the head that it sends first, and the access log."""

from types import SimpleNamespace
from typing import Any

import pytest

from ssestream.gunicorn.worker import closing, send_head, writes_access_log

# -- what is owed to a middleware


@pytest.mark.parametrize("fails", [False, True])
def test_the_iterable_of_a_middleware_is_closed_before_the_stream_is_over(fails: bool) -> None:
    calls: list[Any] = []

    class Owed:
        def close(self) -> None:
            calls.append("close")
            if fails:
                raise OSError("a middleware that fails")

    over = closing(Owed(), calls.append)
    sender: Any = object()
    if fails:
        with pytest.raises(OSError, match="a middleware that fails"):
            over(sender)
    else:
        over(sender)
    assert calls == ["close", sender]


class Closes:
    def __init__(self, fails: bool = False) -> None:
        self.closes, self._fails = 0, fails

    def close(self) -> None:
        self.closes += 1
        if self._fails:
            raise ValueError("a close that fails")


class Response:
    """gunicorn's response to a client that may be gone."""

    def __init__(self, is_gone: bool) -> None:
        self.sent: list[bytes] = []
        self._is_gone = is_gone

    def write(self, data: bytes) -> None:
        if self._is_gone:
            raise BrokenPipeError
        self.sent.append(data)


def test_the_head_that_is_sent_closes_nothing() -> None:
    response, outer, streamed = Response(False), Closes(), Closes()
    send_head(response, outer, streamed)  # type: ignore[arg-type]
    assert response.sent == [b""]
    assert (outer.closes, streamed.closes) == (0, 0)


@pytest.mark.parametrize(("outer", "error"), [({}, BrokenPipeError), ({"fails": True}, ValueError)])
def test_a_head_that_cannot_be_sent_ends_the_body_and_every_stream_in_it(
    outer: dict[str, bool], error: type[Exception]
) -> None:
    body, streamed = Closes(**outer), [Closes(), Closes()]
    with pytest.raises(error):
        send_head(Response(True), body, *streamed)  # type: ignore[arg-type]
    assert [each.closes for each in (body, *streamed)] == [1, 1, 1]


def test_a_body_without_a_close_needs_none() -> None:
    streamed = Closes()
    with pytest.raises(BrokenPipeError):
        send_head(Response(True), (b"no close",), streamed)  # type: ignore[arg-type]
    assert streamed.closes == 1


# -- the access log


@pytest.mark.parametrize(
    ("settings", "writes"),
    [
        ({}, False),
        ({"accesslog": "-"}, True),
        ({"logconfig": "log.ini"}, True),
        ({"logconfig_dict": {"version": 1}}, True),
        ({"logconfig_json": "log.json"}, True),
        ({"syslog": True}, True),
        ({"syslog": True, "disable_redirect_access_to_syslog": True}, False),
    ],
)
def test_a_request_is_kept_where_the_configuration_writes_a_line_of_it(
    settings: dict[str, Any], writes: bool
) -> None:
    usual = {
        "accesslog": None,
        "logconfig": None,
        "logconfig_dict": {},
        "syslog": False,
        "disable_redirect_access_to_syslog": False,
    }
    assert writes_access_log(SimpleNamespace(**usual | settings)) is writes
