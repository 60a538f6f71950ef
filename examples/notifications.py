"""Notifications for each user: nobody else gets them, and they wait for a user who is away.

::

    python examples/notifications.py

and open http://127.0.0.1:8000/ as Ann, and in a private window as Ben. Let Ben notify Ann. Close
Ann's page, notify her again, and open it: what she has not read is there, marked as new. Several
workers need a broker that they share::

    export SSESTREAM_URL=sqlite:///notifications.db SECRET_KEY=...
    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.notifications:app

The log-in has no password. An app with Flask-Login takes ``current_user.get_id()`` for `me`.
"""

import os
import time

from flask import Flask, abort, redirect, render_template, request, session

from ssestream import (
    BrokerError,
    ChannelEnded,
    Channels,
    ServerResponse,
    SseStream,
    check_origin,
)

app = Flask(__name__, template_folder=".")
app.secret_key = os.environ.get("SECRET_KEY", "only for this example")
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
app.config["MAX_CONTENT_LENGTH"] = 10_000

#: The number of notifications that are kept for each user.
KEPT = 100

channels = Channels(os.environ.get("SSESTREAM_URL", "memory://"), history=KEPT)

# The page imports ssestream.js, which this serves.
channels.init_app(app)

PEOPLE = {"ann": "Ann", "ben": "Ben", "cleo": "Cleo"}


@app.before_request
def refuse_other_sites():
    """Refuse what a page of another site sends with the visitor's session."""
    if request.method == "POST":
        check_origin(request)


def me():
    """The user of this session, or an answer of 401."""
    user = session.get("user")
    if user not in PEOPLE:
        abort(401)
    return user


@app.get("/")
def page():
    return render_template("notifications.html", me=session.get("user"), people=PEOPLE, kept=KEPT)


@app.get("/users/<user>/events")
def events(user):
    """The channel of this user. A page whose session has ended or changed is refused."""
    if user != me():
        abort(403)
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    # A user who was away for long may have missed more than the log keeps.
    sse_stream.on("gap", lambda channel: sse_stream.write({"event": "gap", "data": ""}))
    # A new page gets what is kept. A page that reconnects gets what it has missed.
    channels.subscribe(sse_stream, f"user.{user}", latest=KEPT, key=user)
    return res


@app.post("/notify")
def notify():
    """A view that has something to tell another user, on whatever worker that user's page is."""
    sender, user = me(), request.form.get("to")
    text = request.form.get("text", "").strip()
    if user not in PEOPLE or not 1 <= len(text) <= 200:
        abort(400, "a user, and a text of 1 to 200 characters")
    data = {"from": PEOPLE[sender], "text": text, "at": time.time()}
    channels.publish(f"user.{user}", {"event": "notification", "data": data})
    return "", 204


@app.post("/read")
def read():
    """Tell all pages of this user that everything up to this event was read."""
    user, last = me(), request.form.get("last", "")
    if not 1 <= len(last) <= 200:
        abort(400, "the id of an event")
    channels.publish(f"user.{user}", {"event": "read", "data": last})
    return "", 204


@app.post("/login")
def log_in():
    user = request.form.get("user")
    if user not in PEOPLE:
        abort(400)
    end_session()
    session["user"] = user
    return redirect("/", 303)


@app.post("/logout")
def log_out():
    end_session()
    return redirect("/", 303)


def end_session():
    """End the session and the user's streams. Pages of other sessions come back by themselves."""
    user = session.pop("user", None)
    if user is not None:
        channels.cut(f"user.{user}", user)


@app.errorhandler(ChannelEnded)
def closed(error):
    return "This account is closed.", 410


@app.errorhandler(BrokerError)
def away(error):
    return "Try again later.", 503


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", 8000)))
