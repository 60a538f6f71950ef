"""What an app's code does wrong when its request is over is told with that request."""

import logging
from collections.abc import Callable

import pytest

from tests.kit.servers import Client, Server, wait_until
from tests.kit.visit import Visit, on_threads_and_greenlets, until
from tests.servers.apps.failing import app

#: Each view that fails, and its endpoint.
VIEWS = {rule.rule: rule.endpoint for rule in app.url_map.iter_rules() if not rule.arguments}


@on_threads_and_greenlets
@pytest.mark.parametrize("path", VIEWS)
def test_a_failure_is_logged_with_the_path_and_the_endpoint_of_its_request(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "ssestream"), Visit(app, path + "?token=secret"):
        until(lambda: caplog.records, "the log")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert repr(path) in record.getMessage()
    assert f"endpoint {VIEWS[path]!r}" in record.getMessage()
    assert (record.__dict__["path"], record.__dict__["endpoint"]) == (path, VIEWS[path])
    assert record.exc_info is not None
    assert record.exc_info[0] is not None
    assert record.exc_info[0].__name__ == "Mistake"
    assert "secret" not in caplog.text


def test_a_path_beyond_ascii_is_told_as_it_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    path = "/any/소식\r\nERROR"
    given = path.encode().decode("latin-1")
    with caplog.at_level(logging.ERROR, "ssestream"), Visit(app, given):
        until(lambda: caplog.records, "the log")
    (record,) = caplog.records
    assert record.__dict__["path"] == path
    assert record.getMessage().startswith("'/any/소식\\r\\nERROR' (endpoint 'any'): ")


@pytest.mark.long_except("gthread")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["gthread", "SseWorker"])
@pytest.mark.usefixtures("sentry")
def test_what_collects_errors_is_given_both(kind: str, serve: Callable[..., Server]) -> None:
    # sentry-sdk imports eventlet, and eventlet's own names of hosts do not go with trio.
    env = {"SENTRY": "1", "EVENTLET_NO_GREENDNS": "yes"}
    server = serve(kind, "tests.servers.apps.failing:app", env=env)
    clients = [Client(server.port).get(path) for path in VIEWS]
    wait_until(lambda: len(server.events(name="sentry")) >= len(VIEWS), "all events")
    for client in clients:
        client.fin()
    events = server.events(name="sentry")
    assert {(each["extra"]["path"], each["extra"]["endpoint"]) for each in events} == {
        *VIEWS.items()
    }
    assert {(each["level"], each["error"]) for each in events} == {("error", "Mistake")}
