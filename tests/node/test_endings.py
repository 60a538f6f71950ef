"""Each cell of the table in docs/endings.rst: what a client does at an ending, by its package."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.servers import ROOT, Server, wait_until
from tests.servers.apps.browser import browser
from tests.servers.apps.clients import LATE

pytestmark = [pytest.mark.node, pytest.mark.server]

#: The visits that show a column, for a client that asks again: see ``servers/apps/clients.py``.
PLANS = {"a clean end": "clean", "a cut": "cut", "204": "cut-204", "5xx": "cut-503"}

#: The answers to the first visit of a client that asks only once.
ENDINGS = {"a clean end": "clean", "a cut": "cut", "204": "204", "5xx": "503"}

#: The rows of clients in a browser, by their page: the name in the address is the last part.
PAGES = {
    "/page": {
        "``EventSource`` (Chromium)": "eventsource",
        "``@microsoft/fetch-event-source``": "fetch-event-source",
        "``eventsource-client``": "eventsource-client",
    },
    "/page/htmx2": {"htmx 2, ``sse`` extension": "htmx2"},
    "/page/htmx4": {"htmx 4, ``hx-sse``": "htmx4"},
    "/page/datastar": {"Datastar, ``@get``": "datastar"},
}

#: The rows of clients in Node.
IN_NODE = {
    "``fetch`` with a reader": "fetch",
    "``openai`` (JavaScript)": "openai",
    "AI SDK (``ai``)": "ai",
}

#: Answers that a client gets before it has had a stream, and those that do not ask again then.
FIRST_ANSWERS = ("204", "503")
BEGIN_NOTHING = ("htmx4", "datastar")

#: A client of a page has come back so often, each time after a tenth of a second or more, when
#: another one counts as away.
OFTEN = 8


def table() -> dict[str, dict[str, str]]:
    """The cells by row and column."""
    text = (ROOT / "docs" / "endings.rst").read_text().partition("What each client does")[2]
    _, head, body = re.split(r"\n=====.*", text)[:3]
    _, *columns = re.split(" {2,}", head.strip())
    rows = [re.split(" {2,}", line) for line in body.strip().split("\n")]
    return {row: dict(zip(columns, cells, strict=True)) for row, *cells in rows}


TABLE = table()

ON_PAGES = [(page, row, name) for page, rows in PAGES.items() for row, name in rows.items()]


def test_every_row_and_every_column_is_tried() -> None:
    assert set(TABLE) == {row for _, row, _ in ON_PAGES} | set(IN_NODE)
    for cells in TABLE.values():
        assert list(cells) == list(PLANS) == list(ENDINGS)
        assert set(cells.values()) <= {"comes back", "stays away", "complete", "error"}


@pytest.fixture(scope="module")
def server(packages: Path) -> Iterator[Server]:
    server = Server("SseWorker", "tests.servers.apps.clients:app").start()
    yield server
    server.stop()


def visits(server: Server) -> dict[str, int]:
    """How often each client has asked, by its name and its plan."""
    with urllib.request.urlopen(f"{server.url}/visits") as answer:
        found: dict[str, int] = json.load(answer)
    return found


@pytest.fixture(scope="module")
def seen(
    server: Server, chromium: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, int]:
    """The visits of all clients in the browser."""
    with browser(chromium, tmp_path_factory.mktemp("chromium")) as driver:
        driver.set_script_timeout(30)
        for page, rows in PAGES.items():
            plans = [*PLANS.values(), *FIRST_ANSWERS]
            driver.get(f"{server.url}{page}?plans={','.join(plans)}")
            if page == "/page":
                wait_until(lambda: driver.execute_script("return 'run' in window"), "the scripts")
                driver.execute_script("window.run(arguments[0])", list(PLANS.values()))
            # A cut may lose the last bytes, and the pause in them. Then a client comes back later.
            least = [
                (f"{name} {PLANS[column]}", PLANS[column].count("-") + 1 + (cell == "comes back"))
                for row, name in rows.items()
                for column, cell in TABLE[row].items()
            ]
            for key, number in least:
                wait_until(lambda k=key, n=number: visits(server).get(k, 0) >= n, f"{key} again")
            first = f"{next(iter(rows.values()))} cut"
            often = max(OFTEN, visits(server)[first] + 3)
            wait_until(lambda k=first, n=often: visits(server)[k] >= n, f"{first} to stay")
    return visits(server)


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.parametrize(("row", "name"), [(row, name) for _, row, name in ON_PAGES])
@pytest.mark.parametrize("column", PLANS)
def test_a_client_in_a_browser_does_at_an_ending_what_the_table_says(
    column: str, row: str, name: str, seen: dict[str, int]
) -> None:
    plan = PLANS[column]
    came = seen[f"{name} {plan}"]
    asked_before = plan.count("-") + 1
    if TABLE[row][column] == "comes back":
        assert came > asked_before
    else:
        assert came == asked_before


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.parametrize("answer", FIRST_ANSWERS)
@pytest.mark.parametrize("name", BEGIN_NOTHING)
def test_a_client_that_begins_with_no_stream_begins_nothing(
    name: str, answer: str, seen: dict[str, int]
) -> None:
    assert seen[f"{name} {answer}"] == 1


@pytest.mark.browser
def test_the_clients_tell_their_apps_what_the_table_says(
    server: Server, chromium: tuple[str, str], tmp_path: Path
) -> None:
    """The promise of ``fetch-event-source`` resolves, and an EventSource is closed for good."""
    ends = {
        ("eventsource", "clean-204"): "closed",
        ("eventsource", "clean-503"): "closed",
        ("fetch-event-source", "clean-clean"): "over",
    }
    with browser(chromium, tmp_path) as driver:
        driver.get(f"{server.url}/page")
        wait_until(lambda: driver.execute_script("return 'run' in window"), "the scripts")
        driver.execute_script("window.run(arguments[0])", sorted({plan for _, plan in ends}))

        def told(key: str) -> list[str]:
            found: dict[str, list[str]] = driver.execute_script("return window.told")
            return found.get(key, [])

        for (name, plan), end in ends.items():
            wait_until(lambda k=f"{name} {plan}", e=end: told(k)[-1:] == [e], f"{name}: {end}")


#: Clients that come back after a clean end, the page of each, and the part of a ``retry`` after
#: which it may come: htmx 4 takes up to 30 % less.
COMING_BACK = {
    "eventsource": ("/page", 1.0),
    "eventsource-client": ("/page", 1.0),
    "htmx2": ("/page/htmx2", 1.0),
    "htmx4": ("/page/htmx4", 0.7),
}


@pytest.mark.long
@pytest.mark.browser
def test_each_client_that_comes_back_takes_the_last_retry_and_htmx_4_not_the_first(
    server: Server, chromium: tuple[str, str], tmp_path: Path
) -> None:
    """htmx 4 takes a ``retry`` only in a block with an event or data. The last block has one."""

    def asked(key: str) -> list[float]:
        with urllib.request.urlopen(f"{server.url}/asked") as answer:
            found: dict[str, list[float]] = json.load(answer)
        return found.get(key, [])

    with browser(chromium, tmp_path) as driver:
        for page in dict.fromkeys(page for page, _ in COMING_BACK.values()):
            driver.switch_to.new_window("window")
            driver.get(f"{server.url}{page}?plans=stopped,opened")
            if page == "/page":
                wait_until(lambda: driver.execute_script("return 'run' in window"), "the scripts")
                driver.execute_script("window.run(['stopped'])")
        for name, (_, share) in COMING_BACK.items():
            times = wait_until(
                lambda k=f"{name} stopped": len(asked(k)) > 1 and asked(k), f"{name} to come back"
            )
            assert times[1] - times[0] >= share * LATE / 1000, name
        times = asked("htmx4 opened")
        assert times[1] - times[0] < LATE / 1000


@pytest.mark.long
@pytest.mark.browser
def test_datastar_gives_up_after_ten_tries(
    server: Server, chromium: tuple[str, str], tmp_path: Path
) -> None:
    with browser(chromium, tmp_path) as driver:
        driver.get(f"{server.url}/page/datastar?plans=sooner")
        told = "return window.told.includes('retries-failed')"
        wait_until(lambda: driver.execute_script(told), "Datastar to give up", 240)
    # Its first request, and ten tries.
    assert visits(server)["datastar sooner"] == 11


@pytest.fixture(scope="module")
def read(server: Server, node: str) -> dict[tuple[str, str], str]:
    """What each client in Node makes of each ending."""
    program = ROOT / "tests" / "node" / "endings.mjs"
    run = subprocess.run([node, program, server.url], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return {(name, ending): outcome for name, ending, outcome in json.loads(run.stdout)}


@pytest.mark.parametrize("row", IN_NODE)
@pytest.mark.parametrize("column", ENDINGS)
def test_a_client_in_node_makes_of_an_ending_what_the_table_says(
    row: str, column: str, read: dict[tuple[str, str], str], server: Server
) -> None:
    name, ending = IN_NODE[row], ENDINGS[column]
    outcome: Any = read[name, ending]
    if TABLE[row][column] == "complete":
        assert outcome in ("whole", "204, no body")
    else:
        # fetch itself has no error for a status.
        assert outcome.startswith("error: ") or (name, outcome) == ("fetch", "503")
    again = 2 if (name, ending) == ("openai", "503") else 0
    assert visits(server)[f"{name} {ending}"] == 1 + again
