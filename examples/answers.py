"""A page that streams an answer, as of a model, that is not lost to a reload.

::

    python examples/answers.py

and open http://127.0.0.1:8000/. Ask something, reload the page in the middle of the answer, open
its address in a second tab, stop it in one of the tabs. Several workers need a broker that they
share::

    export SSESTREAM_URL=sqlite:///answers.db
    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.answers:app

The model is a stand-in in this file: it needs no network and no key. An answer belongs to nobody
here: everybody who knows its address can read and stop it. An app with a log-in gives
``key=current_user.get_id()`` to ``runs.start`` and to ``runs.stream``.
"""

import os
import random
import re
import time

from flask import Flask, abort, request, send_from_directory

from ssestream import Channels, Runs, check_origin

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 10_000

channels = Channels(os.environ.get("SSESTREAM_URL", "memory://"))
runs = Runs(channels, ttl=600)

#: Seconds between two words of the model.
PACE = float(os.environ.get("ANSWERS_PACE", 0.08))

#: The words of an answer, and the most characters of a question that it repeats.
WORDS, MOST = 120, 200


@app.before_request
def refuse_other_sites():
    """Refuse what a page of another site sends with the visitor's browser."""
    if request.method == "POST":
        check_origin(request)


def answer(question):
    """The stand-in for a model: one message for each word."""
    words = [f"You asked: “{question[:MOST]}” The parrot thinks, and says:"]
    chance = random.Random(question)
    words += chance.choices(["squawk", "pieces of eight", "hello", "why", "seeds"], k=WORDS)
    for word in words:
        yield {"event": "word", "data": word + " "}
        time.sleep(PACE)


@app.get("/")
@app.get("/answers/<id>")
def page(id=None):
    return send_from_directory(".", "answers.html")


@app.post("/answers")
def ask():
    body = request.get_json()
    question = body.get("question") if isinstance(body, dict) else None
    if not isinstance(question, str) or not question.strip():
        abort(400, "the question is a str with something in it")
    # The run comes first and its readers later: the answer goes on without a reader.
    return {"id": runs.start(answer(question.strip())).id}


@app.get("/answers/<id>/events")
def events(id):
    """All of the answer so far, and then the rest. 204 if there is no such answer any more."""
    return runs.stream(checked(id), request)


@app.post("/answers/<id>/stop")
def stop(id):
    runs.stop(checked(id))
    return "", 204


def checked(id):
    if not re.fullmatch("[0-9a-f]{32}", id):
        abort(404)
    return id


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", 8000)))
