"""The example of a long job: its bar outlives reloads, tabs, workers and the server."""

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ssestream import Channels
from tests.kit.pictures import take_picture
from tests.kit.servers import ROOT, Client, Server, free_port, wait_until
from tests.servers.apps.scripts import script

pytestmark = [pytest.mark.browser, pytest.mark.server]

# Open streams need not hold up the end of a test.
ARGS = ("-w", "2", "--graceful-timeout", "1")

STEPS = 100


class Page:
    """What somebody who looks at the page of a job can see and do."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def text(self, selector: str) -> str:
        return str(self.driver.find_element("css selector", selector).text)

    def bar(self) -> float:
        return float(self.driver.find_element("id", "bar").get_property("value"))

    def steps(self) -> list[str]:
        """Oldest first."""
        return list(
            self.driver.execute_script(
                "return [...document.querySelectorAll('#log li')].map((e) => e.textContent)"
            )
        )[::-1]

    def wait_for_step(self, step: int) -> None:
        wait_until(lambda: self.bar() >= step, f"step {step}")

    def wait_for_the_end(self) -> None:
        wait_until(lambda: self.text("#state").startswith("done"), "the end of the job", 60)
        assert self.bar() == STEPS
        # Each once, in order.
        assert self.steps() == [f"picture {step}" for step in range(1, STEPS + 1)]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"SSESTREAM_URL": f"sqlite:///{tmp_path}/progress.db", "JOB_SECONDS": "6"}


@pytest.fixture
def channels(env: dict[str, str]) -> Channels:
    """As the job itself has them."""
    return Channels(env["SSESTREAM_URL"])


@pytest.fixture
def two_workers(serve: Callable[..., Server], env: dict[str, str]) -> Server:
    server = serve("gevent", "examples.progress:app", env=env, args=ARGS, port=free_port())
    wait_until(lambda: len(workers(server)) == 2, "two workers")
    return server


def workers(server: Server) -> list[int]:
    assert server.process is not None
    return [child.pid for child in psutil.Process(server.process.pid).children()]


def start_a_job(driver: Any, server: Server) -> Page:
    driver.get(server.url)
    driver.find_element("css selector", "button").click()
    wait_until(lambda: re.search(r"/jobs/[0-9a-f-]{36}$", driver.current_url), "the job's page")
    return Page(driver)


@pytest.mark.long
def test_the_bar_moves_and_goes_on_after_a_reload_in_the_middle(
    driver: Any, two_workers: Server
) -> None:
    page = start_a_job(driver, two_workers)
    page.wait_for_step(10)
    before = page.steps()
    assert before == [f"picture {step}" for step in range(1, len(before) + 1)]
    # It is where it was at once, also when no event can come.
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/events*"]})
    driver.refresh()
    assert page.bar() >= len(before)
    assert page.steps()[: len(before)] == before
    driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    driver.get_log("browser")
    driver.refresh()
    page.wait_for_step(40)
    take_picture(driver, "progress", 800, 690)
    # A second tab shows the same.
    first = driver.current_window_handle
    address = driver.current_url
    driver.switch_to.new_window("tab")
    driver.get(address)
    page.wait_for_the_end()
    driver.close()
    driver.switch_to.window(first)
    page.wait_for_the_end()
    # The page that is loaded when all is done knows, and asks for no stream.
    driver.refresh()
    page.wait_for_the_end()
    assert page.text("#connection") == ""
    log = driver.get_log("browser")
    assert [entry for entry in log if entry["level"] == "SEVERE"] == []


@pytest.mark.long
def test_when_the_workers_are_killed_the_job_goes_on_and_the_bar_misses_nothing(
    driver: Any, two_workers: Server
) -> None:
    page = start_a_job(driver, two_workers)
    page.wait_for_step(5)
    # The page is one that was loaded in the middle, so that its address and the browser
    # say different things about where it was.
    driver.refresh()
    page.wait_for_step(20)
    for pid in workers(two_workers):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: page.text("#connection") == "connecting", "onerror")
    page.wait_for_the_end()


@pytest.mark.long
def test_when_the_server_is_started_again_the_bar_misses_nothing(
    driver: Any, two_workers: Server, serve: Callable[..., Server], env: dict[str, str]
) -> None:
    page = start_a_job(driver, two_workers)
    page.wait_for_step(20)
    two_workers.stop()
    wait_until(lambda: page.text("#connection") == "connecting", "onerror")
    serve("gevent", "examples.progress:app", env=env, args=ARGS, port=two_workers.port)
    page.wait_for_the_end()


@pytest.mark.long
def test_a_job_that_is_run_by_hand_has_a_page_before_it_has_begun(
    driver: Any, two_workers: Server, env: dict[str, str]
) -> None:
    driver.get(f"{two_workers.url}/jobs/nightly")
    page = Page(driver)
    wait_until(lambda: page.text("#connection") == "connected", "the stream")
    assert (page.bar(), page.steps()) == (0, [])
    job = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "progress_job.py", "nightly"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )
    try:
        page.wait_for_the_end()
        assert job.wait(60) == 0
    finally:
        job.kill()
        job.wait()


@pytest.mark.long
def test_a_job_that_fails_is_shown_to_have(
    driver: Any, two_workers: Server, channels: Channels
) -> None:
    hostile = "</script><img src=x onerror='document.title=\"gone\"'>"
    channels.publish("job:broken", {"event": "progress", "data": {"step": 7, "what": hostile}})
    driver.get(f"{two_workers.url}/jobs/broken")
    page = Page(driver)
    assert page.bar() == 7
    channels.publish("job:broken", {"event": "failed", "data": {"what": hostile}})
    wait_until(lambda: page.text("#state") == f"failed: {hostile}", "the failure")
    driver.refresh()
    assert page.text("#state") == f"failed: {hostile}"
    assert page.steps() == [hostile]
    assert driver.title == "A long job over Server-Sent Events"


@pytest.mark.long_except("%3Cb%3E")
@pytest.mark.parametrize("job", ["a%20b", "a:b", "x" * 41, "%3Cb%3E", "a%0Ab"])
def test_a_name_that_no_job_has_is_not_found(two_workers: Server, job: str) -> None:
    for path in (f"/jobs/{job}", f"/jobs/{job}/events"):
        head = Client(two_workers.port).get(path).read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 "), path


def test_an_id_that_was_made_up_gets_the_job_from_its_beginning(
    two_workers: Server, channels: Channels
) -> None:
    for step in (1, 2):
        channels.publish("job:j", {"event": "progress", "data": {"step": step, "what": "x"}})
    for said in ("made up", "job:j=4c1b9a20.1", "job:j=.0", "job:j=" + "9" * 900):
        client = Client(two_workers.port).get("/jobs/j/events", f"Last-Event-ID: {said}")
        received = client.read_until(b'"step":2')
        assert b'"step":1' in received
        assert said.encode() not in received
        client.fin()


def test_more_jobs_than_may_run_at_once_are_refused(
    serve: Callable[..., Server], env: dict[str, str]
) -> None:
    server = serve("gevent", "examples.progress:app", env=env)
    codes = []
    for _ in range(5):
        asked = urllib.request.Request(f"{server.url}/jobs", b"")
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                codes.append(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                codes.append(error.code)
    # They outlive their worker, and would this test.
    for pid in workers(server):
        for job in psutil.Process(pid).children():
            job.kill()
    assert codes == [200] * 4 + [429]


def test_the_script_serves_the_page_and_its_stream(env: dict[str, str], channels: Channels) -> None:
    with script("progress.py", env) as port:
        page = Client(port).get("/jobs/j", version="1.0").read_to_end()
        assert b"new EventSource(" in page
        client = Client(port).get("/jobs/j/events")
        client.read_until(b":ok\n\n")
        channels.publish("job:j", {"event": "done", "data": {"what": "it"}})
        client.read_until(b'"what":"it"')
        client.fin()
