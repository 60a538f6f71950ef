"""Handlers of Express's shape, with the extensions that many Flask apps have."""

import asyncio
import os
import tempfile
import time

import flask_session
import gevent
from cachelib.file import FileSystemCache
from flask import Flask, current_app, g, request, session
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from flask_sqlalchemy import SQLAlchemy

from ssestream import SseStream, handler
from tests.servers.apps import tell

FOLDER = tempfile.mkdtemp()

app = Flask(__name__)
app.config.update(
    SECRET_KEY="for the tests",
    SQLALCHEMY_DATABASE_URI=f"sqlite:///{FOLDER}/users.db",
    SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 2, "max_overflow": 0, "pool_timeout": 5},
    SESSION_TYPE="cachelib",
    SESSION_CACHELIB=FileSystemCache(f"{FOLDER}/sessions"),
)
flask_session.Session(app)
db = SQLAlchemy(app)
logins = LoginManager(app)


class User(UserMixin, db.Model):
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String)


with app.app_context():
    db.create_all()
    db.session.add(User(id=1, name="ada"))
    db.session.commit()


@logins.user_loader
def load(key):
    return db.session.get(User, int(key))


@app.teardown_request
def torn(error):
    if request.path != "/in_use":
        tell(path=request.path, event="teardown", who=request.args.get("who"))


def in_use():
    return db.engine.pool.checkedout()


@app.get("/in_use")
def how_many():
    return {"connections": in_use()}


@app.get("/login")
def login():
    login_user(db.session.get(User, 1))
    session["color"] = "green"
    return "welcome"


@app.get("/account/<kind>")
@login_required
@handler
def account(req, res, kind):
    g.own = kind
    session["kind"] = kind
    assert db.session.get(User, 1).name == "ada"
    try:
        res.write_head(200, {"Content-Type": "text/event-stream"})
        res.write(f"data: {current_user.name} {session['color']}\n\n")
        told = {"connections": in_use(), "g": g.own, "user": current_user.name}
        told |= {"color": session["color"], "path": request.path, "app": current_app.name}
        session["late"] = "lost"
        tell(event="started", kind=kind, **told)
        if kind == "asks":
            res.write(f"data: {db.session.query(User).count()}\n\n")
        while True:
            gevent.sleep(30)
    finally:
        tell(event="ended", kind=kind)


@app.get("/account/awaits")
@login_required
@handler
async def account_awaited(req, res):
    """The same in a task. The teardown of the request runs beside it."""
    g.own = session["kind"] = "awaits"
    assert db.session.get(User, 1).name == "ada"
    try:
        res.write_head(200, {"Content-Type": "text/event-stream"})
        res.write(f"data: {current_user.name} {session['color']}\n\n")
        while in_use():
            await asyncio.sleep(0.001)
        told = {"connections": in_use(), "g": g.own, "user": current_user.name}
        told |= {"color": session["color"], "path": request.path, "app": current_app.name}
        session["late"] = "lost"
        tell(event="started", kind="awaits", **told)
        res.write(f"data: {db.session.query(User).count()}\n\n")
        await asyncio.sleep(60)
    finally:
        tell(event="ended", kind="awaits")


@app.get("/kept")
def kept():
    return {"kind": session.get("kind"), "late": session.get("late")}


@app.route("/ticks", methods=["GET", "POST"])
@handler
def ticks(req, res):
    number = 0
    try:
        while True:
            res.write(f"data: {number}\n\n")
            number += 1
            gevent.sleep(0.05)
    finally:
        tell(event="ended", who=req.query["who"])


@app.route("/busy", methods=["GET", "POST"])
@handler
def busy(req, res):
    """Waits as a plain library does, which only gevent's patches can interrupt."""
    try:
        for _ in range(2000):
            res.write(":\n")
            time.sleep(0.01)
    finally:
        tell(event="ended", who=req.query["who"])


@app.get("/flood")
@handler
def flood(req, res):
    written = 0
    try:
        while written < int(req.query["size"]):
            res.write(b"x" * 64_000)
            written += 64_000
        res.end()
    finally:
        tell(event="ended", who=req.query["who"], written=written)


@app.get("/early")
@handler
def early(req, res):
    raise LookupError("early")


@app.errorhandler(LookupError)
def sorry(error):
    return f"sorry: {error}", 418


@app.get("/late")
@handler
def late(req, res):
    res.on("error", lambda error: tell(event="error", error=str(error)))
    res.write("begun")
    raise LookupError("late")


@app.post("/answer")
@handler
def answer(req, res):
    if "prompt" not in req.body:
        return res.status(400).json({"error": "no prompt"})
    sse = SseStream(req)
    sse.pipe(res)
    for word in req.body["prompt"].split():
        sse.write({"data": word})
    sse.end({"data": "[DONE]"})
    return None


@app.get("/pid")
def pid():
    return str(os.getpid())
