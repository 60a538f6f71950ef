"""Sentinels, each by its own address; the masters that they name, and the replicas."""

from collections.abc import Iterator
from typing import Any

from redis import exceptions
from redis.connection import parse_url

from ...brokers.redis.errors import ERRORS
from ...brokers.redis.target import Target
from ..finding import Finding, fault, note, ok, with_names
from .members import (
    Address,
    asked,
    client_of,
    name_of,
    of_replica,
    pairs_of,
    text_of,
    words_of,
)
from .server import examine_copy, examine_server, unseen

#: Seconds since a replica's last word, and bytes, by which a replica may be behind.
LATE, BEHIND = 5, 1 << 20

#: Sentinels with which one may die.
ENOUGH = 3


class Sentinel:
    """One sentinel, and what it says of the service.

    :ivar found: what is wrong with it.
    :ivar master: the address of the master; None if this sentinel names none.
    :ivar epoch: the number of the configuration that it knows. A failover makes the next one.
    :ivar known: how many sentinels it knows, with itself.
    :ivar replicas: the address and the facts of each replica.
    """

    def __init__(self, address: Address, target: Target) -> None:
        self.name = name_of(address)
        self.found: list[Finding] = []
        self.master: Address | None = None
        self.epoch = 0
        self.known = 0
        self.replicas: dict[Address, dict[str, str]] = {}
        account = {"username": target.sentinel_username, "password": target.sentinel_password}
        client = client_of(address, target, **account)
        try:
            self.found += self._ask(client, target.service)
        except ERRORS as error:
            self.found.append(_useless(error, target))
        finally:
            client.close()

    def _ask(self, client: Any, service: str) -> Iterator[Finding]:
        facts = pairs_of(client.execute_command("SENTINEL", "MASTER", service))
        self.master = facts["ip"], int(facts["port"])
        self.epoch = int(facts["config-epoch"])
        self.known = int(facts["num-other-sentinels"]) + 1
        for each in map(pairs_of, client.execute_command("SENTINEL", "REPLICAS", service)):
            self.replicas[each["ip"], int(each["port"])] = each
        yield _quorum(client, service, facts["quorum"])
        down = {"s_down", "o_down"} & set(facts["flags"].split(","))
        if down:
            # One sentinel may be cut off; in the eyes of a quorum, it is down.
            say = fault if "o_down" in down else note
            yield say(
                f"this sentinel takes the master {name_of(self.master)} for down"
                f" ({', '.join(sorted(down))})",
                "publishing fails until a replica takes its place",
                "the master; the address in sentinel monitor; sentinel auth-pass, if it wants a"
                " password",
            )


def examine_sentinels(target: Target) -> list[Finding]:
    """Look at each sentinel of *target*, at the master that it names, and at the replicas."""
    sentinels = [Sentinel(address, target) for address in target.sentinels]
    named = [each for each in sentinels if each.master is not None]
    found = [(each.name, finding) for each in sentinels for finding in each.found]
    return [
        *with_names(found, f"all {len(sentinels)} sentinels"),
        *_masters(named, target),
        *_count(named, target),
        *_servers(named, target),
    ]


# -- the sentinels


def _quorum(client: Any, service: str, quorum: str) -> Finding:
    try:
        said = text_of(client.execute_command("SENTINEL", "CKQUORUM", service))
    except exceptions.NoPermissionError:
        return unseen("SENTINEL CKQUORUM", "quorum")
    except exceptions.ResponseError as error:
        return fault(
            f"the quorum of {quorum} cannot be met: {error}",
            "when the master dies, no replica takes its place, and publishing fails until an"
            " operator acts",
            "start the other sentinels, or their addresses (sentinel announce-ip); SENTINEL SET"
            f" {service} quorum at most the number of them",
        )
    return ok(f"the quorum of {quorum} can be met ({said})")


def _useless(error: BaseException, target: Target) -> Finding:
    """The finding for a sentinel that names no master."""
    words = words_of(error, target)
    away = "when the other sentinels are away, no process finds the master"
    ends = "a process asks all sentinels, and this answer ends its search: publishing fails"
    account = (
        "sentinel_username and sentinel_password in the query of the URL, and the rights"
        " +sentinel +ping of that account"
    )
    if isinstance(error, exceptions.NoPermissionError):
        return fault(f"this sentinel refuses: {words}", ends, account)
    if isinstance(error, exceptions.AuthenticationError):
        return note(f"this sentinel refuses: {words}", away, account)
    if not isinstance(error, exceptions.ResponseError):
        change = "start it; or the addresses in the URL"
        return note(f"this sentinel does not answer: {words}", away, change)
    if "No such master" in words:
        change = (
            f"sentinel monitor {target.service} HOST PORT QUORUM at this sentinel, or the name in"
            " the URL"
        )
        return note(f"this sentinel names no master: {words}", away, change)
    change = "the port of a sentinel, which is mostly 26379"
    return fault(f"this is no sentinel: {words}", ends, change)


def _masters(named: list[Sentinel], target: Target) -> Iterator[Finding]:
    """Whether all name the same master."""
    if not named:
        yield fault(
            f"no sentinel names a master of {target.service}",
            "publishing fails, and streams get no events",
            "what is found at the sentinels, above",
        )
        return
    by_master: dict[Address, list[Sentinel]] = {}
    for each in named:
        if each.master is not None:
            by_master.setdefault(each.master, []).append(each)
    if len(by_master) == 1:
        (master,) = by_master
        number = "the sentinel names" if len(named) == 1 else f"all {len(named)} sentinels name"
        yield ok(f"{number} the master {name_of(master)}")
        return
    said = [
        f"{', '.join(each.name for each in mine)}: {name_of(master)}"
        for master, mine in by_master.items()
    ]
    seen = f"the sentinels name different masters ({'; '.join(said)})"
    change = (
        f"SENTINEL REMOVE {target.service} and SENTINEL MONITOR {target.service} HOST PORT QUORUM"
        " at the sentinel that is wrong"
    )
    if len(_newest(named)) == 1:
        yield note(
            f"{seen}, of which the newest configuration counts",
            "that is so for two seconds after a failover; a sentinel that has still not heard of it"
            " is cut off, and misleads other programs",
            f"the log of that sentinel; {change}",
        )
    else:
        yield fault(
            f"{seen} with equal right",
            "processes may publish to different servers: events get lost",
            change,
        )


def _newest(named: list[Sentinel]) -> dict[Address, Sentinel]:
    """The masters of the newest configuration, which the broker believes, too."""
    newest = max((each.epoch for each in named), default=0)
    return {each.master: each for each in named if each.master and each.epoch == newest}


def _count(named: list[Sentinel], target: Target) -> Iterator[Finding]:
    """Whether a sentinel may die."""
    if not named:
        return
    known = max(each.known for each in named)
    if known < ENOUGH:
        yield note(
            f"{target.service} has {known} sentinel{'s' * (known > 1)}",
            "a failover needs more than half of them: when one has died, no replica can take the"
            " place of the master",
            "three sentinels on three machines",
        )
    if len(target.sentinels) < min(known, ENOUGH):
        yield note(
            f"the URL names {len(target.sentinels)} of {known} sentinels",
            "a process that starts, or loses its master, while they are away finds none",
            "redis+sentinel://host:26379,host:26379,host:26379/service",
        )


# -- the servers


def _servers(named: list[Sentinel], target: Target) -> Iterator[Finding]:
    db = parse_url(target.url).get("db", 0)
    found: list[tuple[str, Finding]] = []
    masters = _newest(named)
    for address, sentinel in masters.items():
        client = client_of(address, target, db=db)
        name = f"the master {name_of(address)}"
        with asked(client, target, lambda words: _lost(words, target)) as at_master:
            at_master += _master(client, target)
            at_master += _replicas(client, sentinel)
        found += [(name, each) for each in at_master]
    for address in {address: None for each in named for address in each.replicas}:
        if address not in masters:
            client = client_of(address, target, db=db)
            with asked(client, target, lambda words: _lost_replica(words, target)) as at_replica:
                at_replica += _replica(client, target)
            name = f"the replica {name_of(address)}"
            found += [(name, of_replica(each)) for each in at_replica]
    yield from with_names(found, "the master and its replicas")


def _lost(words: str, target: Target) -> Finding:
    return fault(
        f"it does not answer: {words}",
        "publishing fails, and streams get no events",
        f"the master; or sentinel monitor {target.service} with an address that the app reaches,"
        " and not 127.0.0.1",
    )


def _lost_replica(words: str, target: Target) -> Finding:
    return note(
        f"it does not answer: {words}",
        "no app would reach it",
        f"start it, or replica-announce-ip in its redis.conf; SENTINEL RESET {target.service} if it"
        " is gone for good",
    )


def _master(client: Any, target: Target) -> Iterator[Finding]:
    found = examine_server(client, target)
    if not any(each.level == "fault" for each in found):
        yield ok("it takes writes")
    yield from found


def _replicas(client: Any, sentinel: Sentinel) -> Iterator[Finding]:
    """How far the replicas are behind, by the words of the master."""
    able = [each for each in sentinel.replicas.values() if each.get("slave-priority") != "0"]
    if not able:
        has = "no replica" if not sentinel.replicas else "no replica with a replica-priority"
        yield note(
            f"it has {has}",
            "when it dies, nothing takes its place, and the sentinels only watch",
            "replicaof HOST PORT in the redis.conf of another Redis; replica-priority 100",
        )
    try:
        info: dict[str, Any] = client.info("replication")
    except exceptions.ResponseError:
        return  # `examine_server` has said so
    end = int(info.get("master_repl_offset", 0))
    for name, each in info.items():
        if name.startswith("slave") and isinstance(each, dict):
            state, lag = str(each.get("state")), int(each.get("lag", 0))
            behind = max(0, end - int(each.get("offset", 0)))
            if state != "online" or lag >= LATE or behind >= BEHIND:
                at = name_of((str(each.get("ip")), int(each.get("port", 0))))
                yield note(
                    f"its replica {at} is behind ({state}, {behind:,} bytes, silent for {lag} s)",
                    "a failover now loses these events: clients get a gap",
                    "the load, the network and the log of the replica",
                )


def _replica(client: Any, target: Target) -> Iterator[Finding]:
    # A replica is right to refuse writes.
    yield from (each for each in examine_server(client, target) if "READONLY" not in each.seen)
    yield from examine_copy(client)
