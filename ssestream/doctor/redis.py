"""A Redis server: does it keep the logs of channels, announce each event, and allow both?"""

import os
import re
import time
from collections.abc import Iterator
from typing import Any

from redis import exceptions

from ..brokers.redis import RedisBroker
from ..brokers.redis.client import Client, opener
from ..brokers.redis.errors import ERRORS, NEEDED
from ..brokers.redis.keys import bounds_key_of, followers_of, key_of
from ..brokers.redis.servers import database_of
from ..brokers.redis.target import Target, parse
from ..errors import BrokerError
from .finding import Finding, fault, note, ok

#: The first version with streams and with scripts that may write after reading the time.
OLDEST = 5

#: Bytes that Redis must be ready to keep for one subscriber, and bytes by its default.
LEAST_OUTPUT, USUAL_OUTPUT = 1 << 20, 8 << 20

#: Seconds by which two clocks may differ.
CLOCKS_DIFFER = 1.0

#: Commands that only make old logs expire. Without them, logs stay for ever.
OF_EXPIRY = {"PTTL", "PEXPIRE", "PERSIST"}


def examine_redis(url: str) -> list[Finding]:
    """Look at the server at *url*, by commands that change nothing."""
    target = parse(url)
    broker = RedisBroker(url)
    try:
        broker.ping()
        found = [ok(f"{target.where} answers, and runs the scripts of channels")]
    except BrokerError as error:
        found = [
            fault(
                str(error),
                "publishing fails, and streams stay open without events",
                "the account or the server" if error.lasting else "the URL, or the network",
            )
        ]
        # A script that lacks a right is a plain error, with these words.
        if not re.search("permissions|can't run this command", str(error.__cause__)):
            return found
    finally:
        broker.close()
    if target.kind == "cluster":
        nodes = note(
            "of a cluster, only the scripts are tried",
            "the settings of a node may lose events as those of a single server may",
            "doctor --broker redis://... with the address of each node",
        )
        return [*found, nodes]
    client = opener(target)()
    try:
        return [*found, *_rights(client, target), *_server(client), *_clock(client)]
    except ERRORS as error:
        return [*found, fault(target.explain(error), "the server has gone", "the server")]
    finally:
        client.close()


# -- the rights of the account


def _commands(client: Client) -> list[tuple[int | str, ...]]:
    """Each command that the broker uses, in a form that changes nothing.

    Redis checks the rights before the rest of a command. So a command that is refused for another
    reason, or finds no key, shows the right to it. No log has the random name.
    """
    channel = f"doctor-{os.urandom(8).hex()}"
    key, bounds = key_of(channel), bounds_key_of(channel)
    return [
        ("SCRIPT", "LOAD", "return 0"),
        ("EVALSHA", "0" * 40, 1, key),
        ("EXISTS", key),
        ("XINFO", "STREAM", key),
        ("XADD", key, "NOMKSTREAM", "*", "f", ""),
        ("XRANGE", key, "-", "+"),
        ("XREVRANGE", key, "+", "-"),
        ("XLEN", key),
        ("XTRIM", key, "MAXLEN", 0),
        ("GET", key),
        ("SET", key, "", "XX"),
        ("DEL", key),
        ("HGET", bounds, "age"),
        ("HMGET", bounds, "age"),
        # A field without a value is refused.
        ("HSET", bounds, "age", "", "history"),
        ("HDEL", bounds, "age"),
        ("TIME",),
        ("PTTL", key),
        ("PEXPIRE", key, 1000),
        ("PERSIST", key),
        ("PUBLISH", followers_of(channel, database_of(client)), ""),
    ]


def _rights(client: Any, target: Target) -> Iterator[Finding]:
    refused: dict[str, str] = {}
    for name, *rest in _commands(client):
        try:
            client.execute_command(name, *rest)
        except exceptions.NoPermissionError as error:
            refused[str(name)] = target.explain(error)
        except exceptions.ResponseError:
            pass  # allowed
    try:
        _subscribe(client)
    except exceptions.NoPermissionError as error:
        refused["SUBSCRIBE"] = target.explain(error)
    lacking = [name for name in refused if name not in OF_EXPIRY]
    if lacking:
        yield fault(
            f"the account lacks rights ({', '.join(lacking)}): {refused[lacking[0]]}",
            "publishing fails or comes seconds late, or streams get nothing",
            f"the ACL SETUSER of docs/channels.rst. {NEEDED}",
        )
    elif refused:
        yield note(
            f"the account lacks the commands {', '.join(refused)}",
            "the logs of channels that nobody uses any more are never deleted",
            "ACL SETUSER ... +pttl +pexpire +persist (docs/channels.rst)",
        )
    else:
        yield ok("the account has all rights that channels need")


def _subscribe(client: Any) -> None:
    channel = followers_of(f"doctor-{os.urandom(8).hex()}", database_of(client))
    with client.pubsub() as pubsub:
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=1.0)
        pubsub.unsubscribe(channel)
        pubsub.get_message(timeout=1.0)


# -- the settings of the server


def _server(client: Any) -> Iterator[Finding]:
    try:
        info: dict[str, Any] = client.info()
    except exceptions.ResponseError:
        yield _unseen("INFO", "version, persistence and eviction")
    else:
        yield _version(str(info.get("redis_version", "")))
        yield _eviction(str(info.get("maxmemory_policy", "")), int(info.get("maxmemory", 0)))
    try:
        config: dict[str, str] = {}
        for name in ("appendonly", "save", "client-output-buffer-limit"):
            config |= client.config_get(name)
    except exceptions.ResponseError:
        yield _unseen("CONFIG GET", "persistence and output buffers")
    else:
        yield _persistence(config.get("appendonly", ""), config.get("save", ""))
        yield from _output(config.get("client-output-buffer-limit", ""))


def _unseen(command: str, what: str) -> Finding:
    return note(
        f"this account may not use {command}",
        f"the doctor does not see the server's {what}",
        "the URL of an account that may, for the doctor alone",
    )


def _version(version: str) -> Finding:
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST:
        return fault(
            f"Redis {version}",
            "channels need streams, which came with Redis 5: nothing can be published",
            "Redis 7 or later, or Valkey",
        )
    return ok(f"Redis {version}")


def _eviction(policy: str, most: int) -> Finding:
    seen = f"maxmemory is {most >> 20} MiB, with maxmemory-policy {policy}"
    change = "maxmemory-policy noeviction in redis.conf, or a Redis of its own for channels"
    if most and policy.startswith("allkeys"):
        return fault(
            seen, "when its memory is full, Redis deletes whole logs: clients get gaps", change
        )
    if most and policy.startswith("volatile"):
        why = "when its memory is full, Redis deletes the logs that have a history_age or a ttl"
        return note(seen, why, change)
    if not most:
        return ok("maxmemory is not set: Redis deletes no log for want of memory")
    return ok(f"{seen}: Redis deletes no log, and refuses to publish when its memory is full")


def _persistence(append_only: str, save: str) -> Finding:
    if append_only == "yes":
        return ok("appendonly is on: a restart of Redis keeps the logs")
    lost = "what was published since the last snapshot" if save else "all logs"
    return note(
        f"appendonly is off, and save is {save!r}",
        f"a restart of Redis loses {lost}: clients get a gap",
        "appendonly yes in redis.conf",
    )


def _output(limits: str) -> Iterator[Finding]:
    words = limits.split()
    # Groups of four: the class of clients, a hard limit, a soft limit, the seconds of the latter.
    for name, hard, soft, _ in zip(*[iter(words)] * 4, strict=False):
        if name == "pubsub":
            least = min((int(each) for each in (hard, soft) if int(each)), default=USUAL_OUTPUT)
            if least >= USUAL_OUTPUT:
                yield ok(f"client-output-buffer-limit pubsub is {hard} {soft}")
                return
            say = fault if least < LEAST_OUTPUT else note
            yield say(
                f"client-output-buffer-limit pubsub is {hard} {soft}, in bytes",
                "Redis cuts a process that takes a burst of events too slowly: its streams get"
                " the events late",
                "client-output-buffer-limit pubsub 32mb 8mb 60 in redis.conf",
            )


# -- the clock


def _clock(client: Any) -> Iterator[Finding]:
    before = time.time()
    try:
        seconds, microseconds = client.time()
    except exceptions.ResponseError:
        return  # `_rights` has said so
    # The server's time lies between both of these.
    here = (before + time.time()) / 2
    ahead = seconds + microseconds / 1e6 - here
    if abs(ahead) > CLOCKS_DIFFER:
        yield note(
            f"the clock of Redis is {ahead:+.1f} s from the clock here",
            "the age of events (history_age) and the ids count by the clock of Redis",
            "NTP on both machines",
        )
    else:
        yield ok(f"the clock of Redis is {ahead:+.3f} s from the clock here")
