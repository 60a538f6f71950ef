"""The view that tells when each of its events was written."""

import json
import time

import pytest
from flask import Flask

from ssestream.doctor import probe
from ssestream.doctor.probing import EVENT, PADDINGS
from ssestream.wire import Decoder
from tests.kit.visit import Visit, on_threads_and_greenlets


@on_threads_and_greenlets
def test_it_writes_small_events_and_then_longer_ones_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ssestream.doctor.probing.PACE", 1)
    app = Flask("app")
    app.add_url_rule("/doctor", view_func=probe)
    before = time.time()
    with Visit(app, "/doctor") as visit:
        messages = Decoder().feed(visit.read_to_end().partition(b"\r\n\r\n")[2])
    after = time.time()
    events = [json.loads(str(each["data"])) for each in messages if each.get("event") == EVENT]
    assert [event["number"] for event in events] == list(range(len(PADDINGS)))
    assert [len(event["padding"]) for event in events] == list(PADDINGS)
    sent = [event["sent"] for event in events]
    assert sent == sorted(sent)
    assert before <= sent[0]
    assert sent[-1] <= after


def test_the_small_events_are_fewer_bytes_than_any_buffer_and_the_long_ones_fill_it() -> None:
    small = [padding for padding in PADDINGS[:-1] if not padding]
    assert len(small) * 150 < 4096
    assert sum(PADDINGS) > 8 * 8192
