"""An example of hypermedia, with npm's packages beside it: ``EXAMPLE`` says which.

Also a page of htmx 2 with fragments by name, and a stream that ends for good.
"""

import importlib
import os
import re
from pathlib import Path
from typing import Any

from flask import Flask, Response, request, send_from_directory

from ssestream import ServerResponse, SseStream
from ssestream.htmx import close, fragment

MODULES = Path(__file__).parents[2] / "node" / "node_modules"

#: The folders of packages of which there are several versions.
FOLDERS = {"htmx.org@2.0.10": "htmx2", "htmx.org@4.0.1": "htmx4"}

app: Flask = importlib.import_module(f"examples.{os.environ['EXAMPLE']}").app
app.config["SSESTREAM_RETRY_AFTER"] = [50, 200]

visits: list[str] = []


@app.get("/npm/<path:path>")
def module(path: str) -> Response:
    found = re.fullmatch(r"((?:@[^/]+/)?[^/@]+)@([^/]+)/(.+)", path)
    assert found is not None, path
    name, version, rest = found.groups()
    return send_from_directory(MODULES / FOLDERS.get(f"{name}@{version}", name), rest)


NAMED = """<!doctype html><link rel=icon href="data:,"><title>Named</title>
<script src=/npm/htmx.org@2.0.10/dist/htmx.min.js></script>
<script src=/npm/htmx-ext-sse@2.2.4/dist/sse.js></script>
<div hx-ext=sse sse-connect=/named/events sse-close=over>
<p id=first sse-swap=first></p><p id=second sse-swap=second></p>
</div>"""

TARGETED = """<!doctype html><link rel=icon href="data:,"><title>Targeted</title>
<script src=/npm/htmx.org@4.0.1/dist/htmx.min.js></script>
<script src=/npm/htmx.org@4.0.1/dist/ext/hx-sse.min.js></script>
<div hx-sse:connect=/targeted/events hx-sse:close=over><p id=first></p><p id=second></p></div>"""


@app.get("/named")
def named() -> str:
    return NAMED


@app.get("/targeted")
def targeted() -> str:
    return TARGETED


@app.get("/named/events")
def named_events() -> Any:
    return ended(fragment("<b>one</b>", "first"), fragment("two\nlines", "second"))


@app.get("/targeted/events")
def targeted_events() -> Any:
    return ended(
        fragment("<b>one</b>", target="#first"),
        fragment("two\nlines", target="#second", swap="innerHTML"),
    )


def ended(*messages: Any) -> ServerResponse:
    visits.append(request.path)
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    for message in messages:
        sse_stream.write({**message, "retry": 50})
    sse_stream.end(close("over"))
    return res


@app.get("/visits")
def count() -> list[str]:
    return visits
