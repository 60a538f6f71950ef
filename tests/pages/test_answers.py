"""The example of an answer: it survives reloads, shows in every tab, and can be stopped."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.answers import WORDS, answer
from tests.kit.pictures import take_picture
from tests.kit.servers import Client, Server, body_of, free_port, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.server]

QUESTION = "<b>Why</b> seeds?"

# Open streams need not hold up the end of a test.
ARGS = ("-w", "2", "--graceful-timeout", "1")


def whole(question: str = QUESTION) -> str:
    return "".join(message["data"] for message in answer(question))


class Page:
    """What somebody who asks can see and do."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def text(self, id: str) -> str:
        return str(self.driver.find_element("id", id).get_property("textContent"))

    def ask(self, question: str = QUESTION) -> None:
        self.driver.find_element("id", "question").send_keys(question)
        self.driver.find_element("css selector", "#ask button").click()
        wait_until(lambda: re.search("/answers/[0-9a-f]{32}$", self.driver.current_url), "an id")

    def stop(self) -> None:
        self.driver.find_element("id", "stop").click()

    def wait_for_words(self, count: int) -> None:
        wait_until(lambda: len(self.text("answer")) >= count, f"{count} characters of the answer")

    def wait_for(self, state: str) -> None:
        wait_until(lambda: state in self.text("state"), state, 60)


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    # What `whole` makes needs no time.
    monkeypatch.setattr("examples.answers.PACE", 0.0)
    return {"SSESTREAM_URL": f"sqlite:///{tmp_path}/answers.db", "ANSWERS_PACE": "0.04"}


@pytest.fixture
def page(driver: Any, serve: Callable[..., Server], env: dict[str, str]) -> Page:
    server = serve("gevent", "examples.answers:app", env=env, args=ARGS, port=free_port())
    driver.get(server.url)
    return Page(driver)


def test_an_answer_is_whole_after_a_reload_in_its_middle_and_in_a_second_tab(page: Page) -> None:
    question = "What do you think of streams?"
    page.ask(question)
    page.wait_for_words(100)
    page.driver.refresh()
    page.wait_for_words(300)
    take_picture(page.driver, "answers", 800, 440)
    first, address = page.driver.current_window_handle, page.driver.current_url
    page.driver.switch_to.new_window("tab")
    page.driver.get(address)
    page.wait_for("whole answer")
    assert page.text("answer") == whole(question)
    page.driver.close()
    page.driver.switch_to.window(first)
    page.wait_for("whole answer")
    assert page.text("answer") == whole(question)
    # The page that is loaded when all is done shows it, too.
    page.driver.refresh()
    page.wait_for("whole answer")
    assert page.text("answer") == whole(question)
    assert [each for each in page.driver.get_log("browser") if each["level"] == "SEVERE"] == []


def test_an_answer_that_is_stopped_in_one_tab_ends_in_the_other(page: Page) -> None:
    page.ask()
    page.wait_for_words(100)
    first, address = page.driver.current_window_handle, page.driver.current_url
    page.driver.switch_to.new_window("tab")
    page.driver.get(address)
    page.wait_for_words(100)
    page.stop()
    page.wait_for("stopped")
    got = page.text("answer")
    page.driver.close()
    page.driver.switch_to.window(first)
    page.wait_for("stopped")
    assert page.text("answer") == got
    assert whole().startswith(got)
    assert len(got) < len(whole())


@pytest.mark.long
def test_the_next_question_is_another_answer_and_an_unknown_one_is_none(page: Page) -> None:
    page.ask()
    page.wait_for_words(100)
    page.driver.find_element("id", "question").clear()
    first = page.driver.current_url
    page.driver.find_element("id", "question").send_keys("And now?")
    page.driver.find_element("css selector", "#ask button").click()
    wait_until(lambda: page.driver.current_url != first, "the next answer")
    page.wait_for("whole answer")
    assert page.text("answer") == whole("And now?")
    page.driver.get(re.sub("[0-9a-f]{32}$", "0" * 32, first))
    page.wait_for("no such answer")


@pytest.mark.parametrize("kind", ["SseWorker", "gthread", "flask"])
def test_an_answer_is_read_by_any_client_on_any_server(
    kind: str, serve: Callable[..., Server], env: dict[str, str]
) -> None:
    server = serve(kind, "examples.answers:app", env={**env, "ANSWERS_PACE": "0"})
    body = json.dumps({"question": QUESTION}).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{server.url}/answers", body, headers)
    with urllib.request.urlopen(asked, timeout=60) as got:
        id = json.load(got)["id"]
    for _ in range(2):
        client = Client(server.port).get(f"/answers/{id}/events", "Connection: close")
        text = body_of(client.read_to_end()).decode()
        assert text.count("event: word\n") == WORDS + 1
        assert text.count("event: done\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("body", [b"{}", b"[]", b"no JSON", b'{"question": " "}'])
def test_what_is_no_question_is_refused(
    body: bytes, serve: Callable[..., Server], env: dict[str, str]
) -> None:
    server = serve("gevent", "examples.answers:app", env=env)
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{server.url}/answers", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked, timeout=60)
    assert caught.value.code == 400
    caught.value.close()
