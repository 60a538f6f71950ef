"""The page for operators in Chromium: live, bounded, safe, and usable without a mouse."""

import os
import signal
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from ssestream import Channels
from ssestream.operators.looks import STREAMS
from tests.kit.pictures import emulate, take_picture
from tests.kit.servers import Client, Server, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.server]

# Open streams need not hold up the end of a test.
ARGS = ("-w", "2", "--graceful-timeout", "1", "--worker-connections", "4000")

#: What runs if a page takes a text for markup.
EVIL = "<img src=x onerror=window.hit=1><script>window.hit=1</script>\u202e"


#: The place of a rate that is not known yet.
NONE = "\u2013"


class Page:
    """The page, opened by an operator."""

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver, self.server = driver, server
        driver.get(f"{server.url}/log-in")
        driver.get_log("browser")
        driver.get(f"{server.url}/operators/")
        self.wait_for("live")

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        # In one go, as the page may draw meanwhile.
        script = "return document.querySelector(arguments[0])?.textContent ?? ''"
        return str(self.driver.execute_script(script, selector))

    def wait_for(self, state: str) -> None:
        wait_until(lambda: self.text("#state") == state, state)

    def rows(self, table: str) -> list[list[str]]:
        """The texts of all cells."""
        script = (
            "return [...document.querySelectorAll(`#${arguments[0]}-table tbody tr`)]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        return [list(map(str, row)) for row in self.driver.execute_script(script, table)]

    def clients(self) -> list[str]:
        """The clients of the open streams, without the page itself."""
        return [row[0] for row in self.rows("streams") if "/operators/" not in row[0]]

    def focused(self) -> str:
        script = (
            "return document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
        )
        return str(self.driver.execute_script(script))

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def severe(self) -> list[Any]:
        """What the browser has complained of, such as a violation of the policy."""
        return [each for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"NUMBERS": str(tmp_path), "EVENTS": f"sqlite:///{tmp_path}/events.db"}


@pytest.fixture
def server(env: dict[str, str]) -> Iterator[Server]:
    server = Server("SseWorker", "tests.servers.apps.operators:app", env=env, args=ARGS)
    yield server.start()
    server.stop()


@pytest.fixture
def page(driver: Any, server: Server) -> Iterator[Page]:
    page = Page(driver, server)
    yield page
    assert page.severe() == []


def follow(server: Server, *paths: str) -> list[Client]:
    clients = [Client(server.port).get(f"/follow/{urllib.parse.quote(each)}") for each in paths]
    for client in clients:
        client.read_until(b":ok\n\n")
    return clients


@pytest.mark.long
def test_streams_come_and_go_with_their_channels_and_their_causes(page: Page) -> None:
    assert page.text("#channels-note") == "No channel is followed."
    assert page.text("#ends-note") == "No stream has ended yet."
    clients = follow(page.server, "news/a", "news/b", "sports/c")
    wait_until(lambda: len(page.clients()) == 3, "the streams")
    wait_until(lambda: page.text("#open") == "4", "their number, with the page's own stream")
    assert sorted(row[:3] for row in page.rows("channels")) == [
        ["news", "2", "0"],
        ["sports", "1", "0"],
    ]
    Channels(page.server.env["EVENTS"]).publish("news", {"data": "hello"})
    wait_until(lambda: page.text("#messages") not in (NONE, "0.0"), "the rate of messages")
    clients[0].fin()
    wait_until(lambda: page.rows("ends"), "the end")
    (end,) = page.rows("ends")
    assert end[1:3] == ["127.0.0.1 '/follow/news/a'", "its client left"]
    assert page.text("#causes") == "1 \u00d7 its client left"
    assert page.text("#ends-note") == ""
    wait_until(lambda: len(page.clients()) == 2, "it to go")


@pytest.mark.long
def test_a_text_of_a_client_stays_text(page: Page) -> None:
    client = follow(page.server, f"news/{EVIL}")
    wait_until(page.clients, "the stream")
    (shown,) = page.clients()
    assert "<img src=x onerror=window.hit=1><script>" in shown
    # One that turns the direction of writing is an escape.
    assert "\u202e" not in shown
    page.find("#streams-table button[aria-label*=img]").click()
    wait_until(lambda: page.find("#confirm").is_displayed(), "the question")
    assert "<img src=x" in page.text("#confirm-text")
    page.find("#no").click()
    client[0].fin()
    wait_until(lambda: any("<img src=x" in row[1] for row in page.rows("ends")), "the end")
    find = page.find("#find")
    find.send_keys("<img")
    wait_until(lambda: page.text("#streams-note") == "No stream is open.", "the search")
    script = (
        "return [window.hit ?? null, document.querySelectorAll('main img, body script').length]"
    )
    assert page.driver.execute_script(script) == [None, 0]
    find.clear()
    # Also what an answer says of a text of the operator's own.
    page.find("#publish [name=channel]").send_keys("<img src=x>", Keys.ENTER)
    wait_until(lambda: "<img src=x>" in page.text("#done"), "the answer")
    assert page.driver.execute_script(script) == [None, 0]
    # The browser says so much of the 400.
    (complaint,) = page.severe()
    assert "/operators/publish" in complaint["message"]


@pytest.mark.long
def test_a_stream_is_cut_with_the_keyboard_alone(page: Page) -> None:
    one, two = follow(page.server, "news/one", "sports/two")
    wait_until(lambda: len(page.clients()) == 2, "the streams")
    page.driver.execute_script("document.querySelector('#streams-title').scrollIntoView()")
    for _ in range(40):
        page.press(Keys.TAB)
        if page.focused() == "Cut: 127.0.0.1 '/follow/news/one'":
            break
    assert page.focused() == "Cut: 127.0.0.1 '/follow/news/one'"
    # The table is drawn each second, and the focus stays.
    third = follow(page.server, "news/three")
    wait_until(lambda: len(page.clients()) == 3, "one more stream")
    assert page.focused() == "Cut: 127.0.0.1 '/follow/news/one'"
    page.press(Keys.ENTER)
    # The harmless answer has the focus first.
    wait_until(lambda: page.focused() == "no", "the question")
    assert page.text("#confirm-text") == "127.0.0.1 '/follow/news/one' news"
    page.press(Keys.ESCAPE)
    assert not page.find("#confirm").is_displayed()
    assert page.focused() == "Cut: 127.0.0.1 '/follow/news/one'"
    page.press(Keys.ENTER)
    page.press(Keys.TAB)
    assert page.focused() == "yes"
    page.press(Keys.ENTER)
    one.read_to_end()
    wait_until(lambda: len(page.clients()) == 2, "it to go")
    assert page.text("#done") == "The stream is cut within about a second."
    wait_until(lambda: page.rows("ends"), "the end")
    (end,) = page.rows("ends")
    assert end[1:3] == ["127.0.0.1 '/follow/news/one'", "it was destroyed, or cut here"]
    Channels(page.server.env["EVENTS"]).publish("sports", {"data": "hello"})
    two.read_until(b"hello")
    third[0].fin()


def test_a_test_event_goes_to_the_channel_and_a_channel_and_a_key_are_cut(page: Page) -> None:
    keyed = Client(page.server.port).get("/follow/news/keyed?key=user:7")
    keyed.read_until(b":ok\n\n")
    news, sports = follow(page.server, "news/plain", "sports")
    for name, value in (("channel", "news"), ("event", "test"), ("data", "hello\n<b>")):
        page.find(f"#publish [name={name}]").send_keys(value)
    page.find("#publish button").click()
    news.read_until(b"event: test\n")
    news.read_until(b"data: hello\ndata: <b>\n\n")
    wait_until(lambda: page.text("#done") == "The event is published.", "the answer")

    page.find("#key [name=channel]").send_keys("news")
    page.find("#key [name=key]").send_keys("user:7", Keys.ENTER)
    page.find("#yes").click()
    keyed.read_to_end()
    wait_until(lambda: len(page.clients()) == 2, "the stream with the key to go")

    page.find("#channels-table button[aria-label='End streams: news']").click()
    page.find("#yes").click()
    news.read_to_end()
    wait_until(lambda: page.clients() == ["127.0.0.1 '/follow/sports'"], "it to go")
    sports.fin()


@pytest.mark.long
def test_two_thousand_streams_are_a_short_page(page: Page) -> None:
    paths = [f"room:{number % 60}/{number}" for number in range(2000)]
    clients: list[Client] = []
    for first in range(0, 2000, 100):
        clients += follow(page.server, *paths[first : first + 100])
    wait_until(lambda: page.text("#open") == "2,001", "all streams")
    assert len(page.rows("streams")) == STREAMS
    assert page.text("#streams-note") == f"{2001 - STREAMS:,} more streams."
    assert len(page.rows("channels")) == 50
    assert page.text("#channels-note") == "10 more channels."
    # It finds a channel, and streams among those that are told.
    page.find("#find").send_keys("room:7")
    wait_until(lambda: [row[0] for row in page.rows("channels")] == ["room:7"], "the search")
    assert page.text("#channels-note") == ""
    assert page.rows("channels")[0][1] == "34"
    assert all(row[1] == "room:7" for row in page.rows("streams"))
    page.find("#find").send_keys(Keys.BACKSPACE * len("room:7"))
    wait_until(lambda: len(page.rows("channels")) == 50, "the search to end")
    for client in clients:
        client.fin()
    wait_until(lambda: page.text("#open") == "1", "the departures")
    assert len(page.rows("ends")) == 50


@pytest.mark.long
def test_a_pause_holds_the_page_still(page: Page) -> None:
    pause = page.find("#pause")
    pause.click()
    assert (page.text("#state"), pause.get_attribute("aria-pressed")) == ("paused", "true")
    (client,) = follow(page.server, "news")
    # The page would show it in its next look, as a second tab does.
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    second = Page(page.driver, page.server)
    wait_until(second.clients, "the stream")
    page.driver.close()
    page.driver.switch_to.window(first)
    assert page.clients() == []
    pause.click()
    wait_until(page.clients, "the stream")
    assert page.text("#state") == "live"
    client.fin()


@pytest.mark.long
def test_it_goes_on_after_a_kill_and_stops_for_somebody_who_is_no_operator_any_more(
    driver: Any, server: Server, env: dict[str, str], serve: Callable[..., Server]
) -> None:
    page = Page(driver, server)
    port = server.port
    server.stop()
    page.wait_for("reconnecting")
    again = serve("SseWorker", "tests.servers.apps.operators:app", env=env, args=ARGS, port=port)
    page.wait_for("live")
    (client,) = follow(again, "news")
    wait_until(page.clients, "a stream of the new server")
    driver.delete_cookie("operator")
    again_pids = [int(row[0]) for row in page.rows("processes")]
    for pid in again_pids:
        os.kill(pid, signal.SIGKILL)
    page.wait_for("You are not admitted any more. Reload the page.")
    driver.get(f"{again.url}/operators/")
    assert page.text("h1") == "Forbidden"
    client.fin()
    page.severe()


@pytest.mark.long
def test_it_is_as_wide_as_its_window_in_light_and_dark(page: Page) -> None:
    clients = follow(page.server, "news/" + "x" * 300, "sports")
    wait_until(lambda: len(page.clients()) == 2, "the streams")
    try:
        grounds = set()
        for scheme in ("light", "dark"):
            for width in (360, 1200):
                emulate(page.driver, scheme, width)
                script = (
                    "return [document.documentElement.scrollWidth,"
                    " getComputedStyle(document.body).backgroundColor]"
                )
                wide, ground = page.driver.execute_script(script)
                assert wide <= width
                grounds.add(ground)
        assert len(grounds) == 2
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    for client in clients:
        client.fin()


@pytest.mark.long
def test_the_picture_of_the_docs(page: Page) -> None:
    channels = Channels(page.server.env["EVENTS"])
    clients = follow(page.server, *(f"news/{n}" for n in range(5)), "sports/1", "sports/2")
    clients.append(Client(page.server.port).get("/follow/user:7/inbox?key=user:7"))
    gone = follow(page.server, "news/6", "sports/3")
    wait_until(lambda: len(page.clients()) == 10, "the streams")
    for client in gone:
        client.fin()
    wait_until(lambda: len(page.rows("ends")) == 2, "the ends")
    for number in range(20):
        channels.publish("news", {"data": f"{number} {'x' * 200}"})
    wait_until(lambda: page.rows("channels")[0][3] not in (NONE, "0.0"), "the rate")
    page.driver.execute_script("document.activeElement.blur()")
    take_picture(page.driver, "operators", 1280, 1000)
    for client in clients:
        client.fin()
