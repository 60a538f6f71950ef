"""Notes that everybody sees at once, with Turbo and no JavaScript of one's own.

::

    python examples/turbo.py

and open http://127.0.0.1:8000/ in a few tabs. Several workers need a broker that they share::

    export SSESTREAM_URL=sqlite:///notes.db
    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.turbo:app
"""

import os

from flask import Flask, abort, render_template, request
from markupsafe import Markup

from ssestream import Channels, ServerResponse, SseStream, check_origin, turbo

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
    return render_template("turbo.html", npm=NPM)


@app.get("/events")
def events():
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    if sse_stream.last_event_id is None:
        # A page that begins anew gets all notes anew. This empties its list first.
        sse_stream.write(turbo.update("notes", ""))
    channels.subscribe(sse_stream, "notes", since="start")
    return res


@app.post("/notes")
def add():
    text = request.form.get("text", "").strip()
    if not 1 <= len(text) <= 200:
        abort(400, "a note has 1 to 200 characters")
    # Markup.format() escapes what a visitor has written.
    channels.publish("notes", turbo.append("notes", Markup("<li>{}</li>").format(text)))
    return "", 204


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", 8000)))
