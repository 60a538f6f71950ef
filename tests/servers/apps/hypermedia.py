"""An example of hypermedia, with npm's packages beside it: ``EXAMPLE`` says which.

Also a page of htmx 2 with fragments by name, a stream that ends for good, and each message of Turbo
and Datastar.
"""

import importlib
import os
import re
from pathlib import Path
from typing import Any

from flask import Flask, Response, request, send_from_directory

from ssestream import ServerResponse, SseStream, turbo
from ssestream.datastar import patch_elements, patch_signals
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
    return written(*messages, end=True)


def written(*messages: Any, end: bool = False) -> ServerResponse:
    visits.append(request.path)
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    for message in messages:
        sse_stream.write({**message, "retry": 50})
    if end:
        sse_stream.end(close("over"))
    return res


LIST = "<ol id=list><li id=a>a</li></ol><ul><li class=some>some</li></ul><p id=gone>gone</p>"

TURBO = f"""<!doctype html><link rel=icon href="data:,"><title>Turbo</title>
<script type=module>
  import {{ StreamActions }} from '/npm/@hotwired/turbo@8.0.23/dist/turbo.es2017-esm.js'
  StreamActions.log = function () {{ document.title = this.getAttribute('message') }}
</script>
<body>{LIST}<turbo-stream-source src=/turbo/events></turbo-stream-source>"""

DATASTAR = f"""<!doctype html><link rel=icon href="data:,"><title>Datastar</title>
<script type=module src=/npm/@starfederation/datastar@1.0.0-beta.11/dist/datastar.js></script>
<body data-signals="{{{{title: 'none', kept: 'old'}}}}" data-on-load="@get('/datastar/events')">
{LIST}<i data-text="$title + ' ' + $kept"></i>"""


@app.get("/turbo")
def with_turbo() -> str:
    return TURBO


@app.get("/datastar")
def with_datastar() -> str:
    return DATASTAR.replace("{{", "{").replace("}}", "}")


@app.get("/turbo/events")
def turbo_events() -> Any:
    # Turbo's EventSource would come back, and do all of it again.
    return written(
        turbo.append("list", "<li id=z>z</li>"),
        turbo.prepend("list", "<li id=first>first</li>"),
        turbo.before("a", "<li>before</li>"),
        turbo.after("a", "<li>after</li>"),
        turbo.replace("z", "<li id=y>last</li>"),
        turbo.update("a", "A"),
        turbo.update("first", "FIRST", method="morph"),
        turbo.append(targets=".some", html=" more"),
        turbo.remove("gone"),
        turbo.turbo_stream("log", message='"said" & done'),
    )


@app.get("/datastar/events")
def datastar_events() -> Any:
    # One element in each: a beta leaves out text that stands alone.
    return ended(
        patch_elements("<li id=z>z</li>", selector="#list", mode="append", beta=True),
        patch_elements("<li id=first>first</li>", selector="#list", mode="prepend", beta=True),
        patch_elements("<li>before</li>", selector="#a", mode="before", beta=True),
        patch_elements("<li>after</li>", selector="#a", mode="after", beta=True),
        patch_elements("<li id=y>last</li>", selector="#z", mode="replace", beta=True),
        patch_elements("<li id=a>A</li>", beta=True),
        patch_elements("<b>FIRST</b>", selector="#first", mode="inner", beta=True),
        patch_elements("<li class=some>some\nmore</li>", selector=".some", beta=True),
        patch_elements(selector="#gone", mode="remove", beta=True),
        patch_signals({"title": '"said" & done'}, beta=True),
        patch_signals({"kept": "new"}, only_if_missing=True, beta=True),
    )


@app.get("/visits")
def count() -> list[str]:
    return visits
