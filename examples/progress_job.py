"""A long job that publishes its progress. It needs no web server.

Run it from anywhere: from `progress.py`, a shell, cron or a Celery task. To run it by hand,
with the page at http://127.0.0.1:8000/jobs/nightly::

    python examples/progress_job.py nightly
"""

import os
import sys
import time

from ssestream import Channels

STEPS = 100

#: The duration of the job in seconds. It only sleeps.
SECONDS = float(os.environ.get("JOB_SECONDS", 20))

#: Seconds for which the messages of a finished job are kept.
KEPT = 3600

#: Seconds after which a job that has died is noticed.
LEASE = 10

channels = Channels(os.environ.get("SSESTREAM_URL", "sqlite:///progress.db"))


def main(job):
    # The block ends the channel. If this process is killed, another process does.
    with channels.channel(f"job:{job}", ttl=KEPT).producer(ttl=LEASE, last=last) as channel:
        for step in range(1, STEPS + 1):
            what = work(step)
            channel.publish({"event": "progress", "data": {"step": step, "what": what}})


def last(status, error):
    """The last message of a job: of the status ``done``, ``failed`` or ``lost``."""
    if status == "done":
        return {"event": "done", "data": {"what": f"all {STEPS} pictures"}}
    what = str(error) if status == "failed" else "the process of the job has died"
    return {"event": "failed", "data": {"what": what}}


def work(step):
    """Do one step, and return a text that describes it."""
    time.sleep(SECONDS / STEPS)
    return f"picture {step}"


if __name__ == "__main__":
    main(sys.argv[1])
