"""A chat with rooms: what was said before you came, who is here, any number of tabs.

::

    python examples/chat.py

and open http://127.0.0.1:8000/ in a few tabs. Or, with several workers, which then
need a broker that they share::

    export SSESTREAM_URL=sqlite:///chat.db
    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.chat:app

There is no log-in: people are whoever they say they are, and two of one name are one.
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
    clear_interval,
    set_interval,
    set_timeout,
)

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 10_000

channels = Channels(os.environ.get("SSESTREAM_URL", "memory://"), history=200)

#: Any other room is 404.
ROOM = "<any(lobby, garden, kitchen):room>"

#: Seconds after which a worker says again who is in its rooms.
EVERY = float(os.environ.get("CHAT_EVERY", 10))

#: Seconds between two times that it says so because somebody has come or left. Everybody
#: is told of everybody: if each one who comes were told of at once, a hundred who come
#: together would be sent a million names.
PAUSE = 0.5

#: Names of a room that a worker tells. Of any more it tells how many they are.
MOST_NAMES = 100


class Here:
    """Who is in a room, as far as this worker knows: by the streams that are open here.

    Each worker tells its part to everybody, soon after it has changed and now and then;
    the page adds up what it is told, until that is out of date. So the tabs of a worker
    that was killed are here for some seconds more, and no ghosts stay.
    """

    def __init__(self, room):
        self.channel = f"here:{room}"
        self.names = {}  # of each stream
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
        """Tell of all who come and leave in the next half second together."""
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
            pass  # it will be told again

    def told(self):
        """The last part of each worker, for somebody who is new."""
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
    """Let no page of another site write here in the name of who looks at it.

    A browser says of each request which site it comes from; one of long ago, or without
    TLS, at least which origin. What is no browser says neither, and is welcome.
    """
    site, origin = (request.headers.get(name) for name in ("Sec-Fetch-Site", "Origin"))
    if site is None and origin is not None:
        site = "same-origin" if origin.partition("://")[2] == request.host else "cross-site"
    if request.method == "POST" and site not in (None, "same-origin", "none"):
        abort(403)


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
    # Who was away for long may have missed more than is kept.
    sse_stream.on("gap", lambda channel: sse_stream.write({"event": "gap", "data": channel}))
    # Who is new gets the last of what was said, but not all that was told of who is here.
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
