"""gunicorn's configuration: streams end with their worker, and gevent patches early."""

import os

if os.environ.get("PATCH"):
    # Before --preload imports the app: gunicorn itself patches in the workers only.
    from gevent import monkey

    monkey.patch_all()

from ssestream.gunicorn import post_worker_init as end_streams


def post_worker_init(worker):
    if os.environ["KIND"] != "SseWorker":
        end_streams(worker)
