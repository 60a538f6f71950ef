"""A Redis Cluster: its slots, and each of its nodes by its own address."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from redis import exceptions
from redis.connection import parse_url
from redis.crc import key_slot

from ...brokers.redis.errors import ERRORS
from ...brokers.redis.keys import key_of
from ...brokers.redis.target import Target
from ..finding import Finding, fault, note, ok, with_names
from .members import Address, asked, client_of, name_of, of_replica, text_of, words_of
from .server import examine_copy, examine_server, random_channel, unseen

#: The slots of a cluster.
SLOTS = 16384

#: Tries to find a channel in the slots of a node. A node with a single slot needs 16384 on average.
TRIES = 200_000

#: The first and the last of some slots.
Range = tuple[int, int]


@dataclass
class Node:
    """A node, as another node sees it.

    :ivar flags: such as ``master``, ``fail`` (all agree that it is down) and ``fail?`` (the node
        that was asked does not reach it).
    :ivar moving: the numbers of slots that are on their way to or from it.
    """

    id: str
    address: Address
    flags: set[str]
    master: str
    slots: list[Range] = field(default_factory=list)
    moving: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return name_of(self.address)

    @property
    def is_master(self) -> bool:
        return "master" in self.flags


def examine_cluster(target: Target) -> list[Finding]:
    """Look at the slots of the cluster at *target*, and at each of its nodes."""
    options = parse_url(target.url)
    seed = options.get("host", "localhost"), options.get("port", 6379)
    client = client_of(seed, target)
    try:
        text = text_of(client.execute_command("CLUSTER", "NODES"))
        nodes = nodes_of(text, seed, _addresses(client, seed))
    except exceptions.NoPermissionError:
        return [unseen("CLUSTER NODES", "slots and nodes")]
    except ERRORS as error:
        words = f"{name_of(seed)} does not tell of its cluster: {words_of(error, target)}"
        why = "a process that starts now finds no node; others go on"
        return [fault(words, why, "the URL of a node that runs, or a name of several addresses")]
    finally:
        client.close()
    at_nodes = [(node.name, each) for node in nodes for each in _node(node, target)]
    return [*_slots(nodes, name_of(seed)), *with_names(at_nodes, f"all {len(nodes)} nodes")]


def nodes_of(text: str, seed: Address, addresses: dict[str, Address]) -> list[Node]:
    """The nodes in *text*, the answer of CLUSTER NODES, in the order of their addresses.

    :param seed: the address of the node that has answered, for a node that does not know its own.
    :param addresses: by the ids of nodes, addresses that are better than those in *text*.
    """
    nodes = []
    for line in text.splitlines():
        number, address, flags, master, _, _, _, _, *slots = line.split(" ")
        # As in "10.0.0.1:7000@17000,host", without "@17000" before Redis 4.
        host, _, port = address.partition("@")[0].partition(",")[0].rpartition(":")
        its = addresses.get(number, (host or seed[0], int(port)))
        node = Node(number, its, set(flags.split(",")), master)
        for each in slots:
            if each.startswith("["):
                # As in [93-<-id] or [93->-id].
                node.moving.append(int(each[1:].partition("-")[0]))
            else:
                first, _, last = each.partition("-")
                node.slots.append((int(first), int(last or first)))
        if "noaddr" not in node.flags and "handshake" not in node.flags:
            nodes.append(node)
    return sorted(nodes, key=lambda node: node.address)


def _addresses(client: Any, seed: Address) -> dict[str, Address]:
    """By the ids of nodes, the addresses at which clients are sent to them.

    It may be the name of a host, where CLUSTER NODES has its number. Ids came with Redis 4.
    """
    found: dict[str, Address] = {}
    for _, _, *nodes in client.execute_command("CLUSTER", "SLOTS"):
        for host, port, *number in nodes:
            if number:
                address = text_of(host) if host else seed[0]
                found[text_of(number[0])] = (address, int(port))
    return found


# -- the slots


def _slots(nodes: list[Node], seed: str) -> Iterator[Finding]:
    masters = [node for node in nodes if node.is_master and node.slots]
    served = sorted(each for node in masters for each in node.slots)
    lacking = gaps_in(served)
    if lacking:
        yield fault(
            f"no node has the {_count(lacking)} slots {_written(lacking)}",
            "the channels in them cannot be published or followed; by default, the whole cluster"
            " refuses its work (cluster-require-full-coverage)",
            f"redis-cli --cluster fix {seed}, or CLUSTER ADDSLOTSRANGE at one of the nodes",
        )
    elif not any("fail" in node.flags for node in masters):
        yield ok(f"all {SLOTS} slots have a node, of {len(masters)} masters")
    moving = sorted({slot for node in nodes for slot in node.moving})
    if moving:
        yield note(
            f"slots are on their way to another node: {', '.join(map(str, moving[:10]))}",
            "if nothing moves them on, calls for their channels are sent to and fro for ever",
            f"redis-cli --cluster check {seed}, and fix where a move has stopped half-way",
        )
    living = [node for node in nodes if "fail" not in node.flags]
    alone = [node for node in masters if not any(each.master == node.id for each in living)]
    if alone:
        yield note(
            f"no replica: {', '.join(node.name for node in alone)}",
            "when such a node dies, its channels stand still until it is back",
            f"redis-cli --cluster add-node HOST:PORT {seed} --cluster-slave",
        )


def gaps_in(ranges: Iterable[Range]) -> list[Range]:
    """The slots that *ranges*, which are in order, leave out."""
    edges = [(-1, -1), *ranges, (SLOTS, SLOTS)]
    return [
        (before[1] + 1, after[0] - 1)
        for before, after in itertools.pairwise(edges)
        if after[0] > before[1] + 1
    ]


def _count(ranges: list[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _written(ranges: list[Range]) -> str:
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more ranges" if len(texts) > 5 else "")


# -- a node


def _node(node: Node, target: Target) -> list[Finding]:
    client = client_of(node.address, target)
    with asked(client, target, lambda words: _lost(node, words)) as found:
        found += _state(client)
        if node.is_master:
            found += examine_server(client, target, True, channel_in(node.slots))
        else:
            replica = [*examine_server(client, target, True), *examine_copy(client)]
            found += map(of_replica, replica)
    return found


def _lost(node: Node, words: str) -> Finding:
    view = "takes it for down" if "fail" in node.flags else "has not found it to be down"
    seen = f"it does not answer ({words}), and the cluster {view}"
    change = (
        "start the node; or cluster-announce-ip (cluster-announce-hostname) in its redis.conf, if"
        " clients reach it at another address"
    )
    if not node.slots:
        return note(seen, "a replica that is away takes over from no master", change)
    why = f"its channels, in the slots {_written(node.slots)}, cannot be published or followed"
    return fault(seen, why, change)


def _state(client: Any) -> Iterator[Finding]:
    """What the node thinks of the cluster."""
    try:
        lines = text_of(client.execute_command("CLUSTER", "INFO")).splitlines()
    except exceptions.ResponseError:
        yield unseen("CLUSTER INFO", "view of the cluster")
        return
    info = dict(line.partition(":")[::2] for line in lines)
    state = info.get("cluster_state", "")
    if state == "ok":
        yield ok("cluster_state is ok")
    else:
        yield fault(
            f"cluster_state is {state}, with {info.get('cluster_slots_ok', '?')} slots in order",
            "it refuses every command for a channel (CLUSTERDOWN)",
            "the nodes that are away and the slots without a node, above and below; or the ports of"
            " the cluster's bus, by which the nodes reach each other",
        )


def channel_in(slots: list[Range]) -> str | None:
    """A channel without a log, whose keys are in *slots*; None if none was found."""
    for _ in range(TRIES if slots else 0):
        channel = random_channel()
        slot = key_slot(key_of(channel).encode())
        if any(first <= slot <= last for first, last in slots):
            return channel
    return None
