"""The example dashboard: several channels on one stream, and a plot that moves."""

import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from examples.dashboard import STORM
from ssestream import Channels
from tests.kit.pictures import take_picture
from tests.kit.servers import ROOT, Server, wait_until
from tests.servers.apps.scripts import script

pytestmark = [pytest.mark.browser, pytest.mark.server]

# Open streams need not hold up the end of a test.
ARGS = ("-w", "2", "--graceful-timeout", "1")

CHANNELS = ("temperature", "wind")

COUNT = """
window.opened = [];
{
    const { fetch } = window;
    window.fetch = (url, options) => {
        opened.push(new URL(url).pathname);
        return fetch(url, options);
    };
}
"""


class Page:
    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        driver.get(url)
        wait_until(lambda: self.text("#state") == "connected", "the stream")

    def text(self, selector: str) -> str:
        return str(self.driver.find_element("css selector", selector).text)

    def plot(self, channel: str) -> list[tuple[float, float]]:
        """The points of the line, as x and y, from left to right."""
        points = self.driver.find_element("id", f"plot-{channel}").get_attribute("points")
        return [
            (float(x), float(y)) for x, y in (pair.split(",") for pair in (points or "").split())
        ]

    def warnings(self) -> list[str]:
        return list(
            self.driver.execute_script(
                "return [...document.querySelectorAll('#warnings li')].map((e) => e.textContent)"
            )
        )


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"SSESTREAM_URL": f"sqlite:///{tmp_path}/dashboard.db"}


@pytest.fixture
def channels(env: dict[str, str]) -> Channels:
    return Channels(env["SSESTREAM_URL"], history=120)


@pytest.fixture
def two_workers(serve: Callable[..., Server], env: dict[str, str]) -> Server:
    server = serve("gevent", "examples.dashboard:app", env=env, args=ARGS)
    wait_until(lambda: len(workers(server)) == 2, "two workers")
    return server


@pytest.fixture
def station(env: dict[str, str]) -> Iterator[None]:
    """It measures in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "dashboard.py", "station"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )
    yield
    process.kill()
    process.wait()


def workers(server: Server) -> list[int]:
    assert server.process is not None
    return [child.pid for child in psutil.Process(server.process.pid).children()]


def measure(channels: Channels, at: float, temperature: float, wind: float) -> None:
    for channel, value in (("temperature", temperature), ("wind", wind)):
        channels.publish(channel, {"event": channel, "data": {"at": at, "value": value}})


def wait_to_move(page: Page) -> None:
    for channel in CHANNELS:
        wait_until(lambda channel=channel: len(page.plot(channel)) >= 3, f"the plot of {channel}")
        before = page.plot(channel)
        # Two values that came together may stand at one place.
        wait_until(
            lambda channel=channel, before=before: page.plot(channel)[0][0] < before[0][0],
            "it to move to the left",
        )
        assert before[-1][1] in [y for _, y in page.plot(channel)]


def test_the_script_draws_a_plot_that_moves(driver: Any) -> None:
    with script("dashboard.py", {}) as port:
        page = Page(driver, f"http://127.0.0.1:{port}/")
        wait_to_move(page)
        assert re.fullmatch(r"-?\d+\.\d °C", page.text("#temperature"))
        assert re.fullmatch(r"\d+\.\d m/s", page.text("#wind"))
        log = driver.get_log("browser")
        assert [entry for entry in log if entry["level"] == "SEVERE"] == []


@pytest.mark.long
def test_a_station_in_another_process_moves_the_plots_of_two_workers(
    driver: Any, two_workers: Server, station: None
) -> None:
    page = Page(driver, two_workers.url)
    wait_to_move(page)


@pytest.fixture
def opened(driver: Any) -> Iterator[Callable[[], list[str]]]:
    """Ask for the addresses of the streams that the page has opened."""
    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COUNT})
    yield lambda: list(driver.execute_script("return opened"))
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


@pytest.mark.long
def test_each_channel_of_the_one_stream_goes_where_it_belongs(
    driver: Any, two_workers: Server, channels: Channels, opened: Callable[[], list[str]]
) -> None:
    page = Page(driver, two_workers.url)
    measure(channels, 1000.0, 10.0, 5.0)
    measure(channels, 1030.0, 20.0, 6.0)
    measure(channels, 1059.0, 30.0, 7.0)
    for at in range(1000, 1007):
        channels.publish("warnings", {"event": "warnings", "data": {"at": at, "value": at / 10}})
    expected = [(1.0, 20.0), (31.0, 10.0), (60.0, 0.0)]
    wait_until(lambda: page.plot("temperature") == expected, "the plot of temperature")
    wait_until(
        lambda: page.plot("wind") == [(1.0, 25.0), (31.0, 24.0), (60.0, 23.0)], "the plot of wind"
    )
    assert (page.text("#temperature"), page.text("#wind")) == ("30.0 °C", "7.0 m/s")
    # The newest first, and no more than five.
    wait_until(lambda: page.warnings() and page.warnings()[0].endswith(" 100.6 m/s"), "warnings")
    assert [line.split()[1] for line in page.warnings()] == [
        "100.6", "100.5", "100.4", "100.3", "100.2",
    ]  # fmt: skip
    # What is more than a minute old leaves the plot at its left.
    measure(channels, 1061.0, 15.0, 8.0)
    wait_until(
        lambda: page.plot("temperature") == [(29.0, 10.0), (58.0, 0.0), (60.0, 15.0)],
        "the plot to have moved",
    )
    assert opened() == ["/events"]


@pytest.mark.long
def test_who_opens_the_page_sees_the_last_minute_at_once(
    driver: Any, two_workers: Server, channels: Channels
) -> None:
    for second in range(60):
        wind = 9 + 3.6 * math.sin(second / 6) + math.sin(second / 2)
        measure(channels, 1000.0 + second, 19 + 3 * math.sin(second / 11), wind)
        if wind > STORM:
            data = {"at": 1000.0 + second, "value": wind}
            channels.publish("warnings", {"event": "warnings", "data": data})
    page = Page(driver, two_workers.url)
    for channel in CHANNELS:
        wait_until(lambda channel=channel: len(page.plot(channel)) == 60, f"the plot of {channel}")
        assert [x for x, _ in page.plot(channel)] == [float(x) for x in range(1, 61)]
    wait_until(lambda: len(page.warnings()) == 5, "the warnings")
    take_picture(driver, "dashboard", 1000, 640)


@pytest.mark.long
def test_when_the_workers_are_killed_the_plots_have_no_hole_and_nothing_twice(
    driver: Any, two_workers: Server, channels: Channels
) -> None:
    page = Page(driver, two_workers.url)
    for second in range(20):
        measure(channels, 1000.0 + second, 10.0, 5.0)
    # So that only the browser's id can tell where each channel was.
    for channel in CHANNELS:
        wait_until(lambda channel=channel: len(page.plot(channel)) == 20, f"the plot of {channel}")
    for pid in workers(two_workers):
        os.kill(pid, signal.SIGKILL)
    for second in range(20, 40):
        measure(channels, 1000.0 + second, 10.0, 5.0)
    for channel in CHANNELS:
        wait_until(lambda channel=channel: len(page.plot(channel)) >= 40, f"the plot of {channel}")
        assert [x for x, _ in page.plot(channel)] == [float(x) for x in range(21, 61)]
