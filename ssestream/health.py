"""Health checks: views that say whether a process is alive, and whether it wants clients."""

import json

import flask

from .channels.channels import Channels
from .config import app_settings
from .errors import BrokerError
from .http.registry import registry, statistics

__all__ = ["alive", "ready"]

#: The part of ``SSESTREAM_MAX_STREAMS`` from which on a process counts as full: a balancer looks
#: every few seconds only, and clients come meanwhile.
FULL = 0.9

# A probe may go through the same proxies as everything else.
_HEADERS = {"Cache-Control": "no-store"}


def alive() -> flask.Response:
    """204: this process answers.

    It asks for nothing else. A restart mends a process that stands still, and no broker.
    """
    return flask.Response(status=204, headers=_HEADERS)


def ready(channels: Channels | None = None) -> flask.Response:
    """204 if this process wants new clients, else 503 with the reasons in JSON.

    The reasons are ``"draining"`` (the process is about to stop), ``"full"`` (nine tenths of
    ``SSESTREAM_MAX_STREAMS`` are open) and, with *channels*, ``"broker"`` (their broker cannot be
    used). The broker is asked only if no stream follows a channel here: the listener of the other
    streams knows its state. See `Channels.ping` for the longest time.
    """
    reasons = []
    if registry.draining:
        reasons.append("draining")
    most = app_settings().max_streams
    if most is not None and statistics().open >= FULL * most:
        reasons.append("full")
    if channels is not None and not _reaches_broker(channels):
        reasons.append("broker")
    if not reasons:
        return flask.Response(status=204, headers=_HEADERS)
    return flask.Response(
        json.dumps({"not_ready": reasons}), 503, _HEADERS, mimetype="application/json"
    )


def _reaches_broker(channels: Channels) -> bool:
    state = channels.state
    if state != "idle":
        return state == "listening"
    try:
        channels.ping()
    except BrokerError:
        return False
    return True
