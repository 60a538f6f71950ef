"""A chat with rooms: it shows the last messages and all people, in any number of tabs.

::

    python examples/chat.py

and open http://127.0.0.1:8000/ in a few tabs. Several workers need a broker that they
share::

    export SSESTREAM_URL=sqlite:///chat.db
    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.chat:app

There is no log-in: anybody can use any name, and two people with one name count as one.
"""

import json
import os
import re
import socket
import threading
import time

from flask import Flask, abort, redirect, request, send_from_directory
from werkzeug.exceptions import ServiceUnavailable

from ssestream import (
    BrokerError,
    Channels,
    ServerResponse,
    SseStream,
    check_origin,
    clear_interval,
    set_interval,
    set_timeout,
)

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 10_000

channels = Channels(os.environ.get("SSESTREAM_URL", "memory://"), history=200)

# The page imports ssestream.js, which this serves.
channels.init_app(app)

#: The rooms. Any other room is answered with 404.
ROOM = "<any(lobby, garden, kitchen):room>"

#: Each worker publishes the names in its rooms again after so many seconds.
EVERY = float(os.environ.get("CHAT_EVERY", 10))

#: When people come or leave, a worker publishes the names at most once in so many seconds.
#: Every client gets every name. If a hundred people came together, and each were published
#: at once, a million names would be sent.
PAUSE = 0.5

#: A worker publishes at most so many names of a room. Of the others it publishes the number.
MOST_NAMES = 100


class Here:
    """The people in a room, from the open streams of this worker.

    Each worker publishes its part of the names, soon after a change and every `EVERY`
    seconds. The page adds up the parts of all workers. A part is valid for a short time. So
    when a worker is killed, its names stay on the page for some seconds, but not for ever.
    """

    def __init__(self, room):
        self.channel = f"here:{room}"
        self.names = {}  # the name of each stream
        self.timer = None
        self.told_at = 0.0
        self.is_due = False
        self.lock = threading.Lock()

    def enter(self, sse_stream, name):
        with self.lock:
            self.names[sse_stream] = name
            if self.timer is None:
                self.timer = set_interval(self.tell, EVERY * 1000)
        self.tell_soon()

    def leave(self, sse_stream):
        with self.lock:
            del self.names[sse_stream]
            if not self.names:
                clear_interval(self.timer)
                self.timer = None
        self.tell_soon()

    def tell_soon(self):
        """Publish all changes of the next half second together."""
        with self.lock:
            if self.is_due:
                return
            self.is_due = True
            wait = max(0.0, self.told_at + PAUSE - time.monotonic())
        set_timeout(self.tell, wait * 1000)

    def tell(self):
        with self.lock:
            self.is_due = False
            self.told_at = time.monotonic()
            now = time.time()
            names = sorted(set(self.names.values()))
            part = {
                "worker": f"{socket.gethostname()}-{os.getpid()}",
                "names": names[:MOST_NAMES],
                "more": max(0, len(names) - MOST_NAMES),
                "at": now,
                "until": now + 2.5 * EVERY,
            }
        try:
            channels.publish(self.channel, {"event": "here", "data": part})
        except BrokerError:
            pass  # the timer publishes the names again

    def told(self):
        """The last valid part of each worker, for a new client."""
        parts = {}
        try:
            for message in channels.history(self.channel, 100):
                part = json.loads(message["data"])
                parts[part["worker"]] = part
        except BrokerError:
            pass
        return [part for part in parts.values() if part["until"] > time.time()]


here = {room: Here(room) for room in ("lobby", "garden", "kitchen")}


@app.before_request
def refuse_other_sites():
    """Refuse what a page of another site sends with the visitor's browser."""
    if request.method == "POST":
        check_origin(request)


@app.get("/")
def index():
    return redirect("/lobby")


@app.get(f"/{ROOM}")
def page(room):
    return send_from_directory(app.root_path, "chat.html")


@app.get(f"/{ROOM}/events")
def events(room):
    name = checked_name(request.args.get("name"))
    res = ServerResponse()
    sse_stream = SseStream(request)

    @res.on("close")
    def closed():
        here[room].leave(sse_stream)

    here[room].enter(sse_stream, name)
    sse_stream.pipe(res)
    # A client that was away for long may have missed events that the log no longer has.
    sse_stream.on("gap", lambda channel: sse_stream.write({"event": "gap", "data": channel}))
    # A new client gets the last messages. It needs only the latest list of people.
    channels.subscribe(sse_stream, f"chat:{room}", latest=200)
    channels.subscribe(sse_stream, here[room].channel)
    for part in here[room].told():
        sse_stream.write({"event": "here", "data": part})
    return res


@app.post(f"/{ROOM}/messages")
def say(room):
    said = request.get_json()
    if not isinstance(said, dict):
        abort(400)
    name, text = checked_name(said.get("name")), said.get("text")
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= 1000:
        abort(400, "1 to 1000 characters")
    data = {"name": name, "text": text.strip(), "at": time.time()}
    try:
        channels.publish(f"chat:{room}", {"data": data})
    except BrokerError:
        raise ServiceUnavailable from None
    return "", 204


def checked_name(name):
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w .'-]{0,29}", name):
        abort(400, "a name is 1 to 30 letters, digits, spaces and any of . ' - _")
    return name.strip()


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", 8000)))
