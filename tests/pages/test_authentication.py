"""The page on authentication: its program and its JavaScript, in a browser."""

import http.server
import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_docs import PROGRAMS, blocks
from tests.kit.servers import PATIENCE, ROOT, Server, free_port, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.server]

PAGE = ROOT / "docs" / "authentication.rst"

#: The app of the page, with pages for a browser and somebody who publishes.
APP = """
from {name} import app, channels, tickets
from flask import request
from ssestream import ServerResponse, SseStream
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
    if request.path != "/visits":
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

@app.get("/refused/<int:status>")
def refused(status):
    response = app.make_response(("", status))
    if status == 302:
        response.location = "/visits"
    return response

@app.get("/ended")
def ended():
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    sse_stream.end({{"retry": 20}})
    return res

@app.after_request
def answered(response):
    visits.append(f"{{request.path}} {{response.status_code}}")
    return response

@app.get("/empty")
def empty():
    return HEAD

@app.get("/once")
def once():
    return tickets.issue(["user:ann"], once=True)

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
def elsewhere() -> Iterator[str]:
    """The origin of another site, with an empty page at ``/``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>Elsewhere</title>")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def server(serve: Callable[..., Server], tmp_path: Path, elsewhere: str) -> Server:
    session, ticketed, shared = blocks(PAGE, "javascript")
    # Tickets that expire while the test runs.
    program, count = re.subn(r"expires=60\b", "expires=1.5", PROGRAMS["docs_authentication"])
    assert count == 1
    assert "https://app.example" in program
    program = program.replace("https://app.example", elsewhere)
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


@pytest.mark.long
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


@pytest.mark.long
def test_a_page_that_has_lost_its_session_goes_to_the_log_in(driver: Any, server: Server) -> None:
    log_in(driver, server)
    driver.get(f"{server.url}/session")
    wait_until(lambda: visits(server, "/notifications") >= 1, "the stream")
    # In another tab of the same browser.
    status = driver.execute_async_script(
        "fetch('/logout', {method: 'POST'}).then((answer) => arguments[0](answer.status))"
    )
    assert status == 204
    wait_until(lambda: driver.current_url.endswith("/login"), "the log-in")
    assert visits(server, "/notifications") == 2


#: States of an `EventSource`.
CONNECTING, CLOSED = 0, 2


def errors_of(driver: Any, url: str) -> tuple[int, int]:
    """``readyState`` at the first error of an ``EventSource``, and the number of errors."""
    first, count = driver.execute_async_script(
        """
        const [url, done] = arguments
        const states = []
        const source = new EventSource(url)
        source.onerror = () => {
          states.push(source.readyState)
          setTimeout(() => { source.close(); done([states[0], states.length]) }, 1000)
        }
        """,
        url,
    )
    return first, count


@pytest.mark.long_except("204")
@pytest.mark.parametrize("status", [401, 403, 302, 204, 503])
def test_a_browser_does_not_come_back_after_a_refusal(
    status: int, driver: Any, server: Server
) -> None:
    driver.get(f"{server.url}/visits")
    assert errors_of(driver, f"/refused/{status}") == (CLOSED, 1)
    assert visits(server, f"/refused/{status}") == 1


@pytest.mark.long
def test_a_browser_comes_back_after_a_clean_end(driver: Any, server: Server) -> None:
    driver.get(f"{server.url}/visits")
    state, count = errors_of(driver, "/ended")
    assert state == CONNECTING
    assert count > 1
    assert visits(server, "/ended") > 1


# -- pages of another origin

#: The first event of a stream, which the page itself lets be published, or ``readyState`` at the
#: first error.
FIRST = """
    const [url, withCredentials, done] = arguments
    const source = new EventSource(`${url}/notifications`, { withCredentials })
    const end = (found) => { source.close(); done(found) }
    source.onmessage = (event) => end(event.data)
    source.onerror = () => end(source.readyState)
    const body = new URLSearchParams({ text: 'for Ann' })
    source.onopen = () => fetch(`${url}/publish`, { method: 'POST', mode: 'no-cors', body })
    """


def first_of(driver: Any, server: Server, with_credentials: bool) -> Any:
    return driver.execute_async_script(FIRST, server.url, with_credentials)


def test_a_page_of_an_origin_that_is_named_reads_a_stream_with_the_cookies_and_no_other_does(
    driver: Any, server: Server, elsewhere: str
) -> None:
    log_in(driver, server)
    driver.get(f"{elsewhere}/")
    assert first_of(driver, server, True) == "for Ann"
    # Without the cookies nobody has logged in.
    assert first_of(driver, server, False) == CLOSED
    assert visits(server, "/notifications 401") == 1
    # Another host has another origin, and the same page.
    driver.get(elsewhere.replace("127.0.0.1", "localhost"))
    assert driver.title == "Elsewhere"
    assert first_of(driver, server, True) == CLOSED
    assert visits(server, "/notifications 403") == 1


def test_a_ticket_for_one_use_lets_the_same_browser_in_again_from_a_page_of_the_app_alone(
    driver: Any, server: Server, elsewhere: str
) -> None:
    opens = """
        const [url, done] = arguments
        const source = new EventSource(url)
        source.onopen = () => done([source.close(), 'open'][1])
        source.onerror = () => done(source.readyState)
        """

    def uses(page: str) -> list[Any]:
        with urllib.request.urlopen(f"{server.url}/once", timeout=60) as answer:
            url = f"{server.url}/events?ticket={answer.read().decode()}"
        driver.get(page)
        driver.delete_all_cookies()
        return [driver.execute_async_script(opens, url) for _ in range(2)]

    assert uses(f"{server.url}/empty") == ["open", "open"]
    # There an EventSource keeps no cookie.
    assert uses(f"{elsewhere}/") == ["open", CLOSED]
    assert visits(server, "/events 401") == 1


# -- without a browser


@pytest.fixture
def page() -> dict[str, Any]:
    """What the program of the page defines."""
    names: dict[str, Any] = {"__name__": "shown"}
    exec(PROGRAMS["docs_authentication"], names)
    return names


def test_a_stream_is_refused_with_401_and_a_page_is_sent_to_the_log_in(page: Any) -> None:
    visitor = page["app"].test_client()
    answer = visitor.get("/notifications", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.data) == (401, b"")
    answer = visitor.get("/notifications")
    assert (answer.status_code, answer.location) == (302, "/login")


def test_a_log_out_ends_the_streams_of_its_user_alone(page: Any, sse: Any) -> None:
    visitors = {name: page["app"].test_client() for name in ("ann", "ben")}
    streams = {}
    for name, visitor in visitors.items():
        assert visitor.post("/login", data={"name": name}).status_code == 204
        # Two tabs.
        streams[name] = [sse(visitor, "/notifications", timeout=PATIENCE) for _ in range(2)]
    assert visitors["ann"].post("/logout").status_code == 204
    for events in streams["ann"]:
        wait_until(lambda events=events: events.ended == "clean", "the end of the stream")
        events.reconnect()
        assert events.status == 401
    page["channels"].publish("user:ben", {"data": "for Ben"})
    for events in streams["ben"]:
        assert events.next().data == "for Ben"


# -- a stream for a POST


@pytest.mark.skipif("docs_extensions" not in PROGRAMS, reason="an extension is not installed")
def test_a_page_sends_the_csrf_token_and_gets_its_stream(
    driver: Any, serve: Callable[..., Server], tmp_path: Path
) -> None:
    (script,) = blocks(ROOT / "docs" / "extensions.rst", "javascript")
    (tmp_path / "extended.py").write_text(PROGRAMS["docs_extensions"])
    (tmp_path / "extended_pages.py").write_text(
        "from extended import app\nfrom ssestream.browser import init_app\ninit_app(app)\n"
    )
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    server = serve("gevent", "extended_pages:app", env=env)
    driver.get(f"{server.url}/ask")
    load = "import { SharedEventSource } from '/_ssestream/ssestream.js'\n"
    put = """
        const script = document.createElement('script')
        script.type = 'module'
        script.textContent = arguments[0]
        document.body.append(script)
        """
    driver.execute_script(put, load + script)
    text = "Why is the sky blue?"
    wait_until(lambda: text in driver.find_element("css selector", "body").text, "the answer")
    # Without the token, or with another one.
    refuse = "const [done] = arguments; fetch('/answers', {method: 'POST', body: '{}', headers})"
    for headers in ("{}", "{'X-CSRFToken': 'forged'}"):
        code = f"const headers = {headers}; {refuse}.then((answer) => done(answer.status))"
        assert driver.execute_async_script(code) == 400
