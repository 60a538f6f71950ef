"""Chromium's EventSource reads what the real server sends: a parser that we did not write."""

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.servers import Server
from tests.servers.apps.browser import NAMES, PIECES, THE_END, browser, messages

pytestmark = [pytest.mark.browser, pytest.mark.server]

# Collect every event under every name, until the last one. A failed connection
# fires an "error", too, which has no data.
COLLECT = """
const [path, names, theEnd, done] = arguments;
const got = [];
const source = new EventSource(path);
for (const name of new Set(['message', 'open', 'error', ...names])) {
    source.addEventListener(name, (e) => {
        if (e instanceof MessageEvent) got.push([e.type, e.data, e.lastEventId]);
        else if (name === 'error') { source.close(); done('the connection failed'); }
    });
}
source.addEventListener(theEnd, () => { source.close(); done(got); });
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("SseWorker", "tests.servers.apps.browser:app").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def driver(
    chromium: tuple[str, str], server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    with browser(chromium, tmp_path_factory.mktemp("chromium")) as driver:
        driver.set_script_timeout(60)
        driver.get(server.url)
        yield driver


def names_of(sent: list[dict[str, Any]]) -> list[str]:
    return sorted({message["event"] for message in sent if message.get("event")})


def what_a_browser_makes_of(sent: list[dict[str, Any]]) -> list[list[str]]:
    """(type, data, lastEventId) of every event, by the messages alone."""
    events = []
    last_id = ""
    for message in sent:
        last_id = str(message.get("id", last_id))
        if "data" not in message:
            continue
        data = message["data"]
        if isinstance(data, bytes):
            data = data.decode()
        if not isinstance(data, str):
            data = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        data = re.sub("\r\n|\r", "\n", data)
        events.append([message.get("event") or "message", data, last_id])
    return events


def test_hostile_messages_arrive_in_a_browser_as_what_they_are(driver: Any) -> None:
    sent = messages()
    got = driver.execute_async_script(COLLECT, "/hostile", names_of(sent), THE_END)
    expected = what_a_browser_makes_of(sent)
    assert isinstance(got, list), got
    # One by one: a difference between megabytes takes long to print.
    for number, (event, wanted) in enumerate(zip(got, expected, strict=False)):
        assert event == wanted, f"event {number}"
    assert len(got) == len(expected)
    assert len(got) > 300


def test_the_hostile_messages_are_hostile() -> None:
    """What the test above is worth: each piece and each name is somewhere in it."""
    sent = messages()
    data = [m["data"] for m in sent if isinstance(m.get("data"), str)]
    assert all(any(piece in text for text in data) for piece in PIECES)
    assert set(NAMES) <= set(names_of(sent))
    assert sent == messages()


text = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    max_size=8,
).map("".join)


def one_line(allow_nul: bool) -> st.SearchStrategy[str]:
    pattern = "[\r\n]" if allow_nul else "[\r\n\0]"
    return text.map(lambda value: re.sub(pattern, "", value))


message = st.fixed_dictionaries(
    {},
    optional={
        "data": text | st.integers(-(2**53), 2**53) | st.booleans() | st.lists(text, max_size=3),
        "event": one_line(allow_nul=True).filter(lambda name: name != THE_END),
        "id": one_line(allow_nul=False) | st.integers(),
        "retry": st.integers(0, 10**12),
        "comment": text,
    },
).filter(lambda fields: any(key in fields for key in ("data", "id", "retry")))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(sent=st.lists(message, max_size=25))
def test_any_messages_arrive_in_a_browser_as_what_they_are(
    driver: Any, server: Server, sent: list[dict[str, Any]]
) -> None:
    body = json.dumps(sent).encode()
    post = urllib.request.Request(
        server.url + "/messages", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(post, timeout=60) as answer:
        number = answer.read().decode()
    path = f"/messages/{number}"
    got = driver.execute_async_script(COLLECT, path, names_of(sent), THE_END)
    assert got == what_a_browser_makes_of(sent)
