"""The example page with its three clocks, in a real browser against a real server."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.pictures import WANTED, emulate, take_picture
from tests.kit.servers import ROOT, Client, Server, body_of, free_port, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.server]

CLOCKS = ("raw", "clock", "pipeline")

#: Seconds that a busy machine may take for a departure. By the heartbeat it would be 15.
AT_ONCE = 10.0


class Page:
    """What somebody who looks at the page can see and do."""

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver = driver
        self.server = server

    def text(self, selector: str) -> str:
        return str(self.driver.find_element("css selector", selector).text)

    def time(self, clock: str) -> str:
        return self.text(f"#{clock} .time")

    def id(self, clock: str) -> int:
        found = re.fullmatch(r"message (\d+)", self.text(f"#{clock} .id"))
        return -1 if found is None else int(found[1])

    def state(self, clock: str) -> str:
        return self.text(f"#{clock} .state")

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def log(self, clock: str, kind: str) -> list[str]:
        """What the log says of this *kind* on this *clock*, newest first."""
        lines = self.driver.execute_script(
            "return [...document.querySelectorAll('#log li')]"
            ".map((line) => [...line.children].map((cell) => cell.textContent))"
        )
        return [more for _, where, what, more in lines if (where, what) == (f"/{clock}", kind)]

    def seen(self) -> set[str]:
        items = self.driver.find_elements("css selector", "#seen .yes")
        return {item.get_attribute("id").removeprefix("seen-") for item in items}

    def wait_to_move(self, clock: str) -> None:
        before = self.time(clock)
        wait_until(lambda: self.time(clock) != before, f"/{clock} to move")

    def console(self, pattern: str) -> int:
        """How many lines of the server's console match."""
        return len(re.findall(f"^{pattern}$", self.server.log(), re.MULTILINE))

    def streams(self, clock: str) -> int:
        """How many are open, by the server's console."""
        opened = self.console(rf"/{clock} opens with id \d+")
        return opened - self.console(rf"/{clock} closed after [\d.]+ s")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("SseWorker", "examples.clock:app").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def driver(driver: Any) -> Any:
    driver.set_window_size(1180, 900)
    return driver


@pytest.fixture
def page(driver: Any, server: Server) -> Page:
    return show(driver, server)


def show(driver: Any, server: Server) -> Page:
    driver.get(server.url)
    page = Page(driver, server)
    wait_until(lambda: [page.state(clock) for clock in CLOCKS] == ["open"] * 3, "three streams")
    return page


def test_the_three_clocks_move(page: Page) -> None:
    for clock in CLOCKS:
        wait_until(lambda clock=clock: page.id(clock) >= 0, f"the first message of /{clock}")
        assert re.fullmatch(r"[012]\d:[0-5]\d:[0-5]\d", page.time(clock))
        page.wait_to_move(clock)
        assert page.log(clock, "open")
        assert page.log(clock, "message")
    assert page.seen() >= {"open", *CLOCKS}
    assert [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.long
def test_an_event_with_a_name_of_its_own_arrives_in_utf_8(page: Page) -> None:
    wait_until(lambda: page.log("clock", "foo"), "a greeting")
    assert page.log("clock", "foo") == ["Grüße"]
    assert page.seen() >= {"foo", "utf8"}


@pytest.mark.long
def test_the_close_button_ends_the_stream_and_the_server_hears_it_at_once(page: Page) -> None:
    for clock in CLOCKS:
        # Those of the tests before may still be on their way out.
        wait_until(lambda clock=clock: page.streams(clock) == 1, f"one /{clock}", AT_ONCE)
        page.click(f"#{clock} .switch")
        wait_until(lambda clock=clock: page.streams(clock) == 0, f"/{clock} to close", AT_ONCE)
        assert page.state(clock) == "closed"
        assert page.log(clock, "close()") == ["by the button"]
        assert page.log(clock, "error") == []
        # The others go on, and are the time in which this one would.
        stopped = page.time(clock), page.id(clock)
        other = next((each for each in CLOCKS if page.state(each) == "open"), None)
        if other is not None:
            page.wait_to_move(other)
            page.wait_to_move(other)
        assert (page.time(clock), page.id(clock)) == stopped
    assert "close" in page.seen()

    page.click("#clock .switch")
    wait_until(lambda: page.state("clock") == "open", "/clock to open again")
    page.wait_to_move("clock")


@pytest.mark.parametrize("how", ["the page is left", "the tab is closed"])
def test_when_somebody_goes_the_server_hears_it_at_once(page: Page, how: str) -> None:
    driver = page.driver
    if how == "the tab is closed":
        driver.get("about:blank")
        window = driver.current_window_handle
        driver.switch_to.new_window("tab")
        show(driver, page.server)
    for clock in CLOCKS:
        wait_until(
            lambda clock=clock: page.streams(clock) == 1,
            f"one /{clock} to be open",
            AT_ONCE,
        )
    if how == "the tab is closed":
        driver.close()
        driver.switch_to.window(window)
    else:
        driver.get("about:blank")
    for clock in CLOCKS:
        wait_until(lambda clock=clock: page.streams(clock) == 0, f"/{clock} to close", AT_ONCE)


@pytest.mark.long
def test_when_the_server_ends_the_stream_the_browser_comes_back_after_retry(page: Page) -> None:
    wait_until(lambda: page.log("clock", "foo"), "some messages")
    page.click("#end")
    wait_until(lambda: page.log("clock", "error"), "onerror")
    said = re.fullmatch(r"comes back after id (\d+)", page.log("clock", "error")[0])
    assert said is not None
    last = int(said[1])
    wait_until(lambda: page.log("clock", "resumed"), "the clock to come back")
    assert page.log("clock", "resumed") == [f"id {last} before, id {last + 1} now"]
    assert page.console(f"/clock opens with id {last + 1}") >= 1
    assert page.seen() >= {"error", "resume", "retry"}
    assert page.log("raw", "error") == page.log("pipeline", "error") == []
    if WANTED:
        wait_until(lambda: page.log("clock", "foo"), "something in the log")
        page.click("#pipeline .switch")
        take_picture(page.driver, "clock")


def test_after_a_restart_of_the_server_every_clock_resumes(
    driver: Any, serve: Callable[..., Server]
) -> None:
    server = serve("gevent", "examples.clock:app", port=free_port())
    page = show(driver, server)
    film = Film(page) if WANTED else None
    if film is not None:
        film.take_ticks(4)
    for clock in CLOCKS:
        wait_until(lambda clock=clock: page.id(clock) >= 2, f"some messages of /{clock}")
    server.stop()
    for clock in CLOCKS:
        wait_until(lambda clock=clock: page.log(clock, "error"), f"onerror of /{clock}")
        assert page.state(clock) == "connecting"
    if film is not None:
        film.take(2000)
    last = {clock: page.id(clock) for clock in CLOCKS}
    page.server = serve("gevent", "examples.clock:app", port=server.port)
    for clock in CLOCKS:
        wait_until(lambda clock=clock: page.log(clock, "resumed"), f"/{clock} to resume")
        went_on = f"id {last[clock]} before, id {last[clock] + 1} now"
        assert page.log(clock, "resumed") == [went_on]
        assert page.console(f"/{clock} opens with id {last[clock] + 1}") == 1
        assert page.state(clock) == "open"
    assert "resume" in page.seen()
    if film is not None:
        film.take_ticks(4)
        film.save(ROOT / "docs" / "clock.gif")


@pytest.mark.long_except("1.0-pipeline")
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_any_peer_gets_an_event_stream_of_fields_and_blank_lines(
    server: Server, clock: str, version: str
) -> None:
    client = Client(server.port).get(f"/{clock}", version=version)
    client.read_until(b"\r\n\r\n")
    while not re.search(rb"data: ?\d\d:\d\d:\d\d\n\n", body_of(client.received)):
        client.received += client.sock.recv(65536)
    client.fin()
    head, _, _ = client.received.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/{version} 200 OK\r\n".encode())
    assert b"Content-Type: text/event-stream; charset=utf-8" in head
    assert (b"chunked" in head) == (version == "1.1")
    expected = {
        "raw": rb"id:0\nevent:message\ndata:..:..:..\n\n",
        "clock": rb":ok\n\nevent: message\nid: 0\nretry: 2000\ndata: ..:..:..\n\n",
        "pipeline": rb":ok\n\nretry: 2000\n\nid: 0\ndata: ..:..:..\n\n",
    }
    assert re.fullmatch(expected[clock], body_of(client.received))


def test_a_last_event_id_that_is_no_number_starts_from_0(server: Server) -> None:
    hostile = ["-1", "x", "1e3", "9" * 400, "٣", "1 2", "0x10", ""]
    clients = [
        Client(server.port).get(f"/{clock}", f"Last-Event-ID: {said}")
        for clock in CLOCKS
        for said in hostile
    ]
    for client in clients:
        assert re.search(rb"id: ?0\n", client.read_until(b"data:"))
        client.fin()


class Film:
    """The moving picture of the README."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[bytes] = []
        # Milliseconds for which each frame is shown.
        self._shown: list[int] = []

    def take(self, milliseconds: int) -> None:
        emulate(self._page.driver, "light", 1180)
        self._frames.append(self._page.driver.get_screenshot_as_png())
        self._shown.append(milliseconds)

    def take_ticks(self, count: int) -> None:
        """One frame after each of *count* messages of a clock."""
        for _ in range(count):
            before = self._page.id("clock")
            wait_until(lambda before=before: self._page.id("clock") > before, "a tick")
            self.take(1000)

    def save(self, path: Path) -> None:
        from PIL import Image

        images = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in self._frames]
        small = [each.resize((each.width * 2 // 3, each.height * 2 // 3)) for each in images]
        first, *rest = (each.quantize(64) for each in small)
        first.save(path, save_all=True, append_images=rest, duration=self._shown, loop=0)
