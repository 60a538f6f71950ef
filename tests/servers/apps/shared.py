"""An app whose pages share one stream, with a strict policy for scripts."""

import itertools
import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, Response, render_template_string, request, send_from_directory

from ssestream import Channels, ServerResponse, SseStream, pipeline

MODULES = Path(__file__).parents[2] / "node" / "node_modules"

app = Flask(__name__)
channels = Channels(os.environ.get("SSESTREAM_URL", "memory://"))
channels.init_app(app)

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<title>Shared</title>
<link rel="modulepreload" id="module" href="{{ ssestream_url() }}">
<script type="module" src="/shared.js"></script>
"""

HTMX = """<!doctype html>
<link rel="icon" href="data:,">
<title>htmx</title>
<script src="/modules/htmx2/dist/htmx.min.js"></script>
<script src="/modules/htmx-ext-sse/sse.js"></script>
<script type="module">
  // Without a hash, as a file of its own could say. A page must import it before htmx begins.
  import { SharedEventSource } from '/_ssestream/ssestream.js';
  htmx.createEventSource = (url) => (window.source = new SharedEventSource(url));
</script>
<main hx-ext="sse" sse-connect="/events"><p sse-swap="even"></p></main>
"""

#: No text in the page is a script, and no text becomes one.
POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:"

numbers = itertools.count(int(os.environ.get("FIRST", 0)))
opened = 0
here: set[object] = set()


@app.get("/")
@app.get("/htmx")
def page() -> Response:
    answer = Response(render_template_string(HTMX if request.path == "/htmx" else PAGE))
    if request.path == "/":
        answer.headers["Content-Security-Policy"] = POLICY
    return answer


@app.get("/shared.js")
def script() -> Response:
    return send_from_directory(Path(__file__).parent, "shared.js")


@app.get("/modules/<path:path>")
def module(path: str) -> Response:
    return send_from_directory(MODULES, path)


@app.get("/events")
def events() -> Any:
    """The channel, with heartbeats as often as the query says."""
    global opened
    res = ServerResponse()
    sse_stream = SseStream(request, heartbeat=float(request.args.get("heartbeat", 15)))
    opened += 1
    here.add(sse_stream)
    res.on("close", lambda: here.discard(sse_stream))
    sse_stream.pipe(res)
    sse_stream.write({"retry": 100})
    channels.subscribe(sse_stream, "numbers")
    return res


@app.post("/publish/<int:count>")
def publish(count: int) -> str:
    """Publish the next *count* numbers. Only some pages listen to the odd ones."""
    for number in itertools.islice(numbers, count):
        channels.publish("numbers", {"event": ("even", "odd")[number % 2], "data": number})
    return ""


@app.post("/finish")
def finish() -> str:
    channels.publish("numbers", {"event": "close", "data": "done"})
    return ""


@app.get("/streams")
def streams() -> dict[str, int]:
    return {"open": len(here), "opened": opened}


visits: dict[str, list[dict[str, Any]]] = {}


@app.route("/plan/<key>/<plan>", methods=["GET", "POST"])
def planned(key: str, plan: str) -> Any:
    """One visit after another is answered as *plan* says, such as ``cut-503-204``."""
    before = visits.setdefault(key, [])
    before.append(
        {
            "id": SseStream(request).last_event_id,
            "method": request.method,
            "token": request.headers.get("Authorization"),
            "extra": request.headers.get("X-Extra"),
            "body": request.get_data(as_text=True),
        }
    )
    steps = plan.split("-")
    step = steps[min(len(before), len(steps)) - 1]
    if step.isdigit():
        return "", int(step), {"Retry-After": request.args.get("after", "0")}
    if step == "html":
        return "<p>for maintenance"
    first = len([each for each in steps[: len(before) - 1] if not each.isdigit()])
    return pipeline(
        lines(first, step),
        SseStream(request, retry=int(request.args.get("retry", 20))),
        ServerResponse(),
        on_error=lambda _: {"comment": "cut"},
    )


def lines(number: int, step: str) -> Any:
    yield {"id": f"é {number}", "data": number}
    if step == "cut":
        raise LookupError("the source has failed")
    if step == "hang":
        time.sleep(60)
    if step == "close":
        yield {"event": "close", "data": "bye"}
        yield {"data": "behind the last"}


@app.get("/visits/<key>")
def visited(key: str) -> list[dict[str, Any]]:
    return visits[key]
