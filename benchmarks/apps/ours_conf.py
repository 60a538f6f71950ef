"""gunicorn with a worker class that is not this project's, as its docs have it."""

from ssestream.gunicorn import post_worker_init  # noqa: F401 - gunicorn calls it
