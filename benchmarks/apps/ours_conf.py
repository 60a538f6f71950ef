"""The configuration of gunicorn for another worker class, as in the project's docs."""

from ssestream.gunicorn import post_worker_init  # noqa: F401 - gunicorn calls it
