"""Metrics: what it takes, and when a process begins to write its numbers."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from ssestream import Channels
from ssestream.metrics import Metrics
from tests.kit.visit import until


async def asynchronous(name: str) -> str:
    return name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": "redis://"}, "channels must be a Channels, not str"),
        ({"group": "user"}, "group must be a function of the name of a channel, or None, not str"),
        ({"group": asynchronous}, "group must be a plain function: nobody would await"),
        ({"folder": "/tmp/numbers"}, "a folder needs an app"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Metrics(**arguments)


def test_without_a_folder_all_is_this_process() -> None:
    metrics = Metrics(channels=Channels())
    assert {each.name for each in metrics.numbers()} == {
        each.name for each in metrics.numbers_of_all()
    }


def test_a_process_writes_its_numbers_from_its_first_request_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssestream.metrics.metrics.PACE", 10)
    app = Flask("app")
    metrics = Metrics(app, folder=tmp_path / "numbers")
    assert not (tmp_path / "numbers").exists()
    app.test_client().get("/")
    until(lambda: list(tmp_path.glob("numbers/*.json")), "the file")
    assert {each.name for each in metrics.numbers_of_all()} == {
        each.name for each in metrics.numbers()
    }


def test_a_process_that_has_drained_tells_how_long_it_took(tmp_path: Path) -> None:
    app = Flask("app")
    metrics = Metrics(app, folder=tmp_path / "numbers")
    app.test_client().get("/")
    metrics.drained(0.75)
    # It is written at once, as the process ends soon.
    (file,) = tmp_path.glob("numbers/[0-9]*.json")
    (written,) = (each for each in json.loads(file.read_text()) if each["name"] == "drain_seconds")
    samples = {label: value for (label,), value in written["samples"]}
    assert (samples["0.5"], samples["1.0"], samples["sum"]) == (0, 1, 0.75)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_begins_with_no_counts() -> None:
    channels = Channels()
    metrics = Metrics(channels=channels)
    channels.publish("news", {"data": "1"})
    metrics.drained(0.5)

    def counts() -> list[float]:
        return [
            number.samples.get((*labels, "+Inf"), 0)
            for number in metrics.numbers()
            for labels in [("all",) if "group" in number.labels else ()]
            if number.kind == "histogram"
        ]

    assert counts() == [1, 1]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(counts()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(read, 100)) == [0, 0]
    assert counts() == [1, 1]
    os.close(read)
    os.close(write)


def test_a_folder_that_cannot_be_written_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssestream.metrics.metrics.PACE", 5)
    (tmp_path / "file").touch()
    app = Flask("app")
    ticks: list[None] = []
    metrics = Metrics(app, folder=tmp_path / "file")
    numbers = metrics.numbers
    monkeypatch.setattr(metrics, "numbers", lambda: ticks.append(None) or numbers())

    def told() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]

    app.test_client().get("/")
    until(lambda: len(ticks) > 3, "some tries")
    assert len(told()) == 1
    assert "the numbers of this process are not written" in told()[0]
    (tmp_path / "file").unlink()
    until(lambda: list(tmp_path.glob("file/*.json")), "the folder")
