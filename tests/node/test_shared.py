"""``ssestream.js`` under Node: its parser, and one connection with all that can happen to it."""

import base64
import itertools
import json
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssestream.wire import OK, encode
from tests.kit.node_program import NodeScript
from tests.kit.servers import Server, free_port
from tests.node.test_eventsource import what_a_browser_makes_of
from tests.servers.apps.browser import messages

pytestmark = pytest.mark.node

#: Streams, what they give (type, data, id), and the last ``retry``: WHATWG HTML, section 9.2.6.
CASES: list[tuple[str, list[list[str | None]], int | None]] = [
    # The examples of the standard.
    ("data: YHOO\ndata: +2\ndata: 10\n\n", [["message", "YHOO\n+2\n10", ""]], None),
    (
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
        [["message", "first event", "1"], ["message", "second event", ""]],
        None,
    ),
    ("data\n\ndata\ndata\n\ndata:", [["message", "", ""], ["message", "\n", ""]], None),
    ("data:test\n\ndata: test\n\n", [["message", "test", ""]] * 2, None),
    # Line ends, and a byte order mark, of which only the first is none of the stream.
    ("data: a\r\rdata: b\r\n\r\ndata: c\n\n", [["message", x, ""] for x in "abc"], None),
    ("\ufeffdata: a\n\n", [["message", "a", ""]], None),
    ("\ufeff\ufeffdata: a\n\ndata: b\n\n", [["message", "b", ""]], None),
    ("data: a\u2028b\u0085c\v\fd\n\n", [["message", "a\u2028b\u0085c\v\fd", ""]], None),
    ("data: \n\ndata:  x\n\n", [["message", "", ""], ["message", " x", ""]], None),
    # Ids: kept for later events, not with a NUL, taken without data, and reset.
    ("id: 1\ndata: a\n\ndata: b\n\n", [["message", "a", "1"], ["message", "b", "1"]], None),
    ("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [["message", x, "1"] for x in "ab"], None),
    ("id: 1\n\n", [["message", None, "1"]], None),
    ("id: 1\n\nid\ndata: b\n\n", [["message", None, "1"], ["message", "b", ""]], None),
    ("id: 1\ndata: cut", [], None),
    # Names: dropped with an event without data, and with an empty name.
    ("event: foo\n\ndata: a\n\n", [["foo", None, ""], ["message", "a", ""]], None),
    ("event: foo\nevent:\ndata: a\n\n", [["message", "a", ""]], None),
    ("event: a:b \ndata: c:d\n\n", [["a:b ", "c:d", ""]], None),
    # Only digits are a ``retry``, also within a block that is never complete.
    ("retry: 1000\nretry: 10x\nretry: -1\nretry: 1.5\nretry:\nretry: \u0663\n", [], 1000),
    ("retry: 010\n\n", [], 10),
    # What is no field.
    ("Data: a\n data: b\ndata : c\nfoo: bar\nfoo\n: data: d\n\n", [], None),
]


@pytest.fixture(scope="module")
def module(node: str) -> Iterator[NodeScript]:
    script = NodeScript(node, Path(__file__).parent / "shared.mjs")
    yield script
    script.stop()


def parsed(module: NodeScript, *streams: list[bytes]) -> list[dict[str, Any]]:
    sent = [[base64.b64encode(piece).decode() for piece in pieces] for pieces in streams]
    answers: list[dict[str, Any]] = module.ask({"parse": sent})
    return answers


def test_the_cases_of_the_standard_are_parsed_whole_byte_by_byte_and_in_halves(
    module: NodeScript,
) -> None:
    for text, blocks, retry in CASES:
        data = text.encode()
        halves = [[data[:cut], data[cut:]] for cut in range(len(data))]
        for answer in parsed(module, [data], [bytes([byte]) for byte in data], *halves):
            assert answer == {"blocks": blocks, "retry": retry}, text


def test_bytes_that_are_no_utf_8_are_replaced_as_the_standard_says(module: NodeScript) -> None:
    data = b"data: \xff\xf0\x9f\x98\n\n"
    for answer in parsed(module, [data], [bytes([byte]) for byte in data]):
        assert answer["blocks"] == [["message", "\ufffd\ufffd", ""]]


def test_hostile_messages_in_pieces_are_what_a_browser_makes_of_them(module: NodeScript) -> None:
    sent = messages()
    data = OK + b"".join(map(encode, sent))
    chance = random.Random(7)
    cuts = sorted(chance.randrange(len(data)) for _ in range(5000))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    for answer in parsed(module, [data], pieces):
        got = [block for block in answer["blocks"] if block[1] is not None]
        expected = what_a_browser_makes_of(sent)
        assert len(got) == len(expected)
        # One by one: a difference between megabytes takes long to print.
        for number, (event, wanted) in enumerate(zip(got, expected, strict=True)):
            assert event == wanted, f"event {number}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("gevent", "tests.servers.apps.shared:app").start()
    yield server
    server.stop()


def visit(module: NodeScript, url: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = module.ask({"visit": url, **more})
    return answer


def visits(server: Server, key: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{server.url}/visits/{key}", timeout=60) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


FAST = {"maxDelay": 50}


@pytest.mark.server
def test_after_each_kind_of_break_it_goes_on_from_its_last_id(
    module: NodeScript, server: Server
) -> None:
    plan = "clean-cut-502-503-500-429-408-425-clean-204"
    answer = visit(module, f"{server.url}/plan/breaks/{plan}?a=b%20c#part", options=FAST)
    origin = server.url
    assert answer["got"] == [["message", str(n), f"é {n}", origin] for n in range(3)]
    assert answer["id"] == "é 2"
    ids = [seen["id"] for seen in visits(server, "breaks")]
    assert ids == [None, "é 0", *["é 1"] * 7, "é 2"]
    found = [(each["code"], each.get("status")) for each in answer["reasons"]]
    statuses = [("status", status) for status in (502, 503, 500, 429, 408, 425)]
    assert found == [("end", None), ("network", None), *statuses, ("end", None), ("status", 204)]
    assert answer["said"][:3] == [["open", "open"], ["error", "waiting"], ["open", "open"]]
    assert answer["said"][-1] == ["error", "closed"]


@pytest.mark.server
@pytest.mark.parametrize("status", [204, 400, 401, 403, 404, 410, 205])
def test_an_answer_for_good_closes_it(module: NodeScript, server: Server, status: int) -> None:
    answer = visit(module, f"{server.url}/plan/{status}/clean-{status}", options=FAST)
    assert len(visits(server, str(status))) == 2
    assert (answer["reason"]["code"], answer["reason"]["status"]) == ("status", status)
    assert answer["said"][-1] == ["error", "closed"]


@pytest.mark.server
def test_an_answer_that_is_no_stream_closes_it(module: NodeScript, server: Server) -> None:
    answer = visit(module, f"{server.url}/plan/html/html", options=FAST)
    assert (answer["said"], answer["reason"]["code"]) == ([["error", "closed"]], "type")


@pytest.mark.server
@pytest.mark.parametrize("names", [{}, {"closeOn": "close"}, {"closeOn": ["x", "close"]}])
def test_the_closing_event_is_the_last_and_no_error(
    module: NodeScript, server: Server, names: dict[str, Any]
) -> None:
    key = f"closing{len(str(names))}"
    answer = visit(module, f"{server.url}/plan/{key}/close", options={**FAST, **names})
    assert [event[:2] for event in answer["got"]] == [["message", "0"], ["close", "bye"]]
    assert answer["said"] == [["open", "open"]]
    assert answer["reason"]["code"] == "closing"
    assert len(visits(server, key)) == 1


@pytest.mark.server
def test_another_name_closes_it_if_it_is_asked_for_and_close_is_an_event_then(
    module: NodeScript, server: Server
) -> None:
    options = {**FAST, "closeOn": "done"}
    answer = visit(module, f"{server.url}/plan/other/close-204", options=options)
    assert [event[:2] for event in answer["got"]][:2] == [["message", "0"], ["close", "bye"]]


@pytest.mark.server
def test_a_post_sends_its_body_headers_and_a_new_token_each_time_until_its_clean_end(
    module: NodeScript, server: Server
) -> None:
    options = {**FAST, "method": "post", "body": '{"a": 1}', "headers": {"X-Extra": "more"}}
    url = f"{server.url}/plan/post/503-cut-clean-204"
    answer = visit(module, url, options=options, tokens=["one", "fail", "two", "three"])
    assert [event[:2] for event in answer["got"]] == [["message", "0"], ["message", "1"]]
    codes = [reason["code"] for reason in answer["reasons"]]
    assert codes == ["status", "token", "network", "end"]
    assert answer["reasons"][1]["message"] == "Error: no token"
    seen = visits(server, "post")
    assert [each["token"] for each in seen] == ["Bearer one", "Bearer two", "Bearer three"]
    assert {(each["method"], each["extra"], each["body"]) for each in seen} == {
        ("POST", "more", '{"a": 1}')
    }
    assert [each["id"] for each in seen] == [None, None, "é 0"]


@pytest.mark.server
def test_a_post_that_breaks_before_an_id_is_not_sent_again(module: NodeScript) -> None:
    answer = visit(module, f"http://127.0.0.1:{free_port()}/", options={"method": "POST"})
    assert (answer["said"], answer["reason"]["code"]) == ([["error", "closed"]], "network")


@pytest.mark.server
def test_a_signal_closes_it_and_a_first_id_is_sent(module: NodeScript, server: Server) -> None:
    options = {**FAST, "lastEventId": "x y&z"}
    url = f"{server.url}/plan/signal/clean"
    answer = visit(module, url, options=options, abortAfter=2)
    assert len(answer["got"]) == 2
    assert answer["reason"]["code"] == "abort"
    assert [each["id"] for each in visits(server, "signal")] == ["x y&z", "é 0"]


@pytest.mark.server
def test_it_waits_as_long_as_the_server_says(module: NodeScript, server: Server) -> None:
    url = f"{server.url}/plan/waits/clean-503-204?retry=300&after=1"
    answer = visit(module, url, options={"maxDelay": 0})
    first, second, third = (reason["at"] for reason in answer["reasons"])
    # The ``retry`` of the stream, and the Retry-After of the 503. Timers may be a little early.
    assert second - first >= 295
    assert third - second >= 995


@pytest.mark.long
@pytest.mark.server
def test_chance_adds_up_to_half_of_what_doubles_with_each_failure_up_to_a_bound(
    module: NodeScript, server: Server
) -> None:
    def delays(key: str, random: float, most: int) -> list[int]:
        url = f"{server.url}/plan/{key}/clean-503-503-503-204?retry=200"
        answer = visit(module, url, options={"maxDelay": most}, random=random)
        times = [reason["at"] for reason in answer["reasons"]]
        return [after - before for before, after in itertools.pairwise(times)]

    # A clean end after an event is no failure. Timers may be a little early.
    for got, wanted in zip(delays("grows", 1, 3000), (700, 1200, 1700, 1700), strict=True):
        assert got >= wanted - 5
    # Without chance the wait is that of the server, which a busy machine may make longer.
    least = delays("least", 0, 3000)
    assert all(each >= 195 for each in least)
    assert min(least) < 600


@pytest.mark.server
def test_three_intervals_without_a_heartbeat_are_silence_and_not_fewer(
    module: NodeScript, server: Server
) -> None:
    url = f"{server.url}/plan/silent/hang-204"
    answer = visit(module, url, options={**FAST, "heartbeat": 400})
    first, last = answer["reasons"]
    assert (first["code"], last["status"]) == ("silence", 204)
    assert [event[1] for event in answer["got"]] == ["0"]
    assert [each["id"] for each in visits(server, "silent")] == [None, "é 0"]
    assert first["at"] - answer["opened"] >= 3 * 400 - 5


@pytest.mark.server
def test_none_is_silent_if_no_interval_is_given(module: NodeScript, server: Server) -> None:
    url = f"{server.url}/plan/patient/hang-204"
    answer = visit(module, url, options={**FAST, "heartbeat": 0}, abortAfter=2, abortIn=1500)
    assert [reason["code"] for reason in answer["reasons"]] == []
    assert answer["reason"]["code"] == "abort"
