"""A long job in its own process, and a page that shows its progress.

::

    python examples/progress.py

and open http://127.0.0.1:8000/. Or with several workers::

    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.progress:app

Reload the page, open it twice, kill the server and start it again: the job goes on, and
the page shows each of its steps once. All processes must use the same broker: the file
``progress.db`` in the current directory, or the URL in ``SSESTREAM_URL``.
"""

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

from flask import Flask, abort, redirect, render_template, request, url_for

from ssestream import Channels, ServerResponse, SseStream, check_origin

app = Flask(__name__, template_folder=".")

channels = Channels(os.environ.get("SSESTREAM_URL", "sqlite:///progress.db"))

SCRIPT = Path(__file__).with_name("progress_job.py")

#: The number of jobs that one worker runs at the same time.
MOST = 4

jobs = []


@app.before_request
def refuse_other_sites():
    """Refuse what a page of another site sends with the visitor's browser."""
    if request.method == "POST":
        check_origin(request)


@app.get("/")
def index():
    return render_template("progress.html")


@app.post("/jobs")
def start():
    jobs[:] = [job for job in jobs if job.poll() is None]
    if len(jobs) >= MOST:
        abort(429)
    job = str(uuid.uuid4())
    # Start the job in a new session, so that it outlives this worker.
    jobs.append(subprocess.Popen([sys.executable, SCRIPT, job], start_new_session=True))
    return redirect(url_for("page", job=job), 303)


@app.get("/jobs/<job>")
def page(job):
    """The page, with all messages of the job so far. Its stream continues after the last one."""
    return render_template("progress.html", job=job, history=channels.history(channel_of(job)))


@app.get("/jobs/<job>/events")
def events(job):
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    # The stream starts after `last_event_id`: from the browser when it reconnects, or from
    # the page's URL the first time. Without an id it starts at the beginning. The job ends its
    # channel, and the stream ends with it. A browser that has all is answered with 204.
    channels.subscribe(sse_stream, channel_of(job), since="start")
    return res


def channel_of(job):
    if not re.fullmatch("[A-Za-z0-9-]{1,40}", job):
        abort(404)
    return f"job:{job}"


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", 8000)))
