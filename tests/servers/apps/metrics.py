"""The app of the server tests, and its numbers."""

import os

from flask import Response

from ssestream import Channels
from ssestream.metrics import Metrics
from ssestream.metrics.prometheus_client import view
from tests.servers.apps.app import app

__all__ = ["app"]

metrics = Metrics(app, Channels(), folder=os.environ["NUMBERS"])


@app.get("/metrics")
def show() -> Response:
    return view(metrics)
