"""gunicorn: a worker for streams, and a hook that ends streams with any other worker.

gunicorn takes this module for its configuration as well (``-c python:ssestream.gunicorn``).
It then reads every name here that is the name of a setting: only the hook may have one.
"""

from .worker import SseWorker, post_worker_init

__all__ = ["SseWorker", "post_worker_init"]
