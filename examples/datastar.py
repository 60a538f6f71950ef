"""Notes that everybody sees at once, with Datastar and no JavaScript of one's own.

::

    python examples/datastar.py

and open http://127.0.0.1:8000/ in a few tabs. Several workers need a broker that they share::

    export SSESTREAM_URL=sqlite:///notes.db
    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.datastar:app

This is for the Datastar that npm has, 1.0.0-beta.11. For 1.0 leave out ``beta=True``, and write
``data-init``, ``data-on:submit__prevent`` and ``data-bind:text`` in the page.
"""

import os

from flask import Flask, abort, render_template, request
from markupsafe import Markup

from ssestream import Channels, ServerResponse, SseStream, check_origin, pipeline
from ssestream.datastar import patch_elements, patch_signals, read_signals

app = Flask(__name__, template_folder=".")
app.config["MAX_CONTENT_LENGTH"] = 10_000

channels = Channels(os.environ.get("SSESTREAM_URL", "memory://"), history=50)

#: Where the page loads the packages of npm from.
NPM = os.environ.get("NPM", "https://cdn.jsdelivr.net/npm")


@app.before_request
def refuse_other_sites():
    if request.method == "POST":
        check_origin(request)


@app.get("/")
def page():
    return render_template("datastar.html", npm=NPM)


@app.get("/events")
def events():
    res = ServerResponse()
    # Datastar takes a clean end for the last word. After a cut it comes back.
    sse_stream = SseStream(request, on_shutdown="cut")
    sse_stream.pipe(res)
    if sse_stream.last_event_id is None:
        # A page that begins anew gets all notes anew. This empties its list first.
        sse_stream.write(patch_elements('<ol id="notes"></ol>', mode="replace", beta=True))
    channels.subscribe(sse_stream, "notes", since="start")
    return res


@app.post("/notes")
def add():
    text = read_signals(request).get("text")
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= 200:
        abort(400, "a note has 1 to 200 characters")
    # Markup.format() escapes what a visitor has written.
    note = Markup("<li>{}</li>").format(text.strip())
    channels.publish("notes", patch_elements(note, selector="#notes", mode="append", beta=True))
    # The answer empties the field.
    return pipeline([patch_signals({"text": ""}, beta=True)], SseStream(request), ServerResponse())


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", 8000)))
