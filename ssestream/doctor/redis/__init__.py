"""Redis: does it keep the logs of channels, announce each event, and allow both?"""

import re

from ...brokers.redis import RedisBroker
from ...brokers.redis.client import opener
from ...brokers.redis.errors import ERRORS
from ...brokers.redis.target import Target, parse
from ...errors import BrokerError
from ..finding import Finding, fault, ok
from .cluster import examine_cluster
from .sentinels import examine_sentinels
from .server import examine_server

__all__ = ["examine_redis"]


def examine_redis(url: str) -> list[Finding]:
    """Look at the server, the sentinels or the cluster at *url*. Nothing is changed."""
    target = parse(url)
    found, answers = _ping(url, target)
    if target.kind == "cluster":
        return [*found, *examine_cluster(target)]
    if target.kind == "sentinel":
        return [*found, *examine_sentinels(target)]
    if not answers:
        return found
    client = opener(target)()
    try:
        return [*found, *examine_server(client, target)]
    except ERRORS as error:
        return [*found, _gone(target.explain(error))]
    finally:
        client.close()


def _gone(words: str) -> Finding:
    why = "the server went away while it was asked: publishing fails, and streams get no events"
    return fault(words, why, "start the server; the log of Redis says why it has gone")


def _ping(url: str, target: Target) -> tuple[list[Finding], bool]:
    """Ask as an app does. Gives the finding, and whether a server has answered."""
    broker = RedisBroker(url)
    try:
        broker.ping()
        return [ok(f"{target.where} answers, and runs the scripts of channels")], True
    except BrokerError as error:
        found = fault(
            str(error),
            "publishing fails, and streams stay open without events",
            "the account in SSESTREAM_URL, its rights (docs/channels.rst), or the setting of the"
            " server that the error names"
            if error.lasting
            else "start the server; its address in SSESTREAM_URL; the firewall between",
        )
        # A script that lacks a right is a plain error, with these words.
        lacks = re.search("permissions|can't run this command", str(error.__cause__))
        return [found], lacks is not None
    finally:
        broker.close()
