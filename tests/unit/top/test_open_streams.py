"""The open streams of this process, and those of others in a folder."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, request

from ssestream import Channels, ServerResponse, SseStream, clear_interval, set_interval
from ssestream.top import OpenStreams
from ssestream.top.open_streams import GONE
from tests.kit.visit import Visit, until


class Shown:
    """An app whose streams are told."""

    def __init__(self, **options: Any) -> None:
        self.channels = Channels()
        self.app = Flask("app")
        self.open = OpenStreams(self.app, self.channels, **options)
        self.app.add_url_rule("/streams", endpoint="streams", view_func=self.open.view)

        @self.app.get("/follow/<path:names>")
        def follow(names: str) -> ServerResponse:
            sse_stream = SseStream(request)
            self.channels.subscribe(sse_stream, *names.split("/"))
            return sse_stream.pipe(ServerResponse())

        @self.app.get("/iterated")
        def iterated() -> Response:
            return Response(SseStream(request), mimetype="text/event-stream")

    def processes(self) -> list[dict[str, Any]]:
        answer = self.app.test_client().get("/streams")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json is not None
        found: list[dict[str, Any]] = answer.json["processes"]
        return found


def test_each_open_stream_is_told_with_its_channels_and_what_it_got() -> None:
    shown = Shown()
    client = {"REMOTE_ADDR": "192.0.2.7"}
    with Visit(shown.app, "/follow/news/sports?secret=1", **client) as one:
        one.read_until(b":ok")
        with Visit(shown.app, "/iterated", **client) as two:
            two.read_until(b":ok")
            shown.channels.publish("news", {"data": "hello"})
            one.read_until(b"hello")
            until(lambda: shown.processes()[0]["messages"], "the message to be counted")
            until(
                lambda: not any(each["waiting"] for each in shown.processes()[0]["streams"]),
                "all bytes to leave",
            )
            (process,) = shown.processes()
            assert (process["process"], process["open"]) == (os.getpid(), 2)
            assert process["draining"] is False
            assert process["channels"] == {
                "news": {"streams": 1, "behind": 0, "delivered": 1},
                "sports": {"streams": 1, "behind": 0, "delivered": 0},
            }
            streams = {each.pop("client"): each for each in process["streams"]}
            # Without the query, as in the log.
            assert set(streams) == {"192.0.2.7 '/follow/news/sports'", "192.0.2.7 '/iterated'"}
            followed = streams["192.0.2.7 '/follow/news/sports'"]
            assert followed["channels"] == {"news": 0, "sports": 0}
            assert followed["messages"] > 0
            assert followed["waiting"] == 0
            assert followed["bytes"] > 0
            assert streams["192.0.2.7 '/iterated'"]["channels"] == {}
            ages = [each["seconds"] for each in streams.values()]
            assert all(age > 0 for age in ages)
            assert followed["seconds"] > streams["192.0.2.7 '/iterated'"]["seconds"]
    until(lambda: shown.processes()[0]["open"] == 0, "the departures")
    assert shown.processes()[0]["streams"] == []


def test_a_slow_stream_comes_first_with_what_waits_and_what_it_has_yet_to_get() -> None:
    shown = Shown()
    with (
        Visit(shown.app, "/follow/news", send_buffer=4096) as slow,
        Visit(shown.app, "/follow/sports") as quick,
    ):
        slow.read_until(b":ok")
        quick.read_until(b":ok")
        for number in range(100):
            shown.channels.publish("news", {"data": f"{number} {'x' * 8000}"})
        until(lambda: shown.channels.statistics()["news"].lagging, "it to be behind")
        first = shown.processes()[0]["streams"][0]
        assert first["waiting"] > 0
        assert 0 < first["channels"]["news"] < 100
        of_channel = shown.processes()[0]["channels"]["news"]
        assert (of_channel["streams"], of_channel["behind"]) == (1, 1)
        assert 0 < of_channel["delivered"] < 100
        slow.read_until(b"\ndata: 99 xxx")


def test_other_processes_write_while_somebody_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssestream.top.open_streams.PACE", 10)
    shown = Shown(folder=tmp_path)
    own = tmp_path / "open" / f"{os.getpid()}.json"
    with Visit(shown.app, "/follow/news") as visit:
        visit.read_until(b":ok")
        # Nobody has looked yet, so nothing is written.
        assert not (tmp_path / "open").exists()
        shown.processes()
        until(own.exists, "the file")
        assert json.loads(own.read_text())["open"] == 1
        # Another process that has written now, and one that has gone.
        for name, age in (("1", 0.0), ("2", GONE + 1)):
            file = tmp_path / "open" / f"{name}.json"
            file.write_text(json.dumps({"process": int(name), "open": 3}))
            os.utime(file, (time.time() - age,) * 2)
        assert [each["process"] for each in shown.processes()] == [os.getpid(), 1]
        assert not (tmp_path / "open" / "2.json").exists()
        # Nobody watches any more.
        os.utime(tmp_path / "open" / "watched", (time.time() - GONE - 1,) * 2)
        ticks: list[None] = []
        ticker = set_interval(lambda: ticks.append(None), 10)
        until(lambda: len(ticks) > 3, "the end of a write that was on its way")
        own.unlink()
        until(lambda: len(ticks) > 20, "the time of some writes")
        clear_interval(ticker)
        assert not own.exists()


def test_the_last_ends_are_told_with_their_causes() -> None:
    shown = Shown()
    with Visit(shown.app, "/follow/news?secret=1", REMOTE_ADDR="192.0.2.7") as visit:
        visit.read_until(b":ok")
        until(lambda: shown.processes()[0]["streams"][0]["bytes"], "the server to have sent")
        (process,) = shown.processes()
        assert process["ends"] == []
        opened = process["opened"]
    until(lambda: shown.processes()[0]["ends"], "the end")
    (process,) = shown.processes()
    (end,) = process["ends"]
    assert (end["client"], end["cause"]) == ("192.0.2.7 '/follow/news'", "client")
    assert 0 < end["seconds"] < time.time() - end["at"] + 600
    assert end["bytes"] > 0
    assert process["opened"] == opened
    assert process["closed"]["client"] >= 1


def test_a_stream_of_this_process_is_cut_by_its_id_and_no_other() -> None:
    shown = Shown()
    with Visit(shown.app, "/follow/news") as one, Visit(shown.app, "/follow/sports") as two:
        for visit in (one, two):
            visit.read_until(b":ok")
        streams = {each["client"]: each["id"] for each in shown.processes()[0]["streams"]}
        (cut,) = (name for client, name in streams.items() if "news" in client)
        assert shown.open.cut(cut) is True
        one.read_to_end()
        (left,) = shown.processes()[0]["streams"]
        assert left["id"] in streams.values()
        assert left["id"] != cut
        assert shown.processes()[0]["ends"][-1]["cause"] == "error"
        # It is over, and nobody else gets its id.
        assert shown.open.cut(cut) is False
        shown.channels.publish("sports", {"data": "hello"})
        two.read_until(b"hello")


@pytest.mark.long_except("1", "../../etc/passwd")
@pytest.mark.parametrize("wrong", ["", "1", "../../etc/passwd", "0000000a-1", "0000000a-1\n"])
def test_an_id_of_no_stream_cuts_nothing_and_writes_nothing(wrong: str, tmp_path: Path) -> None:
    shown = Shown(folder=tmp_path)
    assert shown.open.cut(wrong) is False
    assert not list(tmp_path.rglob("*.cut"))


def test_a_stream_of_another_process_is_cut_by_an_order_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssestream.top.open_streams.PACE", 10)
    shown = Shown(folder=tmp_path)
    with Visit(shown.app, "/follow/news") as visit:
        visit.read_until(b":ok")
        (own,) = shown.processes()[0]["streams"]
        # Another process is told of, and has a stream.
        other = tmp_path / "open" / "1.json"
        other.write_text(json.dumps({"process": 1, "streams": [{"id": "0000000a-1"}]}))
        assert shown.open.cut("0000000a-2") is False
        assert shown.open.cut("0000000a-1") is True
        order = tmp_path / "open" / "0000000a-1.cut"
        assert order.exists()
        # Its process has gone without having read it.
        os.utime(order, (time.time() - GONE - 1,) * 2)
        shown.processes()
        assert not order.exists()
        # Another process orders this one.
        (tmp_path / "open" / f"{own['id']}.cut").touch()
        visit.read_to_end()
        until(lambda: not list(tmp_path.rglob("*.cut")), "the order to be removed")


def test_a_folder_that_cannot_be_written_hides_no_stream_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssestream.top.open_streams.PACE", 10)
    (tmp_path / "file").touch()
    shown = Shown(folder=tmp_path / "file")
    assert [each["process"] for each in shown.processes()] == [os.getpid()]
    until(lambda: "the folder cannot be written" in caplog.text, "the warning")
    ticks: list[None] = []
    ticker = set_interval(lambda: ticks.append(None), 10)
    until(lambda: len(ticks) > 10, "the time of some writes")
    clear_interval(ticker)
    assert [each.levelname for each in caplog.records] == ["WARNING"]


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(TypeError, match="channels must be a Channels, not str"):
        OpenStreams(Flask("app"), "redis://")  # type: ignore[arg-type]
