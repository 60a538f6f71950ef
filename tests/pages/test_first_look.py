"""The examples before anything has happened in them: no box is empty, and each says what to do."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.servers import Server, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.server]

# Open streams need not hold up the end of a test.
ARGS = ("--graceful-timeout", "1")

#: Each example, the path of a page, what the page says there, and what a visitor does then to see
#: the next text.
PAGES: dict[str, tuple[str, str, str, list[str]]] = {
    "answers": ("answers", "/", "", ["The answer comes here"]),
    "chat": (
        "chat",
        "/lobby",
        "find('#name').value = 'Ann'; find('#name').form.requestSubmit()",
        ["Say your name above", "Be the first"],
    ),
    "dashboard": ("dashboard", "/", "", ["Waiting for the first measurement"]),
    "htmx 4": ("htmx", "/", "", ["No notes yet"]),
    "htmx 2": ("htmx", "/2", "", ["No notes yet"]),
    "Turbo": ("turbo", "/", "", ["No notes yet"]),
    "Datastar": ("datastar", "/", "", ["No notes yet"]),
    "notifications": (
        "notifications",
        "/",
        "find('form button').click()",
        ["Who are you?", "Nothing yet."],
    ),
    "progress": ("progress", "/", "", ["Start one, and then"]),
    "a job": ("progress", "/jobs/nightly", "", ["Each picture is named here"]),
}

#: The text that each list and each box of the page shows. A box has a border. A field, a button and
#: a plot say nothing themselves.
BOXES = """
    const shown = (e) => e.checkVisibility();
    const made = (e) => ['::before', '::after'].map((each) => getComputedStyle(e, each).content)
        .filter((text) => !['none', 'normal', '""'].includes(text)).join(' ');
    const text = (e) => [e, ...e.querySelectorAll('*')].filter(shown).map(made)
        .concat(e.innerText ?? e.textContent).join(' ').trim();
    const isBox = (e) => e.matches('ol, ul') || ['Top', 'Left'].every(
        (side) => getComputedStyle(e)[`border${side}Width`] !== '0px');
    return [...document.querySelectorAll('body *:not(input, button, select, svg)')]
        .filter((e) => shown(e) && isBox(e)).map(text);
"""


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_no_box_is_empty_and_the_page_says_what_to_do(
    name: str, driver: Any, serve: Callable[..., Server]
) -> None:
    example, path, act, texts = PAGES[name]
    env = {"SSESTREAM_URL": "memory://"}
    app = f"examples.{example}:app"
    if example in ("htmx", "turbo", "datastar"):
        env |= {"EXAMPLE": example, "NPM": "/npm"}
        app = "tests.servers.apps.hypermedia:app"
    server = serve("gevent", app, env=env, args=ARGS)
    driver.delete_all_cookies()
    driver.get(f"{server.url}{path}")
    for number, text in enumerate(texts):
        if number:
            driver.execute_script(f"const find = (s) => document.querySelector(s); {act}")

        def boxes(text: str = text) -> list[str]:
            found = list(driver.execute_script(BOXES))
            return found if any(text in each for each in found) else []

        found = wait_until(boxes, f"{text!r} on the page")
        assert all(found), found
