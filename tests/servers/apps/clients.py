"""Answers that end in a way that the address says, and the pages of the clients that read them."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
from flask import Flask, Response, request, send_from_directory

from ssestream import ServerResponse, SseStream, pipeline

MODULES = Path(__file__).parents[2] / "node" / "node_modules"

#: Milliseconds until a client comes back, and until one comes that doubles its pause each time.
RETRY, SOONER = 100, 1

#: The same, far later than a client comes back that was told nothing.
LATE = 6000

#: The first message, in the formats of the clients that need one.
FIRST: dict[str, list[Any]] = {
    "plain": ["hello"],
    "openai": [{"choices": [{"index": 0, "delta": {"content": "hello"}}]}],
    "ai": [
        {"type": "start"},
        {"type": "text-start", "id": "1"},
        {"type": "text-delta", "id": "1", "delta": "hello"},
    ],
    "datastar": ["selector #none"],
}

app = Flask(__name__)
app.config["SSESTREAM_RETRY_AFTER"] = (LATE, LATE)

visits: Counter[str] = Counter()

#: When each client has asked, in seconds, by its name and its plan.
asked: defaultdict[str, list[float]] = defaultdict(list)


@app.route("/<client>/<plan>", methods=["GET", "POST"])
def visit(client: str, plan: str) -> Any:
    """The visits of *client* end one after another as *plan* says, and the last one again."""
    key = f"{client} {plan}"
    endings = plan.split("-")
    ending = endings[min(visits[key], len(endings) - 1)]
    visits[key] += 1
    asked[key].append(time.monotonic())
    if ending == "204":
        return "", 204
    if ending == "503":
        return "busy", 503
    if ending == "stopped":
        # The server ends it, as it does when a worker stops.
        sse_stream = SseStream(request, max_age=0.01)
        return pipeline(waiting(), sse_stream, ServerResponse())
    if ending == "opened":
        return pipeline([{"data": "hello"}], SseStream(request, retry=LATE), ServerResponse())
    retry = SOONER if ending == "sooner" else RETRY
    source = messages(FIRST.get(client, FIRST["plain"]), ending, retry)
    # The message of a source that fails is sent, and then the client is cut.
    return pipeline(
        source, SseStream(request), ServerResponse(), on_error=lambda _: {"retry": retry}
    )


def messages(first: list[Any], ending: str, retry: int) -> Iterator[dict[str, Any]]:
    for data in first:
        yield {"retry": retry, "data": data}
    if ending in ("cut", "sooner"):
        raise LookupError("the source has failed")


def waiting() -> Iterator[dict[str, Any]]:
    yield {"data": "hello"}
    gevent.sleep(60)


@app.get("/asked")
def when() -> Any:
    return asked


@app.get("/visits")
def count() -> Any:
    return visits


@app.get("/modules/<path:path>")
def module(path: str) -> Response:
    # A bundler would know that an import without a suffix is a script.
    return send_from_directory(MODULES, path if Path(path).suffix else f"{path}.js")


PAGE = """<!doctype html><link rel=icon href="data:,"><title>Endings</title>"""

IMPORTS = {
    "imports": {
        "fetch-event-source": "/modules/@microsoft/fetch-event-source/lib/esm/index.js",
        "eventsource-client": "/modules/eventsource-client/dist/default.esm.js",
        "eventsource-parser": "/modules/eventsource-parser/dist/index.js",
    }
}

#: Runs each client of the page for each plan in `arguments`, and keeps what it tells its app.
SCRIPTS = """
<script type=module>
import { fetchEventSource } from 'fetch-event-source'
import { createEventSource } from 'eventsource-client'

window.told = {}
const tell = (client, plan, what) => (window.told[`${client} ${plan}`] ??= []).push(what)

window.run = (plans) => {
  for (const plan of plans) {
    const source = new EventSource(`/eventsource/${plan}`)
    source.onerror = () => tell('eventsource', plan, source.readyState === 2 ? 'closed' : 'again')

    fetchEventSource(`/fetch-event-source/${plan}`, {
      onerror: () => tell('fetch-event-source', plan, 'again') && undefined,
    }).then(() => tell('fetch-event-source', plan, 'over'))

    createEventSource({
      url: `/eventsource-client/${plan}`,
      onScheduleReconnect: () => tell('eventsource-client', plan, 'again'),
    })
  }
}
</script>
"""


@app.get("/page")
def page() -> str:
    imports = f"<script type=importmap>{json.dumps(IMPORTS)}</script>"
    return PAGE + imports + SCRIPTS


@app.get("/page/htmx2")
def htmx2() -> str:
    return (
        PAGE + "<script src=/modules/htmx2/dist/htmx.js></script>"
        "<script src=/modules/htmx-ext-sse/dist/sse.js></script>"
        + each('<div hx-ext="sse" sse-connect="/htmx2/{plan}" sse-swap="message"></div>')
    )


@app.get("/page/htmx4")
def htmx4() -> str:
    return (
        PAGE + "<script src=/modules/htmx4/dist/htmx.js></script>"
        "<script src=/modules/htmx4/dist/ext/hx-sse.js></script>"
        + each('<div hx-sse:connect="/htmx4/{plan}"></div>')
    )


@app.get("/page/datastar")
def datastar() -> str:
    return (
        PAGE + "<script>window.told = [];"
        "document.addEventListener('datastar-sse', (event) => told.push(event.detail.type))"
        "</script>"
        "<script type=module src=/modules/@starfederation/datastar/dist/datastar.js>"
        "</script>" + each("""<div data-on-load="@get('/datastar/{plan}')"></div>""")
    )


def each(element: str) -> str:
    return "".join(element.format(plan=plan) for plan in request.args["plans"].split(","))
