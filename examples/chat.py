"""A chat with rooms: what was said before you came, who is here, any number of tabs.

::

    python examples/chat.py

and open http://127.0.0.1:8000/ in a few tabs. Or, with several workers, which then
need a broker that they share::

    export SSESTREAM_URL=sqlite:///chat.db
    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.chat:app

There is no log-in: people are whoever they say they are, and two of one name are one.
"""

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
)

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 10_000

channels = Channels(os.environ.get("SSESTREAM_URL", "memory://"), history=200)

#: Any other room is 404.
ROOM = "<any(lobby, garden, kitchen):room>"

#: Seconds after which a worker says again who is in its rooms.
EVERY = float(os.environ.get("CHAT_EVERY", 10))


class Here:
    """Who is in a room, as far as this worker knows: by the streams that are open here.

    Each worker tells its part to everybody, whenever it changes and now and then; the
    page adds up what it is told, until that is out of date. So the tabs of a worker that
    was killed are here for some seconds more, and no ghosts stay.
    """

    def __init__(self, room):
        self.room = room
        self.names = {}  # of each stream
        self.timer = None
        self.lock = threading.Lock()

    def enter(self, sse_stream, name):
        with self.lock:
            self.names[sse_stream] = name
            if self.timer is None:
                self.timer = set_interval(self.tell, EVERY * 1000)
        self.tell()

    def leave(self, sse_stream):
        with self.lock:
            del self.names[sse_stream]
            if not self.names:
                clear_interval(self.timer)
                self.timer = None
        self.tell()

    def tell(self):
        with self.lock:
            now = time.time()
            part = {
                "worker": f"{socket.gethostname()}-{os.getpid()}",
                "names": sorted(set(self.names.values())),
                "at": now,
                "until": now + 2.5 * EVERY,
            }
        try:
            channels.publish(f"here:{self.room}", {"event": "here", "data": part})
        except BrokerError:
            pass  # it will be told again


here = {room: Here(room) for room in ("lobby", "garden", "kitchen")}


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
    # Who is new gets the last of what was said.
    channels.subscribe(sse_stream, f"chat:{room}", f"here:{room}", latest=200)
    return res


@app.post(f"/{ROOM}/messages")
def say(room):
    # As JSON, which no form of another site can send.
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
