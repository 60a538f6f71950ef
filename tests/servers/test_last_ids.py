"""A client whose events were all withheld gets its place before its stream ends."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ssestream import Channels
from tests.kit.promptness import in_one_try
from tests.kit.servers import Client, Server, body_of, wait_until
from tests.servers.test_shutdown import GRACEFUL, HOOKED

pytestmark = pytest.mark.server

#: Events that a log keeps.
HISTORY = 20

#: Fewer events than those after which a client gets an id at once.
WITHHELD = 8

#: Seconds after which a stream ends for its age: more than the events before take, and fewer than
#: those after which its client gets an id anyway.
AGE = 2.5


def follow(server: Server, channel: str, *headers: str) -> Client:
    client = Client(server.port).get(f"/news?channels={channel}&client=a&only=!", *headers)
    client.read_until(b"\nid: ")
    return client


def ids_of(client: Client) -> list[str]:
    return [each.decode() for each in re.findall(rb"(?m)^id: (.+)$", body_of(client.received))]


def data_of(client: Client) -> list[str]:
    return [each.decode() for each in re.findall(rb"(?m)^data: (.+)$", body_of(client.received))]


def all_handed_on(server: Server, channels: Channels) -> None:
    """All that was published until now has come to the streams of *server*, or was withheld."""
    other = follow(server, "other")
    # The first may be heard of together with the events before it, and the second is not.
    for text in ("one!", "two!"):
        channels.publish("other", {"data": text})
        other.read_until(f"data: {text}\n\n".encode())
    other.fin()


@pytest.mark.long_except("gevent-age", "SseWorker-SIGTERM")
@pytest.mark.parametrize("how", ["age", "SIGTERM"])
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_it_comes_back_with_it_and_misses_nothing(
    kind: str, how: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    channels = Channels(url, history=HISTORY)
    config = {"SSESTREAM_URL": url, "SSESTREAM_HISTORY": HISTORY}
    if how == "age":
        config["SSESTREAM_MAX_AGE"] = AGE
    args = (*GRACEFUL, *(HOOKED if kind != "SseWorker" else ()))
    env = {"CHANNELS_CONFIG": json.dumps(config)}
    server = serve(kind, "tests.servers.apps.channels:app", args=args, env=env)

    def come_and_go() -> tuple[bool, list[str]]:
        client = follow(server, "news")
        for number in range(WITHHELD):
            last = channels.publish("news", {"data": number})
        all_handed_on(server, channels)
        if how == "SIGTERM":
            pid = server.worker_pid()
            os.kill(pid, signal.SIGTERM)
        client.read_until(b"0\r\n\r\n")
        client.fin()
        if how == "SIGTERM":
            wait_until(lambda: not psutil.pid_exists(pid), "the worker to be gone")
        ids = ids_of(client)
        # The events must not fall out of the log, or the test would show nothing.
        for number in range(HISTORY - 1):
            channels.publish("news", {"data": f"{number}!"})
        back = follow(server, "news", f"Last-Event-ID: {ids[-1]}")
        channels.publish("news", {"data": "now!"})
        back.read_until(b"data: now!\n\n")
        back.fin()
        assert data_of(client) == []
        if ids[-1] == last:
            assert data_of(back) == [*(f"{number}!" for number in range(HISTORY - 1)), "now!"]
            assert not server.events(event="gap")
        return ids[-1] == last, ids

    # A stream that ends before its last event, on a machine that stands still, shows nothing.
    in_one_try(come_and_go, 3)
