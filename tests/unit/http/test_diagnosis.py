"""What is wrong with a set-up is said, once."""

import itertools
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from ssestream import MessageError, ServerResponse, SseStream, pipeline
from ssestream.http import diagnosis
from ssestream.http.connection import Connection
from ssestream.http.diagnosis import FIRST, OF
from tests.kit.visit import Visit, on_threads_and_greenlets, until


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, unsaid: None) -> Callable[[], Any]:
    """The levels and words of the log, in a process that said nothing before."""
    caplog.set_level(logging.INFO, "ssestream")
    return lambda: [(each.levelname, each.getMessage()) for each in caplog.records]


CONNECTION = Connection(client="10.0.0.1", path="/news")


@pytest.mark.parametrize(
    ("warn", "words"),
    [
        (lambda: diagnosis.held_back(CONNECTION), "10.0.0.1 '/news': something between"),
        (lambda: diagnosis.never_piped(CONNECTION), "10.0.0.1 '/news': the view made"),
        (lambda: diagnosis.burst("10.0.0.1 '/news'"), "10.0.0.1 '/news': more was written at once"),
        (lambda: diagnosis.burst(None), "a view: more was written to an unsent response"),
        (lambda: diagnosis.cancelled_with_view(["a", "b\n"]), r"(a, b\n): nothing writes"),
        (lambda: diagnosis.warn_of_memory("script"), "in a script or a command"),
    ],
)
def test_each_is_said_once(
    warn: Callable[[], None], words: str, said: Callable[[], list[tuple[str, str]]]
) -> None:
    for _ in range(2):
        warn()
    ((level, text),) = said()
    assert level == "WARNING"
    assert words in text


def test_a_warning_about_a_view_names_its_path_and_not_its_query(
    said: Callable[[], list[tuple[str, str]]],
) -> None:
    with Flask(__name__).test_request_context("/a\x1bb?token=secret"):
        diagnosis.burst(None)
        diagnosis.warn_of_memory("several")
    for _, text in said():
        assert text.startswith(r"'/a\\x1bb': ")
        assert "secret" not in text
    assert len(said()) == 2


def test_the_first_streams_are_examined_and_then_one_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diagnosis, "_count", itertools.count())
    examined = [diagnosis.may_be_held_back() for _ in range(FIRST + 10 * OF)]
    assert all(examined[:FIRST])
    assert sum(examined[FIRST:]) == 10


def test_a_server_says_why_it_does_not_send_a_stream_itself_once_for_each_reason(
    said: Callable[[], list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_why_standard_way", None)
    body = SimpleNamespace(name="10.0.0.1 '/news'", reason="it speaks TLS")
    diagnosis.standard_way(body)  # of a server that never does
    assert said() == []
    diagnosis.explain_standard_way_with(lambda asked: str(asked.reason))
    diagnosis.standard_way(body)
    diagnosis.standard_way(body)
    body.reason = "it speaks HTTP/2"
    diagnosis.standard_way(body)
    levels, texts = zip(*said(), strict=True)
    assert levels == ("INFO", "INFO")
    assert [text.rpartition(": ")[2] for text in texts] == ["it speaks TLS", "it speaks HTTP/2"]
    assert texts[0].startswith("10.0.0.1 '/news': ")


def called_by(module: str, method: Callable[[Any], Any], **attributes: Any) -> Any:
    """What *method* returns when an object's method in *module* calls it."""
    names: dict[str, Any] = {"__name__": module, "called": method}
    exec("def run(self):\n    return called(self)", names)
    return names["run"](SimpleNamespace(**attributes))


@pytest.mark.parametrize(
    ("module", "attributes", "threads"),
    [
        ("gunicorn.workers.gthread", {"cfg": SimpleNamespace(threads=4)}, 4),
        ("waitress.task", {"threads": {1, 2, 3}, "stop_count": 1}, 2),
        # Neither another server nor another version has them.
        ("gunicorn.workers.sync", {"cfg": SimpleNamespace(threads=4)}, None),
        ("gunicorn.workers.gthread", {}, None),
    ],
)
def test_the_threads_of_a_server_are_found_by_its_code(
    module: str, attributes: dict[str, Any], threads: int | None
) -> None:
    found = called_by(module, lambda self: diagnosis.threads_of_server(), **attributes)
    assert found == threads


@pytest.mark.parametrize(
    ("module", "adapter"),
    [
        ("a2wsgi.wsgi", "a2wsgi"),
        ("asgiref.wsgi", "asgiref"),
        ("hypercorn.app_wrappers", "hypercorn"),
        ("uvicorn.middleware.wsgi", "uvicorn"),
        ("asgiref.sync", None),  # which Flask uses for its async def views
        ("gunicorn.workers.gthread", None),
    ],
)
def test_an_asgi_adapter_is_found_by_its_code(module: str, adapter: str | None) -> None:
    assert called_by(module, lambda self: diagnosis.asgi_adapter()) == adapter


@pytest.mark.parametrize(("alone", "warned"), [(True, True), (False, False)])
def test_a_server_of_one_request_at_a_time_is_warned_of(
    alone: bool, warned: bool, said: Callable[[], list[tuple[str, str]]]
) -> None:
    connection = Connection(client="10.0.0.1", path="/news", serial=alone)
    loop = SimpleNamespace(cooperative=False)
    diagnosis.look_at_server(connection, loop)  # type: ignore[arg-type]
    assert [level for level, _ in said()] == ["WARNING"] * warned
    assert all("10.0.0.1 '/news': its server answers one request" in text for _, text in said())


@pytest.mark.parametrize("cooperative", [True, False])
def test_nothing_is_wrong_with_the_client_of_a_test(
    cooperative: bool, said: Callable[[], list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_is_patched", False)
    loop = SimpleNamespace(cooperative=cooperative)
    diagnosis.look_at_server(Connection(), loop)  # type: ignore[arg-type]
    assert said() == []


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize("message", [{"event": 5}, {"dada": 1}, "text", {}])
def test_a_refused_message_is_told_of_once_with_the_line_that_wrote_it(
    message: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with pytest.raises(MessageError):
            SseStream().write(message)
    with pytest.raises(MessageError):
        SseStream().end(message)
    first, second = [each.getMessage() for each in caplog.records]
    assert "a message was refused" in first
    assert f"{__file__}, line " in first
    assert "in test_a_refused_message" in second


def generator(wrong: Any) -> Any:
    yield {"data": 1}
    yield wrong


async def async_generator(wrong: Any) -> Any:
    yield {"data": 1}
    yield wrong


@pytest.mark.usefixtures("unsaid")
@on_threads_and_greenlets
@pytest.mark.parametrize("source", [generator, async_generator])
@pytest.mark.parametrize("message", [{"event": 5}, "text"])
def test_one_of_a_source_is_told_of_with_the_line_that_yields_it(
    source: Any, message: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        res = pipeline(source(message), SseStream(environ), ServerResponse())
        return res(environ, start_response)

    for _ in range(2):
        with Visit(app) as visit:
            visit.read_to_end()
    until(lambda: len([each for each in caplog.records if each.exc_info]) == 2, "the errors")
    told = [each.getMessage() for each in caplog.records if "was refused" in each.getMessage()]
    line = source.__code__.co_firstlineno + 2
    place = f"({__file__}, line {line}, in {source.__name__})"
    assert [each.startswith(f"a message was refused {place}: ") for each in told] == [True]
