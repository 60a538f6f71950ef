"""The example of notifications: each user gets all of them once, and nobody else does."""

import http.cookiejar
import itertools
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssestream import Channels
from tests.kit.pictures import take_picture
from tests.kit.servers import Server, free_port, wait_until
from tests.servers.apps.scripts import script

pytestmark = [pytest.mark.browser, pytest.mark.server]

# Open streams need not hold up the end of a test.
ARGS = ("-w", "2", "--graceful-timeout", "1")


class Tab:
    """One tab of a user."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        found = driver.execute_cdp_cmd("Target.createTarget", {"url": url})
        self.window = str(found["targetId"])

    def look(self) -> Any:
        self.driver.switch_to.window(self.window)
        return self.driver

    def find(self, selector: str) -> Any:
        return self.look().find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def text(self, selector: str) -> str:
        # In one go, as the page may be loaded anew meanwhile.
        script = "return document.querySelector(arguments[0])?.textContent ?? ''"
        return str(self.look().execute_script(script, selector))

    def log_in(self, user: str) -> "Tab":
        wait_until(lambda: "Who are you?" in self.text("h2"), "the log-in")
        self.click(f"#login [value={user}]")
        return self.wait_for("connected")

    def wait_for(self, state: str) -> "Tab":
        wait_until(lambda: self.text("#state") == state, state)
        return self

    def wait_for_log_in(self) -> None:
        wait_until(lambda: "Who are you?" in self.text("h2"), "the log-in")

    def notify(self, user: str, text: str) -> None:
        self.click(f"#notify [value={user}]")
        self.look().execute_script("document.querySelector('#text').value = arguments[0]", text)
        self.click("#notify button")
        wait_until(lambda: self.find("#text").get_property("value") == "", f"{text} to be sent")

    def lines(self, selector: str = "li") -> list[str]:
        """What the list says, oldest first: ``Ben: hello``."""
        found = self.look().execute_script(
            "return [...document.querySelectorAll(`#list ${arguments[0]}`)].map((line) =>"
            " [...line.querySelector('span').childNodes].map((e) => e.textContent).join(': '))",
            selector,
        )
        return list(found)[::-1]

    def wait_for_lines(self, *expected: str, selector: str = "li") -> None:
        wait_until(lambda: len(self.lines(selector)) >= len(expected), f"{expected}")
        assert self.lines(selector) == list(expected)

    def wait_for_new(self, count: int) -> None:
        title = f"({count}) Notifications" if count else "Notifications"
        wait_until(lambda: self.look().title == title, f"{count} of them to be new")
        assert len(self.lines("li.new")) == count
        assert self.text("#count") == str(count)

    def close(self) -> None:
        self.look().close()


#: Numbers of browsers: the cookies of one test are of no use to the next.
numbers = itertools.count()


class Browser:
    """A browser of a user.

    It is a host name of its own for the same server. So it shares no cookie, no lock and no channel
    with the browsers of others.
    """

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver = driver
        self.url = f"http://browser{next(numbers)}.localhost:{server.port}/"

    def open(self) -> Tab:
        return Tab(self.driver, self.url)

    def log_in(self, user: str) -> Tab:
        return self.open().log_in(user)


@pytest.fixture
def browser(driver: Any, server: Server) -> Iterator[Callable[[], Browser]]:
    """Browsers of users, of which all tabs close with the test."""
    first = driver.current_window_handle
    yield lambda: Browser(driver, server)
    for window in driver.window_handles:
        if window != first:
            driver.switch_to.window(window)
            driver.close()
    driver.switch_to.window(first)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/notifications.db"


@pytest.fixture
def server(serve: Callable[..., Server], url: str) -> Server:
    env = {"SSESTREAM_URL": url}
    return serve("gevent", "examples.notifications:app", env=env, args=ARGS, port=free_port())


class Visitor:
    """A program with the session of a user."""

    def __init__(self, url: str, user: str | None = None) -> None:
        self.url = url
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies)
        if user is not None:
            assert self.ask("/login", user=user) == 200

    def ask(self, path: str, **fields: str) -> int:
        """The status of a POST of these *fields*, or of a GET."""
        body = urllib.parse.urlencode(fields).encode() if fields else None
        try:
            with self.opener.open(f"{self.url}{path}", body, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


@pytest.mark.long
def test_a_user_gets_what_others_send_and_nobody_else_does(browser: Callable[[], Browser]) -> None:
    ann, ben, cleo = (browser().log_in(user) for user in ("ann", "ben", "cleo"))
    assert ann.text("#list") == ""
    ben.notify("ann", "Your report is ready.")
    cleo.notify("ann", "Grüße aus Wien")
    ann.wait_for_new(2)
    ann.click("#read")
    ann.wait_for_new(0)
    ben.notify("ann", "Your order was sent today. It comes on Thursday.")
    cleo.notify("ben", "hello")
    cleo.notify("ann", "I have answered your question.")
    ann.wait_for_lines(
        "Ben: Your report is ready.",
        "Cleo: Grüße aus Wien",
        "Ben: Your order was sent today. It comes on Thursday.",
        "Cleo: I have answered your question.",
    )
    ann.wait_for_new(2)
    take_picture(ann.look(), "notifications", 800, 650)
    ben.wait_for_lines("Cleo: hello")
    # Cleo gets her own after all that went before.
    ben.notify("cleo", "👋 <img src=x onerror='document.title=1'>")
    cleo.wait_for_lines("Ben: 👋 <img src=x onerror='document.title=1'>")
    cleo.wait_for_new(1)
    for tab in (ann, ben, cleo):
        log = tab.look().get_log("browser")
        assert [entry for entry in log if entry["level"] == "SEVERE"] == []


def test_a_user_who_was_away_gets_what_came_meanwhile_once(
    server: Server, browser: Callable[[], Browser]
) -> None:
    anns, ben = browser(), Visitor(server.url, "ben")
    ann = anns.log_in("ann")
    assert ben.ask("/notify", to="ann", text="before") == 204
    ann.wait_for_lines("Ben: before")
    ann.click("#read")
    ann.wait_for_new(0)
    # Her browser keeps the session. The page is closed, and no stream is open.
    ann.look().get("about:blank")
    for text in ("one", "two"):
        assert ben.ask("/notify", to="ann", text=text) == 204
    away = ann
    away.look().get(anns.url)
    away.wait_for_lines("Ben: before", "Ben: one", "Ben: two")
    away.wait_for_new(2)
    # A reload shows the same, and so does a second tab over the same stream.
    away.look().refresh()
    second = anns.open()
    for tab in (away, second):
        tab.wait_for("connected")
        tab.wait_for_lines("Ben: before", "Ben: one", "Ben: two")
        tab.wait_for_new(2)
    # What is read in one tab is read in the other.
    second.click("#read")
    for tab in (second, away):
        tab.wait_for_new(0)
    assert ben.ask("/notify", to="ann", text="three") == 204
    for tab in (second, away):
        tab.wait_for_new(1)
        assert tab.lines("li.new") == ["Ben: three"]


@pytest.mark.long
def test_while_the_server_is_away_nothing_is_lost_or_shown_twice(
    server: Server, serve: Callable[..., Server], browser: Callable[[], Browser], url: str
) -> None:
    ann = browser().log_in("ann")
    channel = Channels(url, history=100).channel("user.ann")
    said = [f"Cron: {number}" for number in range(6)]

    def publish(number: int) -> None:
        data = {"from": "Cron", "text": str(number), "at": 1000.0}
        channel.publish({"event": "notification", "data": data})

    for number in range(3):
        publish(number)
    ann.wait_for_lines(*said[:3])
    server.stop()
    ann.wait_for("connecting")
    for number in range(3, 5):
        publish(number)
    serve("gevent", "examples.notifications:app", env=server.env, args=ARGS, port=server.port)
    ann.wait_for("connected")
    publish(5)
    ann.wait_for_lines(*said)
    ann.wait_for_new(6)
    assert ann.text("#note") == ""


@pytest.mark.long
def test_a_log_out_ends_all_pages_of_the_session_and_another_user_sees_only_hers(
    server: Server, browser: Callable[[], Browser]
) -> None:
    here, elsewhere = browser(), browser().log_in("ann")
    first = here.log_in("ann")
    second = here.open().wait_for("connected")
    Visitor(server.url, "ben").ask("/notify", to="ann", text="for Ann")
    for tab in (first, second, elsewhere):
        tab.wait_for_lines("Ben: for Ann")
    first.click("header button")
    for tab in (first, second):
        tab.wait_for_log_in()
    # The page of her other browser has come back.
    elsewhere.wait_for("connected")
    second.log_in("cleo")
    Visitor(server.url, "ben").ask("/notify", to="ann", text="more")
    Visitor(server.url, "ben").ask("/notify", to="cleo", text="for Cleo")
    elsewhere.wait_for_lines("Ben: for Ann", "Ben: more")
    second.wait_for_lines("Ben: for Cleo")


@pytest.mark.long
def test_a_page_whose_session_is_another_users_becomes_the_page_of_that_user(
    server: Server, browser: Callable[[], Browser]
) -> None:
    here = browser()
    first, second = here.open(), here.open()
    first.log_in("ann")
    # The second tab still shows the log-in.
    second.log_in("ben")
    wait_until(lambda: "You are Ben" in first.text("header p"), "the page of Ben")
    Visitor(server.url, "cleo").ask("/notify", to="ben", text="hello")
    for tab in (first, second):
        tab.wait_for_lines("Cleo: hello")


@pytest.mark.long
def test_the_end_of_a_channel_is_the_last_word_and_its_page_comes_back_no_more(
    server: Server, browser: Callable[[], Browser], url: str
) -> None:
    ann = browser().log_in("ann")
    ben = Visitor(server.url, "ben")
    assert ben.ask("/notify", to="ann", text="before") == 204
    ann.wait_for_lines("Ben: before")
    Channels(url, history=100).channel("user.ann").end()
    ann.wait_for("closed")
    assert ann.lines() == ["Ben: before"]
    assert ben.ask("/notify", to="ann", text="after") == 410


@pytest.mark.long
def test_a_user_who_was_away_for_long_is_told_of_a_gap(
    server: Server, serve: Callable[..., Server], browser: Callable[[], Browser], url: str
) -> None:
    ann, ben = browser().log_in("ann"), Visitor(server.url, "ben")
    assert ben.ask("/notify", to="ann", text="before") == 204
    ann.wait_for_lines("Ben: before")
    server.stop()
    channel = Channels(url, history=100).channel("user.ann")
    for number in range(150):
        data = {"from": "Cron", "text": str(number), "at": 1000.0}
        channel.publish({"event": "notification", "data": data})
    serve("gevent", "examples.notifications:app", env=server.env, args=ARGS, port=server.port)
    ann.wait_for("connected")
    wait_until(lambda: ann.lines()[-1:] == ["Cron: 149"], "the last")
    assert ann.lines() == [f"Cron: {number}" for number in range(50, 150)]
    assert "not kept any more" in ann.text("#note")


@pytest.mark.long
def test_a_stream_is_for_its_user_alone(server: Server) -> None:
    nobody, ann = Visitor(server.url), Visitor(server.url, "ann")
    assert nobody.ask("/users/ann/events") == 401
    assert ann.ask("/users/ben/events") == 403
    assert nobody.ask("/notify", to="ann", text="hello") == 401
    assert nobody.ask("/read", last="x") == 401
    assert ann.ask("/logout", x="") == 200
    assert ann.ask("/users/ann/events") == 401


def test_what_is_no_notification_is_refused(server: Server) -> None:
    ben = Visitor(server.url, "ben")
    assert ben.ask("/notify", to="ann", text="x" * 200) == 204
    for fields in ({"to": "ann"}, {"to": "eve", "text": "x"}, {"text": "x"}):
        assert ben.ask("/notify", **fields) == 400, fields
    for text in (" ", "x" * 201):
        assert ben.ask("/notify", to="ann", text=text) == 400, text
    assert ben.ask("/notify", to="ann", text="x" * 20_000) == 413
    assert ben.ask("/read", last="x" * 201) == 400


def test_the_script_serves_the_page_and_its_stream() -> None:
    with script("notifications.py", {}) as port:
        ann = Visitor(f"http://127.0.0.1:{port}", "ann")
        assert ann.ask("/notify", to="ann", text="hello") == 204
        with ann.opener.open(f"{ann.url}/users/ann/events", timeout=20) as stream:
            assert b'"text":"hello"' in next(line for line in stream if line.startswith(b"data:"))
