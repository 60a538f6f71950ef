"""The head of a stream, and what is wrong with it."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, request
from werkzeug.datastructures import Headers
from werkzeug.http import http_date

from ssestream import ServerResponse, SseStream
from ssestream.doctor.finding import Finding
from ssestream.doctor.head import examine_head, is_event_stream
from tests.kit.visit import Visit as Served

GOOD = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


def visit_of(status: int, headers: dict[str, str], **more: Any) -> Any:
    return SimpleNamespace(
        status=status, headers=Headers(headers), head_after=0.01, ended=None, **more
    )


def findings(status: int, headers: dict[str, str], **more: Any) -> list[Finding]:
    return list(examine_head(visit_of(status, headers, **more), 10.0))


def test_the_head_that_server_response_sends_is_well() -> None:
    app = Flask("app")
    app.add_url_rule("/", view_func=lambda: SseStream(request).pipe(ServerResponse()))
    with Served(app) as served:
        served.read_until(b":ok")
        headers = {name: served.headers(name)[0] for name in GOOD}
    assert [each.level for each in findings(200, headers)] == ["ok"]
    assert is_event_stream(visit_of(200, headers))


@pytest.mark.parametrize(
    ("status", "level", "word"),
    [
        (204, "note", "not to come back"),
        (301, "fault", "login"),
        (302, "fault", "login"),
        (307, "fault", "login"),
        (400, "fault", "log of the server"),
        (401, "fault", "--header"),
        (403, "fault", "--header"),
        (404, "fault", "path"),
        (429, "fault", "limit"),
        (500, "fault", "log of the server"),
        (502, "fault", "address"),
        (503, "fault", "SSESTREAM_MAX_STREAMS"),
        (504, "fault", "worker"),
    ],
)
def test_a_status_other_than_200_says_what_to_do(status: int, level: str, word: str) -> None:
    (finding,) = findings(status, {**GOOD, "Location": "/login"})
    assert finding.level == level
    assert f"status {status}" in finding.seen
    assert word in f"{finding.why} {finding.change}"
    assert not is_event_stream(visit_of(status, GOOD))


@pytest.mark.parametrize("kind", [None, "text/html; charset=utf-8", "text/plain", "TEXT"])
def test_another_type_is_a_fault(kind: str | None) -> None:
    headers = {name: text for name, text in GOOD.items() if name != "Content-Type"}
    if kind is not None:
        headers["Content-Type"] = kind
    (finding,) = findings(200, headers)
    assert finding.level == "fault"
    assert repr(kind) in finding.seen
    assert not is_event_stream(visit_of(200, headers))


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({"Content-Length": "1000"}, "fault", "Content-Length: 1000"),
        ({"Content-Encoding": "br"}, "note", "(br)"),
        ({"Cache-Control": "public"}, "note", "'public'"),
        ({"Cache-Control": ""}, "note", "''"),
        ({"Cache-Control": "no-cache"}, "note", "'no-cache': a proxy may compress"),
        ({"X-Accel-Buffering": "yes"}, "note", "X-Accel-Buffering"),
    ],
)
def test_a_header_that_holds_events_back_is_told(
    changed: dict[str, str], level: str, words: str
) -> None:
    well, finding = findings(200, {**GOOD, **changed})
    assert (well.level, finding.level) == ("ok", level)
    assert words in f"{finding.seen}: {finding.why}"


@pytest.mark.parametrize(("ahead", "level"), [(0, None), (-90, "note"), (3600, "note")])
def test_a_clock_that_is_wrong_is_told(ahead: int, level: str | None) -> None:
    found = findings(200, {**GOOD, "Date": http_date(time.time() + ahead)})
    assert [each.level for each in found[1:]] == ([] if level is None else [level])
    if level is not None:
        assert "NTP" in found[1].change


def test_a_date_that_is_none_is_nothing() -> None:
    assert [each.level for each in findings(200, {**GOOD, "Date": "soon"})] == ["ok"]


def test_nginx_takes_its_header_away() -> None:
    headers = {**GOOD, "Server": "nginx/1.22.1"}
    del headers["X-Accel-Buffering"]
    assert [each.level for each in findings(200, headers)] == ["ok"]


def test_no_head_at_all_is_told_apart_from_an_end() -> None:
    waiting = visit_of(0, {}, length_of_head=0)
    waiting.head_after = None
    (finding,) = examine_head(waiting, 10.0)
    assert "no head within 10 s" in finding.seen
    waiting.ended, waiting.ended_after = "cut", 2.5
    (finding,) = examine_head(waiting, 10.0)
    assert "ended after 2.5 s without a response" in finding.seen
