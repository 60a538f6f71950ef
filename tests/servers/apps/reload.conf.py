"""For gunicorn workers of its own kinds: their streams end when they are to stop."""

from ssestream.gunicorn import post_worker_init  # noqa: F401 - gunicorn calls it
