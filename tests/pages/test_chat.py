"""The example chat: rooms, history, who is here, in real tabs of a real browser."""

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ssestream import Channels
from tests.kit.pictures import take_picture
from tests.kit.redis_server import RedisServer
from tests.kit.servers import Client, Server, free_port, wait_until
from tests.servers.apps.scripts import script

pytestmark = [pytest.mark.browser, pytest.mark.server]

# Parts of who is here are told again five times a second, and forgotten after half of one.
ENV = {"CHAT_EVERY": "0.2"}


# Open streams need not hold up the end of a test.
QUICK = ("--graceful-timeout", "1")


class Tab:
    """One tab of the browser, with the page of a room."""

    def __init__(self, driver: Any, url: str, room: str, name: str) -> None:
        self.driver = driver
        driver.switch_to.new_window("tab")
        self.window = driver.current_window_handle
        driver.get(f"{url}/{room}")
        self.enter(name)

    def look(self) -> Any:
        self.driver.switch_to.window(self.window)
        return self.driver

    def type(self, field: str, text: str) -> None:
        box = self.look().find_element("css selector", field)
        box.clear()
        box.send_keys(text + "\n")

    def enter(self, name: str) -> None:
        self.type("#name", name)
        wait_until(lambda: self.text("#state") == "connected", f"{name} to enter")
        self.wait_for_here(name)

    def say(self, text: str) -> None:
        self.type("#text", text)

    def text(self, selector: str) -> str:
        return str(self.look().find_element("css selector", selector).text)

    def texts(self, selector: str) -> list[str]:
        # In one go, as the list may change meanwhile.
        return list(
            self.look().execute_script(
                "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)",
                selector,
            )
        )

    def said(self) -> list[tuple[str, str]]:
        lines = self.look().execute_script(
            "return [...document.querySelectorAll('#said li:not(.note)')]"
            ".map((e) => [e.querySelector('b').textContent, e.querySelector('span').textContent])"
        )
        return [(name, text) for name, text in lines]

    def wait_for_said(self, *expected: tuple[str, str]) -> None:
        wait_until(lambda: len(self.said()) >= len(expected), f"{expected}")
        assert self.said() == list(expected)

    def here(self) -> list[str]:
        return self.texts("#who li")

    def wait_for_here(self, *names: str) -> None:
        wait_until(lambda: set(names) <= set(self.here()), f"{names} to be here")

    def wait_for_only(self, *names: str) -> None:
        wait_until(lambda: self.here() == list(names), f"only {names} to be here")

    def close(self) -> None:
        self.look().close()


@pytest.fixture
def tabs(driver: Any) -> Iterator[Callable[..., Tab]]:
    """Open tabs, which all close with the test: ``tabs(server, "lobby", "Ann")``."""
    first = driver.current_window_handle

    def show(server: Server, room: str, name: str) -> Tab:
        return Tab(driver, server.url, room, name)

    yield show
    for window in driver.window_handles:
        if window != first:
            driver.switch_to.window(window)
            driver.close()
    driver.switch_to.window(first)


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    return serve("gevent", "examples.chat:app", env=ENV, args=QUICK)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url)
    return f"sqlite:///{tmp_path}/chat.db"


@pytest.fixture
def channels(url: str) -> Channels:
    """Those of the two workers."""
    return Channels(url, history=200)


@pytest.fixture
def two_workers(serve: Callable[..., Server], url: str) -> Server:
    env = {**ENV, "SSESTREAM_URL": url}
    server = serve("gevent", "examples.chat:app", env=env, args=("-w", "2", *QUICK))
    wait_until(lambda: len(workers(server)) == 2, "two workers")
    return server


def workers(server: Server) -> list[int]:
    assert server.process is not None
    return [child.pid for child in psutil.Process(server.process.pid).children()]


def post(server: Server, room: str, said: object, kind: str = "application/json") -> int:
    body = json.dumps(said).encode()
    asked = urllib.request.Request(
        f"{server.url}/{room}/messages", body, headers={"Content-Type": kind}
    )
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)


def test_what_one_says_is_in_all_tabs_of_the_room_and_of_no_other(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    ann, bob = tabs(server, "lobby", "Ann"), tabs(server, "lobby", "Bob")
    elsewhere = tabs(server, "garden", "Eve")
    ann.say("Is anybody here?")
    bob.wait_for_said(("Ann", "Is anybody here?"))
    bob.say("Grüße, Привет!")
    elsewhere.say("in the garden, 안녕 👋")
    ann.say("I reload this page now, and nothing is lost.")
    said = [
        ("Ann", "Is anybody here?"),
        ("Bob", "Grüße, Привет!"),
        ("Ann", "I reload this page now, and nothing is lost."),
    ]
    for tab in (ann, bob):
        tab.wait_for_said(*said)
    elsewhere.wait_for_said(("Eve", "in the garden, 안녕 👋"))
    assert elsewhere.here() == ["Eve"]
    assert bob.here() == ["Ann", "Bob"]
    take_picture(bob.look(), "chat", 900, 520)
    log = elsewhere.look().get_log("browser")
    assert [entry for entry in log if entry["level"] == "SEVERE"] == []


@pytest.mark.long
def test_who_comes_later_sees_what_was_said_and_so_does_a_reload(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    ann = tabs(server, "lobby", "Ann")
    said = [("Ann", f"message {number}") for number in range(30)]
    for name, text in said:
        assert post(server, "lobby", {"name": name, "text": text}) == 204
    ann.wait_for_said(*said)
    bob = tabs(server, "lobby", "Bob")
    bob.wait_for_said(*said)
    # He needs to say his name no more.
    bob.look().refresh()
    bob.wait_for_said(*said)
    bob.wait_for_here("Ann", "Bob")


@pytest.mark.long
def test_somebody_is_here_until_the_last_tab_is_closed(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    watcher = tabs(server, "lobby", "Watcher")
    first, second = tabs(server, "lobby", "Ann"), tabs(server, "lobby", "Ann")
    watcher.wait_for_only("Ann", "Watcher")
    first.close()
    # What is told afterwards says that she is here still.
    seen = Client(server.port).get("/lobby/events?name=Bob")
    watcher.wait_for_only("Ann", "Bob", "Watcher")
    second.close()
    watcher.wait_for_only("Bob", "Watcher")
    # Nor is he here any more whose connection breaks.
    seen.rst()
    watcher.wait_for_only("Watcher")


@pytest.mark.long
def test_two_tabs_of_one_name_share_a_stream_and_the_second_has_the_messages_too(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    first = tabs(server, "lobby", "Ann")
    first.say("one")
    first.wait_for_said(("Ann", "one"))
    second = tabs(server, "lobby", "Ann")
    second.wait_for_said(("Ann", "one"))
    second.say("two")
    for tab in (first, second):
        tab.wait_for_said(("Ann", "one"), ("Ann", "two"))
    first.close()
    second.wait_for_only("Ann")
    second.say("three")
    second.wait_for_said(("Ann", "one"), ("Ann", "two"), ("Ann", "three"))


@pytest.mark.long
def test_who_only_asks_for_the_head_is_not_here(server: Server, tabs: Callable[..., Tab]) -> None:
    watcher = tabs(server, "lobby", "Watcher")
    Client(server.port).get(
        "/lobby/events?name=Head", "Connection: close", method="HEAD"
    ).read_to_end()
    # As each who comes and goes is told, his coming would have been before this.
    tabs(server, "lobby", "Ann")
    watcher.wait_for_here("Ann")
    watcher.wait_for_only("Ann", "Watcher")


def test_a_message_is_text_and_never_html(server: Server, tabs: Callable[..., Tab]) -> None:
    ann = tabs(server, "lobby", "Ann")
    hostile = "<img src=x onerror='document.title=\"gone\"'><script>document.title=1</script>&amp;"
    ann.say(hostile)
    ann.say("data: x\\n\\nevent: here")
    ann.wait_for_said(("Ann", hostile), ("Ann", "data: x\\n\\nevent: here"))
    assert ann.look().title == "Chat over Server-Sent Events"
    assert ann.texts("#said img, #said script") == []


def test_what_is_no_message_is_refused(server: Server) -> None:
    good = {"name": "Ann", "text": "hello"}
    assert post(server, "lobby", good) == 204
    assert post(server, "lobby", {**good, "text": "x" * 1000}) == 204
    assert post(server, "cellar", good) == 404
    # A form of another site can send this, and not JSON.
    assert post(server, "lobby", good, kind="text/plain") == 415
    for name in ("", " ", "x" * 31, "<b>", "a\nb", 7, None, ["Ann"]):
        assert post(server, "lobby", {**good, "name": name}) == 400, name
    for text in ("", "  \n", "x" * 1001, 7, None):
        assert post(server, "lobby", {**good, "text": text}) == 400, text
    for said in ([], "x", None):
        assert post(server, "lobby", said) == 400, said
    assert post(server, "lobby", {**good, "text": "x" * 20_000}) == 413
    for query in ("", "?name=", "?name=%3Cb%3E"):
        head = Client(server.port).get(f"/lobby/events{query}").read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")


@pytest.mark.long
def test_after_a_restart_without_a_broker_the_page_tells_of_the_gap(
    serve: Callable[..., Server], tabs: Callable[..., Tab]
) -> None:
    server = serve("gevent", "examples.chat:app", env=ENV, args=QUICK, port=free_port())
    ann = tabs(server, "lobby", "Ann")
    ann.say("before")
    ann.wait_for_said(("Ann", "before"))
    assert ann.texts("#said .note") == []
    server.stop()
    wait_until(lambda: ann.text("#state") == "connecting", "onerror")
    again = serve("gevent", "examples.chat:app", env=ENV, args=QUICK, port=server.port)
    assert post(again, "lobby", {"name": "Bob", "text": "after"}) == 204
    ann.wait_for_said(("Ann", "before"), ("Bob", "after"))
    (note,) = ann.texts("#said .note")
    assert "not kept" in note
    assert [re.sub(r"^\d\d:\d\d", "", line) for line in ann.texts("#said li")] == [
        "Annbefore",
        note,
        "Bobafter",
    ]


@pytest.mark.long
def test_with_two_workers_everybody_is_here_and_hears_all(
    two_workers: Server, tabs: Callable[..., Tab], channels: Channels
) -> None:
    watcher = tabs(two_workers, "lobby", "Watcher")
    guests = guests_of_both(two_workers, channels)
    watcher.wait_for_only(*sorted(guests), "Watcher")
    said = [(name, f"I am {name}") for name in guests]
    for name, text in said:
        assert post(two_workers, "lobby", {"name": name, "text": text}) == 204
    watcher.wait_for_said(*said)
    for name in list(guests)[:6]:
        guests.pop(name).fin()
    watcher.wait_for_only(*sorted(guests), "Watcher")


@pytest.mark.long
def test_a_worker_that_is_killed_leaves_no_ghosts_and_loses_no_message(
    two_workers: Server, tabs: Callable[..., Tab], channels: Channels
) -> None:
    watcher = tabs(two_workers, "lobby", "Watcher")
    guests = guests_of_both(two_workers, channels)
    watcher.wait_for_only(*sorted(guests), "Watcher")
    said = [("Ann", f"message {number}") for number in range(20)]
    for name, text in said[:10]:
        assert post(two_workers, "lobby", {"name": name, "text": text}) == 204
    watcher.wait_for_said(*said[:10])
    for pid in workers(two_workers):
        os.kill(pid, signal.SIGKILL)
    # The guests do not come back, as raw connections do not; the page does.
    for client in guests.values():
        client.fin()
    wait_until(lambda: len(workers(two_workers)) == 2, "two new workers")
    for name, text in said[10:]:
        assert post(two_workers, "lobby", {"name": name, "text": text}) == 204
    watcher.wait_for_said(*said)
    watcher.wait_for_only("Watcher")
    assert watcher.texts("#said .note") == []


@pytest.mark.long
def test_whoever_was_of_a_killed_worker_is_gone_for_those_of_another(
    two_workers: Server, tabs: Callable[..., Tab], channels: Channels
) -> None:
    watcher = tabs(two_workers, "lobby", "Watcher")
    guests = guests_of_both(two_workers, channels)
    watcher.wait_for_only(*sorted(guests), "Watcher")
    parts = parts_of(channels)
    (gone,) = [worker for worker, names in parts.items() if "Watcher" not in names]
    os.kill(int(gone.rpartition("-")[2]), signal.SIGKILL)
    # Nobody comes back, and nothing but the time says that they are gone.
    stay = sorted(guests.keys() - set(parts[gone]))
    watcher.wait_for_only(*stay, "Watcher")
    assert watcher.text("#state") == "connected"
    # And those of the other stay, though nothing but the time passes.
    count = len(channels.history("here:lobby"))
    wait_until(lambda: len(channels.history("here:lobby")) >= count + 5, "it to be told again")
    watcher.wait_for_only(*stay, "Watcher")
    for client in guests.values():
        client.fin()


def guest(server: Server, name: str) -> Client:
    client = Client(server.port).get(f"/lobby/events?name={name}")
    client.read_until(b":ok\n\n")
    return client


def guests_of_both(server: Server, channels: Channels) -> dict[str, Client]:
    """A dozen by their names, and more until both workers have some."""
    guests: dict[str, Client] = {}

    def some_more() -> bool:
        name = f"P{len(guests)}"
        guests[name] = guest(server, name)
        here = [set(names) & guests.keys() for names in parts_of(channels).values()]
        return len(guests) >= 12 and len(list(filter(None, here))) == 2

    wait_until(some_more, "guests of both workers")
    return guests


def parts_of(channels: Channels) -> dict[str, list[str]]:
    """The names that each worker has said are in the lobby."""
    told = [json.loads(str(message["data"])) for message in channels.history("here:lobby")]
    return {part["worker"]: part["names"] for part in told}


@pytest.mark.long
def test_while_the_broker_is_away_the_page_stays_and_says_what_was_not_sent(
    serve: Callable[..., Server],
    start_redis: Callable[..., RedisServer],
    tabs: Callable[..., Tab],
) -> None:
    redis = start_redis(durable=True)
    server = serve(
        "gevent", "examples.chat:app", env={**ENV, "SSESTREAM_URL": redis.url}, args=QUICK
    )
    ann = tabs(server, "lobby", "Ann")
    ann.say("before")
    ann.wait_for_said(("Ann", "before"))
    redis.stop()
    ann.say("during")
    wait_until(lambda: ann.text("#problem") == "not sent: SERVICE UNAVAILABLE", "the refusal")
    redis.start()

    def sent() -> bool:
        return post(server, "lobby", {"name": "Bob", "text": "after"}) == 204

    wait_until(sent, "the broker to be back")
    ann.wait_for_said(("Ann", "before"), ("Bob", "after"))
    assert ann.text("#state") == "connected"
    ann.wait_for_here("Ann")


def test_the_script_serves_the_page_and_its_stream() -> None:
    with script("chat.py", ENV) as port:
        page = Client(port).get("/lobby", version="1.0").read_to_end()
        assert b"new SharedEventSource(" in page
        ann = Client(port).get("/lobby/events?name=Ann")
        ann.read_until(b'"names":["Ann"]')
        body = json.dumps({"name": "Bob", "text": "hello"})
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/lobby/messages",
            body.encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(asked, timeout=60).close()
        ann.read_until(b'"text":"hello"')
        ann.fin()
