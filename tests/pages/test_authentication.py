"""The page on authentication: its program and its JavaScript, in a browser."""

import json
import re
import urllib.request
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_docs import PROGRAMS, blocks
from tests.kit.servers import ROOT, Server, free_port, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.server]

PAGE = ROOT / "docs" / "authentication.rst"

#: The app of the page, with pages for a browser and somebody who publishes.
APP = """
from {name} import app, channels, tickets
from flask import request
from ssestream.browser import init_app, ssestream_url
from flask_login import login_required

app.config["SSESTREAM_RETRY_AFTER"] = [20, 50]
HEAD = '<!doctype html><link rel=icon href="data:,"><title>Page</title><ol></ol>'
SHOW = "const show = (text) => {{ const li = document.createElement('li');"
SHOW += " li.textContent = text; document.querySelector('ol').append(li) }};"
visits = []
init_app(app)

@app.before_request
def visited():
    if request.path in ("/events", "/ticket", "/notifications"):
        visits.append(request.path)

@app.get("/visits")
def count():
    return visits

@app.get("/ticketed")
def ticketed():
    return HEAD + "<script>" + SHOW + {ticketed!r} + "</script>"

@app.get("/shared")
def shared():
    load = "import {{ SharedEventSource }} from '" + ssestream_url() + "';"
    listen = ";events.onmessage = (event) => show(event.data)"
    script = load + SHOW + {shared!r} + listen
    return HEAD + "<script type=module>" + script + "</script>"

@app.get("/session")
def session_page():
    return HEAD + "<script>" + {session!r} + "</script>"

@app.post("/publish")
def publish():
    channels.publish("user:ann", {{"data": request.form["text"]}})
    return ""

@app.post("/lock-out")
def lock_out():
    app.config["LOCKED"] = True
    tickets.revoke("ann", "user:ann")
    return ""
"""


@pytest.fixture
def server(serve: Callable[..., Server], tmp_path: Path) -> Server:
    session, ticketed, shared = blocks(PAGE, "javascript")
    # Tickets that expire while the test runs.
    program, count = re.subn(r"expires=60\b", "expires=1.5", PROGRAMS["docs_authentication"])
    assert count == 1
    (tmp_path / "shown.py").write_text(program)
    app = APP.format(name="shown", session=session, ticketed=ticketed, shared=shared)
    (tmp_path / "shown_pages.py").write_text(app)
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    return serve("gevent", "shown_pages:app", env=env, port=free_port())


def post(server: Server, path: str, body: str = "") -> Any:
    return urllib.request.urlopen(f"{server.url}{path}", body.encode(), timeout=60)


def visits(server: Server, path: str) -> int:
    with urllib.request.urlopen(f"{server.url}/visits", timeout=60) as answer:
        return json.load(answer).count(path)


def log_in(driver: Any, server: Server) -> None:
    """Give the browser the session of Ann."""
    driver.get(f"{server.url}/visits")
    with post(server, "/login", "name=ann") as answer:
        (cookie,) = SimpleCookie(answer.headers["Set-Cookie"]).values()
    driver.delete_all_cookies()
    driver.add_cookie({"name": cookie.key, "value": cookie.value})


def shown(driver: Any) -> list[str]:
    return [each.text for each in driver.find_elements("css selector", "li")]


@pytest.mark.parametrize("page", ["/ticketed", "/shared"])
def test_a_page_gets_new_tickets_by_itself_and_misses_nothing(
    page: str, driver: Any, server: Server
) -> None:
    log_in(driver, server)
    driver.get(f"{server.url}{page}")
    wait_until(lambda: visits(server, "/events") >= 1, "the first stream")
    texts = []
    for number in range(12):
        texts.append(f"event {number}")
        post(server, "/publish", f"text=event {number}").close()
        wait_until(lambda: shown(driver)[-1:] == texts[-1:], texts[-1])
        driver.execute_async_script("setTimeout(arguments[0], 300)")
    wait_until(lambda: visits(server, "/ticket") >= 3, "three tickets")
    assert shown(driver) == texts


def test_a_page_that_has_lost_its_session_goes_to_the_log_in(driver: Any, server: Server) -> None:
    log_in(driver, server)
    driver.get(f"{server.url}/session")
    wait_until(lambda: visits(server, "/notifications") >= 1, "the stream")
    # In another tab of the same browser.
    status = driver.execute_async_script(
        "fetch('/logout', {method: 'POST'}).then((answer) => arguments[0](answer.status))"
    )
    assert status == 204
    wait_until(lambda: driver.current_url.endswith("/login"), "the log-in", 30)
    assert visits(server, "/notifications") == 2
