"""A server that runs is asked over its own socket."""

import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from werkzeug.serving import make_server

from ssestream.testing import WaitedInVain, stream
from tests.kit.servers import free_port
from tests.kit.visit import until


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """The URL of the app behind Flask's own server, in a thread."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_its_events_are_read(app: Flask, url: str) -> None:
    channels = app.extensions["ssestream"]
    with stream(f"{url}/news") as events:
        until(lambda: "news" in channels.statistics(), "the subscription")
        channels.publish("news", {"data": "one"})
        assert events.next().data == "one"
        events.reconnect()
        channels.publish("news", {"data": "two"})
        assert events.next().data == "two"
    with stream(url, "/five?start=2") as events:
        assert [event.data for event in events.rest()] == ["2", "3", "4", "5", "6"]
        assert events.ended == "clean"
    with stream(f"{url}/five", json={"start": 7}) as events:
        assert events.next().data == "7"


def test_a_departure_is_one(url: str, ticks: Callable[[], int]) -> None:
    with stream(url, "/ticks"):
        pass
    until(lambda: ticks() == 1, "the handler")


def test_cookies_are_kept(url: str) -> None:
    with stream(url, "/visits") as events:
        assert events.next().data == "1 nobody"
        events.reconnect()
        assert events.next().data == "2 nobody"


def test_a_cut_and_a_response_that_is_no_stream_are_told(app: Flask, url: str) -> None:
    with stream(url, "/secret") as events:
        assert (events.status, events.json()) == (401, {"error": "who are you?"})
    with stream(url, "/cut") as events:
        assert events.next().data == "half"
        app.extensions["stream"].destroy()
        assert events.rest() == []
        assert events.ended == "cut"


def test_a_stalled_client_reads_nothing_until_it_reads_on(app: Flask, url: str) -> None:
    channels = app.extensions["ssestream"]
    with stream(f"{url}/news") as events:
        until(lambda: "news" in channels.statistics(), "the subscription")
        events.stall()
        channels.publish("news", {"data": "late"})
        with pytest.raises(WaitedInVain, match="stalled"):
            events.next(timeout=0.2)
        events.resume()
        assert events.next().data == "late"


def test_it_speaks_tls(app: Flask, certificate: tuple[str, str]) -> None:
    server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=certificate)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"https://127.0.0.1:{server.server_port}/five"
        with pytest.raises(ssl.SSLCertVerificationError):
            stream(url)
        trusting = ssl.create_default_context(cafile=certificate[0])
        trusting.check_hostname = False
        with stream(url, ssl_context=trusting) as events:
            assert [event.data for event in events.rest()] == ["0", "1", "2", "3", "4"]
            assert events.ended == "clean"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_no_server_and_no_url_are_errors() -> None:
    with pytest.raises(ConnectionError):
        stream(f"http://127.0.0.1:{free_port()}/news")
    with pytest.raises(ValueError, match="begins with http://"):
        stream("localhost:5000/news")
