"""One Redis server: the rights of the account, writes, settings and clock."""

import math
import os
import time
from collections.abc import Iterator
from typing import Any

from redis import exceptions

from ...brokers.redis.errors import NEEDED
from ...brokers.redis.keys import bounds_key_of, followers_of, key_of
from ...brokers.redis.servers import database_of
from ...brokers.redis.target import Target
from ..finding import Finding, fault, note, ok
from .members import words_of

#: The first version with streams and with scripts that may write after reading the time.
OLDEST = 5

#: The first version whose clusters announce events.
OLDEST_SHARDED = 7

#: Bytes that Redis must be ready to keep for one subscriber, and bytes by its default.
LEAST_OUTPUT, USUAL_OUTPUT = 1 << 20, 8 << 20

#: Seconds by which two clocks may differ.
CLOCKS_DIFFER = 1.0

#: Commands that only make old logs expire. Without them, logs stay for ever.
OF_EXPIRY = {"PTTL", "PEXPIRE", "PERSIST"}


def examine_server(
    client: Any, target: Target, sharded: bool = False, channel: str | None = None
) -> list[Finding]:
    """Look at the server of *client*.

    :param sharded: whether it is a node of a cluster.
    :param channel: a channel without a log, whose keys are at this server; None for any.
    :raise redis.RedisError: if the server goes away meanwhile; an OSError, too.
    """
    channel = random_channel() if channel is None else channel
    return [
        *_rights(client, target, sharded, channel),
        *_writes(client, target, channel),
        *_server(client, sharded),
        *_clock(client),
    ]


def random_channel() -> str:
    """The name of a channel that has no log."""
    return f"doctor-{os.urandom(8).hex()}"


# -- the rights of the account


def _commands(followers: str, sharded: bool, channel: str) -> list[tuple[int | str, ...]]:
    """Each command that the broker uses, in a form that changes nothing.

    Redis checks the rights before the rest of a command. So a command that is refused for another
    reason, or finds no key, shows the right to it. *channel* has no log.
    """
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
        ("SPUBLISH" if sharded else "PUBLISH", followers, ""),
    ]


def _rights(client: Any, target: Target, sharded: bool, channel: str) -> Iterator[Finding]:
    refused: dict[str, str] = {}
    followers = followers_of(channel, 0 if sharded else database_of(client))
    for name, *rest in _commands(followers, sharded, channel):
        try:
            client.execute_command(name, *rest)
        except exceptions.NoPermissionError as error:
            refused[str(name)] = words_of(error, target)
        except exceptions.ResponseError:
            pass  # allowed
    try:
        _subscribe(client, followers, sharded)
    except exceptions.NoPermissionError as error:
        refused["SSUBSCRIBE" if sharded else "SUBSCRIBE"] = words_of(error, target)
    except exceptions.ResponseError:
        pass  # allowed: another node has the slot, or Redis is older than the command
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


def _subscribe(client: Any, followers: str, sharded: bool) -> None:
    with client.pubsub() as pubsub:
        take, leave = (
            (pubsub.ssubscribe, pubsub.sunsubscribe)
            if sharded
            else (pubsub.subscribe, pubsub.unsubscribe)
        )
        take(followers)
        pubsub.get_message(timeout=1.0)
        leave(followers)
        pubsub.get_message(timeout=1.0)


#: Why a server refuses every write, by the first word of the refusal: the line to change.
_REFUSALS = {
    "READONLY": "the address of the master: this server is a replica",
    "OOM": "more maxmemory in redis.conf; history, history_age or ttl, by which channels take less",
    "MISCONF": "the disk of Redis, and the log of Redis: it cannot write its data to the disk",
    "NOREPLICAS": "start the replicas, or a smaller min-replicas-to-write in redis.conf",
}


def _writes(client: Any, target: Target, channel: str) -> Iterator[Finding]:
    """Whether the server takes a write. Redis refuses a write before it looks for the key."""
    try:
        client.execute_command("SET", key_of(channel), "", "XX")
    except exceptions.ResponseError as error:
        word = _refusal(error)
        if word is not None:
            yield fault(
                f"it refuses every write ({word}): {words_of(error, target)}",
                "publishing fails; streams stay open, and may get old events only",
                _REFUSALS[word],
            )


def _refusal(error: exceptions.ResponseError) -> str | None:
    if isinstance(error, exceptions.ReadOnlyError):
        return "READONLY"
    if isinstance(error, exceptions.OutOfMemoryError):
        return "OOM"
    # Some versions of redis-py take the word off.
    first = str(error).partition(" ")[0]
    return first if first in _REFUSALS else None


# -- the settings of the server


def _server(client: Any, sharded: bool) -> Iterator[Finding]:
    try:
        info: dict[str, Any] = client.info()
    except exceptions.ResponseError:
        yield unseen("INFO", "version, persistence and eviction")
    else:
        yield _version(str(info.get("redis_version", "")), sharded)
        yield _eviction(str(info.get("maxmemory_policy", "")), int(info.get("maxmemory", 0)))
    try:
        config: dict[str, str] = {}
        for name in ("appendonly", "save", "client-output-buffer-limit"):
            config |= client.config_get(name)
    except exceptions.ResponseError:
        yield unseen("CONFIG GET", "persistence and output buffers")
    else:
        yield _persistence(config.get("appendonly", ""), config.get("save", ""))
        yield from _output(config.get("client-output-buffer-limit", ""))


def unseen(command: str, what: str) -> Finding:
    return note(
        f"this account may not use {command}",
        f"the doctor does not see the server's {what}",
        "the URL of an account that may, for the doctor alone",
    )


def _version(version: str, sharded: bool) -> Finding:
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST:
        return fault(
            f"Redis {version}",
            "channels need streams, which came with Redis 5: nothing can be published",
            "Redis 7 or later, or Valkey",
        )
    if sharded and major.isdigit() and int(major) < OLDEST_SHARDED:
        return note(
            f"Redis {version}",
            "a cluster announces events from Redis 7 on: streams get them some seconds late",
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


def examine_copy(client: Any) -> Iterator[Finding]:
    """Whether a replica follows its master."""
    try:
        info: dict[str, Any] = client.info("replication")
    except exceptions.ResponseError:
        return  # `_server` has said so
    if info.get("master_link_status") != "up":
        yield note(
            f"this replica does not follow its master {info.get('master_host')}:"
            f"{info.get('master_port')}",
            "what it lacks is lost: clients get a gap",
            "the log of this replica; masterauth and masteruser in its redis.conf",
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
        # In steps, so that all servers of a group give the same text.
        near = math.ceil(abs(ahead) * 10) / 10
        yield ok(f"the clock of Redis is within {near:.1f} s of the clock here")
