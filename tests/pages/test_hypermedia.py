"""The examples of htmx, Turbo and Datastar, in a browser with the real packages of npm.

Each shows every note once and in order, also over a reload of the server.
"""

import json
import re
import signal
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kit.pictures import take_picture
from tests.kit.servers import Server, free_port, wait_until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.usefixtures("packages"),
]

Serve = Callable[..., Server]

# Open streams need not hold up the end of a test.
ARGS = ("-w", "2", "--graceful-timeout", "1")

NOTES = ["Milk, bread and apples", "The projector is back", "Grüße aus Wien"]

#: What a visitor must not be able to put into the page.
HOSTILE = "<b>bold</b> & \"x\" </template><script>document.title = 'hacked'</script>"

#: Each page, and the example that it is of.
PAGES = {"htmx 4": ("htmx", "/"), "htmx 2": ("htmx", "/2"), "Turbo": ("turbo", "/")} | {
    "Datastar": ("datastar", "/")
}


def start(example: str, serve: Serve, tmp_path: Path) -> Server:
    env = {"SSESTREAM_URL": f"sqlite:///{tmp_path}/a.db", "NPM": "/npm", "EXAMPLE": example}
    return serve(
        "SseWorker", "tests.servers.apps.hypermedia:app", env=env, args=ARGS, port=free_port()
    )


def post(server: Server, example: str, text: str) -> None:
    """Add a note as a program does, and not as the page."""
    if example == "datastar":
        headers = {"Content-Type": "application/json"}
        body = json.dumps({"text": text}).encode()
    else:
        headers, body = {}, urllib.parse.urlencode({"text": text}).encode()
    asked = urllib.request.Request(f"{server.url}/notes", body, headers)
    urllib.request.urlopen(asked, timeout=60).close()


class Page:
    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        driver.get(url)

    def notes(self) -> list[str]:
        """What the list shows, oldest first."""
        script = "return [...document.querySelectorAll('#notes > li')].map((e) => e.textContent)"
        return list(self.driver.execute_script(script))

    def shows(self, notes: list[str]) -> None:
        wait_until(lambda: len(self.notes()) >= len(notes), f"{notes[-1]!r} on the page", 100)
        assert self.notes() == notes

    def add(self, text: str) -> None:
        field = self.driver.find_element("name", "text")
        field.clear()
        field.send_keys(text)
        self.driver.find_element("css selector", "form button").click()

    def text(self, id: str) -> str:
        return str(self.driver.find_element("id", id).text)


def reload(server: Server) -> None:
    """Let gunicorn replace all workers."""

    def booted() -> int:
        return len(re.findall("Booting worker", server.log()))

    def gone() -> int:
        return len(re.findall("Worker exiting", server.log()))

    assert server.process is not None
    wait_until(lambda: booted() >= 2, "both workers")
    before, exited = booted(), gone()
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: booted() >= before + 2, "the new workers", 100)
    wait_until(lambda: gone() >= exited + 2, "the end of the old workers", 100)


@pytest.mark.long_except("htmx 4")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_each_note_once_over_a_reload_of_the_server(
    name: str, driver: Any, serve: Serve, tmp_path: Path
) -> None:
    example, path = PAGES[name]
    server = start(example, serve, tmp_path)
    for text in NOTES:
        post(server, example, text)
    page = Page(driver, f"{server.url}{path}")
    page.shows(NOTES)
    if name == "htmx 4":
        take_picture(driver, "hypermedia", 800, 430)
    page.add(HOSTILE)
    page.shows([*NOTES, HOSTILE])
    reload(server)
    post(server, example, "after")
    notes = [*NOTES, HOSTILE, "after"]
    page.shows(notes)
    assert "Notes" in driver.title
    if name == "Datastar":
        # The answer to the form has set a signal.
        assert driver.find_element("name", "text").get_property("value") == ""
    # A page that is loaded now gets them all, too.
    driver.refresh()
    page.shows(notes)


def visits(server: Server, path: str) -> int:
    with urllib.request.urlopen(f"{server.url}/visits", timeout=60) as answer:
        return answer.read().decode().count(path)


@pytest.mark.long
@pytest.mark.parametrize("path", ["/named", "/targeted"])
def test_fragments_go_where_their_name_or_target_says_and_the_last_message_closes(
    path: str, driver: Any, serve: Serve, tmp_path: Path
) -> None:
    env = {"EXAMPLE": "htmx", "NPM": "/npm", "SSESTREAM_URL": "memory://"}
    server = serve("gevent", "tests.servers.apps.hypermedia:app", env=env, port=free_port())
    page = Page(driver, f"{server.url}{path}")
    wait_until(lambda: page.text("second") == "two lines", "the second fragment")
    assert page.text("first") == "one"
    assert driver.find_element("css selector", "#first b").text == "one"
    came = visits(server, f"{path}/events")
    # One that comes back does so after 50 ms: this many questions take longer.
    for _ in range(40):
        driver.execute_async_script("setTimeout(arguments[0], 20)")
    assert (came, visits(server, f"{path}/events")) == (1, 1)


#: What a page shows when all messages of a library have come, without the list itself.
AT_THE_END = {
    "turbo": "return [document.title, document.querySelector('.some').textContent]",
    "datastar": "return [document.querySelector('i').textContent.replace(' old', ''),"
    " document.querySelector('.some').textContent.replace('\\n', ' ')]",
}


@pytest.mark.long
@pytest.mark.parametrize("library", AT_THE_END)
def test_each_message_of_turbo_and_of_datastar_does_what_its_name_says(
    library: str, driver: Any, serve: Serve
) -> None:
    env = {"EXAMPLE": library, "NPM": "/npm", "SSESTREAM_URL": "memory://"}
    server = serve("gevent", "tests.servers.apps.hypermedia:app", env=env, port=free_port())
    driver.get(f"{server.url}/{library}")

    def at_the_end() -> bool:
        return bool(driver.execute_script(AT_THE_END[library]) == ['"said" & done', "some more"])

    wait_until(at_the_end, "the last message")
    script = "return [...document.querySelectorAll('#list > li')].map((e) => e.textContent)"
    assert driver.execute_script(script) == ["FIRST", "before", "A", "after", "last"]
    assert driver.find_elements("id", "gone") == []
