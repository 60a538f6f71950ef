"""``ssestream.js`` in real tabs of a real browser: one connection, and nothing lost or twice."""

import contextlib
import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.cable import Cable
from tests.kit.servers import Server, free_port, wait_until
from tests.servers.apps.browser import browser

pytestmark = [pytest.mark.browser, pytest.mark.server]

#: Open streams need not hold up the end of a test.
ARGS = ("--graceful-timeout", "1")

#: A tab whose leader has gone is connected again within a second. A busy machine needs longer.
SOON = 60.0


class Tab:
    """One tab with the page of ``servers/apps/shared.py``."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        found = driver.execute_cdp_cmd("Target.createTarget", {"url": url})
        self.window = str(found["targetId"])

    def run(self, script: str, *args: Any) -> Any:
        self.driver.switch_to.window(self.window)
        return self.driver.execute_script(script, *args)

    def cdp(self, command: str, **options: Any) -> None:
        self.driver.switch_to.window(self.window)
        self.driver.execute_cdp_cmd(command, options)

    def state(self) -> Any:
        return self.run("return window.source?.state")

    def leads(self) -> bool:
        return bool(self.run("return window.source?.isLeader"))

    def got(self) -> list[int]:
        return [int(data) for data in self.run("return got.map((event) => event[1])")]

    def crash(self) -> None:
        self.driver.switch_to.window(self.window)
        with contextlib.suppress(Exception):  # WebDriverException: that it has
            self.driver.get("chrome://crash")

    def is_there(self) -> bool:
        try:
            return bool(self.run("return true"))
        except Exception:  # WebDriverException: the tab has crashed
            return False

    def codes(self) -> list[str]:
        return list(self.run("return reasons.map((reason) => reason.code)"))

    def close(self) -> None:
        self.driver.switch_to.window(self.window)
        self.driver.close()


class Site:
    """A server, by an address, and the tabs that show it."""

    def __init__(self, driver: Any, server: Server, url: str) -> None:
        self.driver = driver
        self.server = server
        self.url = url
        self.tabs: list[Tab] = []
        self.published = 0

    def ask(self, path: str, method: str = "GET") -> bytes:
        # Not by the cable, which may be cut.
        asked = urllib.request.Request(self.server.url + path, method=method)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return bytes(answer.read())

    def open(self, path: str = "/events", **options: Any) -> Tab:
        query = urllib.parse.urlencode({"url": path, "options": json.dumps(options)})
        self.tabs.append(Tab(self.driver, f"{self.url}/?{query}"))
        return self.tabs[-1]

    def wait_for_open(self) -> None:
        for tab in self.tabs:
            wait_until(lambda tab=tab: tab.state() == "open", "an open tab", SOON)

    def publish(self, count: int = 3) -> list[int]:
        self.ask(f"/publish/{count}", "POST")
        self.published += count
        return list(range(self.published - count, self.published))

    def streams(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.ask("/streams"))
        return found

    def leader(self) -> Tab:
        def found() -> list[Tab]:
            return [tab for tab in self.tabs if tab.leads()]

        wait_until(lambda: len(found()) == 1, "one leader", SOON)
        return found()[0]

    def wait_for_all(self) -> None:
        """Until each tab has got every number, once and in order."""
        wanted = list(range(self.published))
        for tab in self.tabs:
            wait_until(lambda tab=tab: len(tab.got()) >= len(wanted), f"{len(wanted)} events", SOON)
            assert tab.got() == wanted

    def remove(self, tab: Tab) -> None:
        self.tabs.remove(tab)
        tab.close()


@pytest.fixture(scope="module")
def driver(chromium: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    # Tabs in one process would crash together.
    many = "--renderer-process-limit=40"
    with browser(chromium, tmp_path_factory.mktemp("chromium"), many) as driver:
        yield driver


@pytest.fixture
def site(driver: Any, serve: Callable[..., Server], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open tabs of a new server: ``site(3)``; all close with the test."""
    first = driver.current_window_handle
    sites: list[Site] = []

    def start(count: int, path: str = "/events", cable: Cable | None = None, **options: Any) -> Any:
        env = {"SSESTREAM_URL": f"sqlite:///{tmp_path}/events.db"}
        app = "tests.servers.apps.shared:app"
        server = serve("gevent", app, env=env, args=ARGS, port=free_port())
        found = Site(driver, server, server.url)
        if cable is not None:
            cable.to = server.port
            found.url = cable.url
        sites.append(found)
        for _ in range(count):
            found.open(path, **options)
        found.wait_for_open()
        return found

    yield start
    for each in sites:
        for tab in each.tabs:
            with contextlib.suppress(Exception):
                tab.close()
    driver.switch_to.window(first)


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    yield cable
    cable.stop()


@pytest.mark.long
def test_twenty_tabs_are_one_connection_and_each_gets_every_event_under_every_name(
    site: Callable[..., Site],
) -> None:
    here = site(20)
    assert here.streams() == {"open": 1, "opened": 1}
    here.publish(10)
    here.wait_for_all()
    events = [tab.run("return got") for tab in here.tabs]
    assert all(each == events[0] for each in events)
    assert {event[0] for event in events[0]} == {"even", "odd"}
    assert all("numbers=" in event[2] for event in events[0])
    assert here.leader().run("return states") == ["open open 1"]
    assert here.streams() == {"open": 1, "opened": 1}


def test_when_the_leaders_tab_is_closed_another_goes_on(site: Callable[..., Site]) -> None:
    here = site(3)
    for _ in range(2):
        here.publish()
        leader = here.leader()
        here.publish()
        here.remove(leader)
        here.publish()
        here.wait_for_open()
        here.leader()
        here.publish()
        here.wait_for_all()
    (last,) = here.tabs
    assert last.codes() == ["leader", "leader"]
    assert last.run("return states") == ["open open 1", *["error connecting 0", "open open 1"] * 2]
    here.remove(last)
    wait_until(lambda: here.streams()["open"] == 0, "no stream")


@pytest.mark.long
def test_when_the_leaders_tab_crashes_another_goes_on(site: Callable[..., Site]) -> None:
    here = site(4)
    here.publish(20)
    leader = here.leader()
    here.publish(20)
    leader.crash()
    here.tabs.remove(leader)
    here.publish(20)
    # The browser may have given one process to several tabs after all.
    here.tabs = [tab for tab in here.tabs if tab.is_there()]
    assert here.tabs
    here.leader()
    here.wait_for_open()
    here.publish(20)
    here.wait_for_all()
    assert here.streams()["open"] == 1


def hand_over(here: Site, end: Callable[[Tab], None]) -> float:
    """Seconds from the end of the leader's tab until all other tabs are connected again."""
    leader = here.leader()
    here.tabs.remove(leader)
    for tab in here.tabs:
        tab.run(
            "window.openAt = 0;"
            " source.addEventListener('open', () => (openAt = Date.now()), { once: true })"
        )
    leader.run("return 0")  # so that this tab is the one that ends
    began = time.time()
    end(leader)
    for tab in here.tabs:
        wait_until(lambda tab=tab: tab.run("return openAt"), "the other tabs to be connected", SOON)
    here.publish()
    here.wait_for_all()
    return float(max(tab.run("return openAt") for tab in here.tabs)) / 1000 - began


@pytest.mark.long
@pytest.mark.parametrize("end", [Tab.close, Tab.crash], ids=["end", "crash"])
def test_the_others_are_connected_within_a_second_of_their_leaders_end(
    site: Callable[..., Site], end: Callable[[Tab], None]
) -> None:
    here = site(5)
    here.publish()
    here.wait_for_all()
    took: list[float] = []
    # A busy machine may need longer now and then, and not each time.
    while not took or (min(took) > 1 and len(here.tabs) > 1):
        took.append(hand_over(here, end))
    assert min(took) <= 1, took


@pytest.mark.long
def test_a_tab_that_joins_late_begins_with_what_comes_or_with_the_last_events(
    site: Callable[..., Site],
) -> None:
    here = site(1, replay=5)
    here.publish(7)
    here.wait_for_all()
    late, again = here.open(), here.open(replay=5)
    here.wait_for_open()
    wait_until(lambda: again.got() == [2, 3, 4, 5, 6], "the last events")
    assert late.got() == []
    here.publish(3)
    wait_until(lambda: late.got() == [7, 8, 9], "what came later")
    wait_until(lambda: again.got() == list(range(2, 10)), "what came later")
    assert late.run("return states") == ["open open 1"]
    assert here.streams() == {"open": 1, "opened": 1}


def test_when_the_server_is_killed_all_tabs_go_on_with_the_next_one(
    site: Callable[..., Site], serve: Callable[..., Server]
) -> None:
    here = site(3)
    here.publish()
    here.wait_for_all()
    here.server.stop()
    for tab in here.tabs:
        wait_until(lambda tab=tab: tab.state() != "open", "the break")
        assert tab.run("return source.readyState") == 0
    app = "tests.servers.apps.shared:app"
    env = {**here.server.env, "FIRST": str(here.published)}
    here.server = serve("gevent", app, env=env, args=ARGS, port=here.server.port)
    here.publish()
    here.wait_for_all()
    assert here.streams()["open"] == 1
    assert here.leader().run("return source.reason.code") == "network"


@pytest.mark.long
def test_when_the_network_is_cut_or_falls_silent_all_tabs_go_on(
    site: Callable[..., Site], cable: Cable
) -> None:
    here = site(3, "/events?heartbeat=0.3", cable, heartbeat=700)
    here.publish()
    here.wait_for_all()
    cable.cut()
    here.publish()
    for tab in here.tabs:
        wait_until(lambda tab=tab: tab.state() != "open", "the break")
    here.publish()
    cable.mend()
    here.wait_for_all()
    # Now no end is told: only the missing heartbeats tell.
    cable.hold()
    here.publish()
    for tab in here.tabs:
        wait_until(lambda tab=tab: "silence" in tab.codes(), "the silence to be noticed")
        assert tab.codes()[0] == "network"
    here.publish()
    cable.mend()
    here.wait_for_all()


@pytest.mark.long
def test_tabs_that_slept_go_on(site: Callable[..., Site]) -> None:
    here = site(3)
    here.publish()
    here.wait_for_all()
    sleepers = [here.leader()]
    sleepers.append(next(tab for tab in here.tabs if tab not in sleepers))
    for tab in sleepers:
        tab.cdp("Page.enable")
        tab.cdp("Page.setWebLifecycleState", state="frozen")
    (awake,) = (tab for tab in here.tabs if tab not in sleepers)
    wait_until(lambda: awake.leads() and awake.state() == "open", "the tab that is awake", SOON)
    here.publish(300)
    wait_until(lambda: len(awake.got()) == here.published, "the events", SOON)
    for tab in sleepers:
        tab.cdp("Page.setWebLifecycleState", state="active")
    here.publish()
    here.wait_for_all()
    assert here.leader() is awake
    wait_until(lambda: here.streams()["open"] == 1, "one stream")
    # They may lead again.
    here.remove(awake)
    here.leader()
    here.wait_for_open()
    here.publish()
    here.wait_for_all()


@pytest.mark.long
@pytest.mark.parametrize(("count", "streams"), [(200, 1), (300, 2)], ids=["few", "many"])
def test_a_tab_that_was_kept_for_the_back_button_gets_what_it_has_missed(
    site: Callable[..., Site], count: int, streams: int
) -> None:
    here = site(3)
    here.publish()
    here.wait_for_all()
    leader = here.leader()
    other, kept = (tab for tab in here.tabs if tab is not leader)
    # What the browser tells a page. Whether it keeps one is its own affair.
    tell = "dispatchEvent(new PageTransitionEvent(arguments[0], { persisted: true }))"
    kept.run(tell, "pagehide")
    here.publish(count)
    wait_until(lambda: len(other.got()) == here.published, "the events", SOON)
    assert kept.got() == [0, 1, 2]
    # What came before a tab leads can be had from it, too.
    here.remove(leader)
    wait_until(lambda: other.leads() and other.state() == "open", "another leader", SOON)
    kept.run(tell, "pageshow")
    here.wait_for_all()
    here.publish()
    here.wait_for_all()
    # From the other tab, or else from the server.
    assert here.streams()["open"] == streams


@pytest.mark.long
def test_a_tab_that_sleeps_and_wakes_while_many_events_come_gets_each_once(
    site: Callable[..., Site],
) -> None:
    here = site(2)
    (sleeper,) = (tab for tab in here.tabs if not tab.leads())
    sleeper.cdp("Page.enable")
    woken = threading.Event()

    def publish() -> None:
        while not woken.is_set():
            here.publish(2)

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        # It asks for what it has missed, while more comes.
        for _ in range(30):
            sleeper.cdp("Page.setWebLifecycleState", state="frozen")
            sleeper.cdp("Page.setWebLifecycleState", state="active")
            sleeper.run("return 0")
    finally:
        woken.set()
        publishing.join()
    here.publish()
    here.wait_for_all()
    assert here.streams() == {"open": 1, "opened": 1}


@pytest.mark.long
def test_when_the_clock_jumps_the_connection_is_made_anew(site: Callable[..., Site]) -> None:
    here = site(2, heartbeat=2000)
    here.publish()
    here.wait_for_all()
    leader = here.leader()
    # As after an hour of sleep.
    leader.run("const now = Date.now; Date.now = () => now.call(Date) + 3600_000")
    wait_until(lambda: "silence" in leader.codes(), "the leap to be noticed")
    here.publish()
    here.wait_for_all()
    assert here.streams()["open"] == 1


@pytest.mark.long
def test_a_leader_that_says_nothing_any_more_is_replaced_and_follows(
    site: Callable[..., Site],
) -> None:
    here = site(2)
    here.publish()
    here.wait_for_all()
    leader = here.leader()
    (other,) = (tab for tab in here.tabs if tab is not leader)
    # As a page that hangs: it answers no tab that asks, and tells no tab of the events.
    leader.run("BroadcastChannel.prototype.postMessage = () => {}")
    here.publish()
    here.open()
    here.wait_for_open()
    assert here.leader() is other
    late = here.tabs.pop()
    here.publish()
    here.wait_for_all()
    wait_until(lambda: late.got()[-3:] == [6, 7, 8], "the events of the late tab", SOON)
    wait_until(lambda: here.streams()["open"] == 1, "one stream", SOON)
    late.close()


@pytest.mark.long
def test_a_leader_that_falls_silent_is_replaced_though_no_tab_joins(
    site: Callable[..., Site],
) -> None:
    here = site(2, "/events?heartbeat=0.2", heartbeat=500)
    here.publish()
    here.wait_for_all()
    leader = here.leader()
    (other,) = (tab for tab in here.tabs if tab is not leader)
    # The other tab asks when not even a heartbeat was told for four intervals.
    leader.run("BroadcastChannel.prototype.postMessage = () => {}")
    wait_until(lambda: other.leads() and other.state() == "open", "another leader", SOON)
    here.publish()
    here.wait_for_all()
    wait_until(lambda: here.streams()["open"] == 1, "one stream", SOON)


@pytest.mark.long
def test_a_page_that_comes_back_by_the_back_button_goes_on(site: Callable[..., Site]) -> None:
    here = site(2)
    here.publish()
    here.wait_for_all()
    leader = here.leader()
    leader.run("window.kept = true; location.href = '/visits/none'")
    wait_until(lambda: leader.run("return location.pathname") == "/visits/none", "the next page")
    here.publish()
    leader.run("history.back()")
    wait_until(lambda: leader.run("return !!window.source"), "the page")
    if leader.run("return !!window.kept"):
        here.wait_for_all()
    else:
        # The browser has loaded the page anew, which joins as a new one.
        wait_until(lambda: leader.state() == "open", "the new page", SOON)
    wait_until(lambda: here.streams()["open"] == 1, "one stream")


def test_the_closing_event_closes_all_tabs_and_204_and_a_refusal_too(
    site: Callable[..., Site],
) -> None:
    here = site(3)
    here.ask("/finish", "POST")
    for tab in here.tabs:
        wait_until(lambda tab=tab: tab.state() == "closed", "the end", SOON)
        assert tab.run("return got.map((event) => event.slice(0, 2))") == [["close", "done"]]
        assert tab.run("return [states, source.reason.code]") == [["open open 1"], "closing"]
    for status in (204, 403):
        tabs = [here.open(f"/plan/{status}/{status}") for _ in range(2)]
        for tab in tabs:
            wait_until(lambda tab=tab: tab.state() == "closed", "the end", SOON)
            assert tab.run("return [states, source.reason.status]") == [["error closed 2"], status]
    wait_until(lambda: here.streams()["open"] == 0, "no stream")


def test_close_ends_one_tabs_part_and_the_last_one_the_connection(
    site: Callable[..., Site],
) -> None:
    here = site(2)
    leader = here.leader()
    (other,) = (tab for tab in here.tabs if tab is not leader)
    leader.run("source.close()")
    assert leader.run("return [source.readyState, source.isLeader]") == [2, False]
    here.tabs.remove(leader)
    assert here.leader() is other
    here.publish()
    here.wait_for_all()
    assert leader.got() == []
    # Two sources in one page share as well.
    other.run("window.first = source; watch('/events')")
    wait_until(lambda: other.state() == "open", "the second source")
    other.run("first.close()")
    wait_until(lambda: other.leads() and other.state() == "open", "the second source to lead", SOON)
    other.run("source.close()")
    wait_until(lambda: here.streams()["open"] == 0, "no stream")
    leader.close()


@pytest.mark.long
def test_without_locks_each_tab_has_its_own_connection(site: Callable[..., Site]) -> None:
    here = site(0)
    for _ in range(2):
        tab = here.open(share=False)
        wait_until(lambda tab=tab: tab.state() == "open", "an open tab")
    tab.run("source.close()")
    tab.run("Object.defineProperty(navigator, 'locks', { value: undefined }); watch('/events')")
    wait_until(lambda: tab.state() == "open", "an open tab")
    wait_until(lambda: here.streams() == {"open": 2, "opened": 3}, "two streams")
    here.publish()
    here.wait_for_all()


def test_it_has_the_interface_of_an_eventsource(driver: Any, site: Callable[..., Site]) -> None:
    driver.get_log("browser")
    here = site(1)
    (tab,) = here.tabs
    found = tab.run(
        """
        const native = new EventSource('/events');
        native.close();
        const { source } = window;
        const names = Object.keys(EventSource.prototype);
        const f = () => {};
        source.onmessage = f;
        const kept = source.onmessage === f;
        source.onmessage = 'no function';
        return {
            missing: names.filter((name) => !(name in source)),
            values: ['url', 'withCredentials', 'onmessage'].map((n) => source[n] === native[n]),
            constants: ['CONNECTING', 'OPEN', 'CLOSED'].map(
                (n) => source[n] === native[n] && SharedEventSource[n] === EventSource[n]),
            isTarget: source instanceof EventTarget,
            kept,
        };
        """
    )
    assert found == {
        "missing": [],
        "values": [True] * 3,
        "constants": [True] * 3,
        "isTarget": True,
        "kept": True,
    }
    origin = tab.run(
        "window.events = []; source.addEventListener('even', (e) => events.push(e)); return origin"
    )
    here.publish(1)
    wait_until(lambda: tab.run("return events.length") == 1, "the event")
    script = "const [e] = events; return [e instanceof MessageEvent, e.origin, e.data, e.type]"
    assert tab.run(script) == [True, origin, "0", "even"]
    log = driver.get_log("browser")
    assert [entry for entry in log if here.url in entry["message"]] == []


@pytest.mark.long
def test_htmx_takes_it_in_the_place_of_its_own(site: Callable[..., Site], packages: Path) -> None:
    here = site(0)
    tabs = [Tab(here.driver, f"{here.url}/htmx") for _ in range(2)]
    here.tabs += tabs
    here.wait_for_open()
    here.publish(3)
    for tab in tabs:
        script = "return document.querySelector('p').textContent"
        wait_until(lambda tab=tab, s=script: tab.run(s) == "2", "the last even number")
    assert here.streams() == {"open": 1, "opened": 1}
