"""The middleware of docs/porting.rst: Express's block and the Python block do the same."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_docs import blocks
from tests.kit.node_program import NodeProgram
from tests.kit.servers import ROOT, Server

pytestmark = [pytest.mark.server, pytest.mark.node]

PAGE = ROOT / "docs" / "porting.rst"

EXPRESS = """
const express = require('express')
const app = express()
%s
app.get('/other', (req, res) => res.send('other'))
const server = app.listen(0, '127.0.0.1', () => {
  console.log(`Listening at: http://127.0.0.1:${server.address().port}`)
})
"""

FLASK = """
from flask import Flask, request
from ssestream import handler

app = Flask(__name__)
%s

@app.get("/other")
@handler
def other(req, res):
    res.send("other")
"""


def block(language: str) -> str:
    (found,) = [each for each in blocks(PAGE, language) if "/prepared" in each]
    return found


@pytest.fixture(scope="module")
def programs(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """The ports of both programs."""
    folder: Path = tmp_path_factory.mktemp("middleware")
    (folder / "express.js").write_text(EXPRESS % block("javascript"))
    (folder / "ported.py").write_text(FLASK % block("python"))
    express = NodeProgram(node, folder / "express.js", {})
    server = Server("SseWorker", "ported:app", env={"PYTHONPATH": f"{ROOT}:{folder}"}).start()
    yield express.port, server.port
    express.stop()
    server.stop()


@pytest.mark.parametrize(
    ("path", "key", "answer"),
    [
        ("/prepared", "some", (200, "text/event-stream", b'data: {"hello":"world"}\n\n', True)),
        ("/other", "some", (200, "text/html", b"other", True)),
        # A guard that answers is the last one in Express. Flask signs that answer as well.
        ("/prepared", "none", (403, None, b"Forbidden", None)),
    ],
)
def test_a_guard_a_preparation_and_a_signature_do_the_same(
    programs: tuple[int, int], path: str, key: str, answer: tuple[object, ...]
) -> None:
    for port in programs:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path, headers={"X-Key": key})
        response = connection.getresponse()
        # Python's json writes a space that JavaScript does not write.
        body = response.read().replace(b'": ', b'":')
        connection.close()
        is_signed = response.headers.get("X-Served-By") == "me"
        found = (response.status, response.headers.get_content_type(), body, is_signed)
        for ours, expected in zip(found, answer, strict=True):
            assert expected is None or ours == expected
