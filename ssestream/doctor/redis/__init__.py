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
        return [*found, fault(target.explain(error), "the server has gone", "the server")]
    finally:
        client.close()


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
            "the account or the server" if error.lasting else "the URL, or the network",
        )
        # A script that lacks a right is a plain error, with these words.
        lacks = re.search("permissions|can't run this command", str(error.__cause__))
        return [found], lacks is not None
    finally:
        broker.close()
