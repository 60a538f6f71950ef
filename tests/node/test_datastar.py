"""The bytes of ``ssestream.datastar`` are the ones that Datastar's own SDK for Node sends."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ssestream.datastar import patch_elements, patch_signals
from ssestream.wire import encode

pytestmark = pytest.mark.node

HTML = '<div id="a">\n  <b>é</b>\n\n</div>'

#: Our message, and the call of the SDK.
PAIRS: list[tuple[Any, list[Any]]] = [
    (patch_elements(HTML), ["patchElements", HTML]),
    (
        patch_elements(
            HTML,
            selector="#b > i",
            mode="append",
            namespace="svg",
            use_view_transition=True,
        ),
        [
            "patchElements",
            HTML,
            {"selector": "#b > i", "mode": "append", "namespace": "svg", "useViewTransition": True},
        ],
    ),
    (
        patch_elements(HTML, mode="outer", namespace="html", use_view_transition=False),
        ["patchElements", HTML, {"mode": "outer", "namespace": "html", "useViewTransition": False}],
    ),
    (
        patch_elements(selector="#b", mode="remove"),
        ["patchElements", "", {"selector": "#b", "mode": "remove"}],
    ),
    (patch_elements(HTML, mode="remove"), ["patchElements", HTML, {"mode": "remove"}]),
    (
        patch_signals({"a": 1, "b": {"c": None, "d": "é\n"}}),
        ["patchSignals", json.dumps({"a": 1, "b": {"c": None, "d": "é\n"}}, separators=(",", ":"))],
    ),
    (patch_signals({}, only_if_missing=True), ["patchSignals", "{}", {"onlyIfMissing": True}]),
]


def test_every_message_is_the_one_of_the_sdk(node: str, packages: Path) -> None:
    calls = [call for _, call in PAIRS]
    script = Path(__file__).with_name("datastar.mjs")
    run = subprocess.run(
        [node, script, json.dumps(calls)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    sent = json.loads(run.stdout)
    ours = [encode(message).decode() for message, _ in PAIRS]
    # JSON of the test has escapes where ours has text.
    assert [text.replace("\\u00e9", "é") for text in sent] == ours
