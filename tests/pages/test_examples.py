"""What the examples have in common, and what they must not do however many come."""

import importlib
import json
import time
from typing import Any

import pytest

from tests.kit.visit import until

#: The examples that change something, how that is asked for, and what is answered.
POSTS = {
    "answers": (f"/answers/{'0' * 32}/stop", {}, 204),
    "chat": ("/lobby/messages", {"json": {"name": "Ann", "text": "hello"}}, 204),
    "clock": ("/end", {}, 204),
    "datastar": ("/notes", {"json": {"text": "hello"}}, 200),
    "htmx": ("/notes", {"data": {"text": "hello"}}, 204),
    # Nobody has logged in.
    "notifications": ("/notify", {"data": {"to": "ann", "text": "hello"}}, 401),
    # None may run at all here.
    "progress": ("/jobs", {}, 429),
    "turbo": ("/notes", {"data": {"text": "hello"}}, 204),
}


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module(f"examples.{request.param}")
    monkeypatch.setattr(module, "MOST", 0, raising=False)
    return module


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        # Of another subdomain, which may be somebody else's.
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:8001"},
        {"Origin": "null"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("example", POSTS, indirect=True)
def test_what_a_page_of_another_site_sends_is_refused(
    example: Any, headers: dict[str, str]
) -> None:
    path, options, _ = POSTS[example.__name__.rpartition(".")[2]]
    client = example.app.test_client()
    assert client.post(path, headers=headers, **options).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        # Behind a proxy that speaks TLS the origin has another scheme.
        {"Origin": "https://localhost"},
        {"Sec-Fetch-Site": "none"},
    ],
)
@pytest.mark.parametrize("example", POSTS, indirect=True)
def test_what_its_own_page_sends_is_taken_and_so_is_what_no_browser_sends(
    example: Any, headers: dict[str, str]
) -> None:
    path, options, status = POSTS[example.__name__.rpartition(".")[2]]
    client = example.app.test_client()
    assert client.post(path, headers=headers, **options).status_code == status


@pytest.mark.parametrize("example", [*POSTS, "dashboard"], indirect=True)
def test_a_link_of_another_site_may_lead_here(example: Any) -> None:
    client = example.app.test_client()
    answer = client.get("/", headers={"Sec-Fetch-Site": "cross-site"}, follow_redirects=True)
    assert answer.status_code == 200
    answer.close()


@pytest.mark.parametrize("example", ["chat"], indirect=True)
def test_who_is_in_a_room_is_told_of_all_who_come_and_leave_together(example: Any) -> None:
    room = example.Here("garden")
    guests = [object() for _ in range(300)]

    def parts() -> list[dict[str, Any]]:
        return [json.loads(each["data"]) for each in example.channels.history(room.channel)]

    began = time.monotonic()
    for number, guest in enumerate(guests):
        room.enter(guest, f"guest {number:03}")

    def all_are_told_of() -> bool:
        told = parts()
        return bool(told) and len(told[-1]["names"]) + told[-1]["more"] == len(guests)

    until(all_are_told_of, "all to be told of")
    told = parts()
    assert len(told) <= 2 + (time.monotonic() - began) / example.PAUSE
    assert (len(told[-1]["names"]), told[-1]["more"]) == (example.MOST_NAMES, 200)
    # One who is new is sent the last of that, and not all.
    assert room.told() == told[-1:]

    for guest in guests:
        room.leave(guest)
    until(lambda: parts()[-1]["names"] == [], "them to be gone")
    assert len(parts()) <= 3 + (time.monotonic() - began) / example.PAUSE
