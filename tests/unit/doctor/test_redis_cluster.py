"""Real Redis Clusters with one thing wrong: the finding names the node."""

import re
from collections.abc import Callable
from contextlib import closing

import pytest
import redis

from ssestream.doctor.finding import Finding
from ssestream.doctor.redis import examine_redis
from ssestream.doctor.redis.cluster import channel_in, gaps_in, nodes_of
from tests.kit.redis_server import RedisServer, make_cluster
from tests.kit.servers import free_port, wait_until
from tests.unit.doctor.test_redis import documented_rights, seen

Start = Callable[..., RedisServer]

#: A node that is stopped is found by the others soon.
SOON = "cluster-node-timeout 500\n"


def at(node: RedisServer) -> str:
    return f"127.0.0.1:{node.port}"


def url_of(node: RedisServer, account: str = "") -> str:
    return f"redis+cluster://{account}{at(node)}"


def follow(node: RedisServer, master: RedisServer) -> None:
    """Make *node*, which has no slots, a replica of *master* in its cluster."""
    with closing(node.client()) as client, closing(master.client()) as other:
        bus = master.process_option("--cluster-port")
        client.execute_command("CLUSTER MEET", "127.0.0.1", master.port, bus)
        number = other.execute_command("CLUSTER MYID")
        wait_until(
            lambda: str(number, "ascii") in str(client.execute_command("CLUSTER", "NODES")),
            "the node to know its master",
        )
        client.execute_command("CLUSTER REPLICATE", number)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica")


def says(node: RedisServer, state: str) -> bool:
    with closing(node.client()) as client:
        return bool(client.cluster("info")["cluster_state"] == state)


def one(found: list[Finding], words: str) -> Finding:
    (finding,) = [each for each in found if words in each.seen]
    return finding


@pytest.mark.long
def test_a_whole_cluster_has_one_line_for_all_nodes(start_redis: Start) -> None:
    nodes = make_cluster(start_redis, 3, "appendonly yes\n")
    found = examine_redis(url_of(nodes[0]))
    assert seen(found) == []
    (alone,) = seen(found, "note")
    assert alone.startswith("no replica: ")
    assert all(at(node) in alone for node in nodes)
    assert one(found, "slots have a node").seen == "all 16384 slots have a node, of 3 masters"
    for words in ("cluster_state is ok", "has all rights", "appendonly is on", "Redis "):
        assert any(each.seen.startswith("all 3 nodes: ") and words in each.seen for each in found)
    for node in nodes:
        with closing(node.client()) as client:
            assert client.dbsize() == 0


@pytest.mark.long_except("appendonly-no-note-appendonly is off")
@pytest.mark.parametrize(
    ("name", "value", "level", "words"),
    [
        ("maxmemory-policy", "allkeys-lru", "fault", "allkeys-lru"),
        ("maxmemory-policy", "volatile-lru", "note", "volatile-lru"),
        ("client-output-buffer-limit", "pubsub 65536 32768 10", "fault", "pubsub is 65536"),
        ("appendonly", "no", "note", "appendonly is off"),
    ],
)
def test_a_setting_of_one_node_is_told_with_its_name(
    name: str, value: str, level: str, words: str, start_redis: Start
) -> None:
    nodes = make_cluster(start_redis, 2, "appendonly yes\nmaxmemory 100mb\n")
    with closing(nodes[1].client()) as client:
        client.config_set(name, value)
    (text,) = [each for each in seen(examine_redis(url_of(nodes[0])), level) if words in each]
    assert text.startswith(f"{at(nodes[1])}: ")


@pytest.mark.long
def test_a_node_that_is_down_is_named_with_its_slots(start_redis: Start) -> None:
    nodes = make_cluster(start_redis, 3, SOON)
    nodes[2].stop()
    wait_until(lambda: all(says(node, "fail") for node in nodes[:2]), "the others to see it")
    found = examine_redis(url_of(nodes[0]))
    gone = one(found, "does not answer (")
    assert gone.level == "fault"
    assert gone.seen.startswith(f"{at(nodes[2])}: ")
    assert "takes it for down" in gone.seen
    assert "10922-16383" in gone.why
    state = one(found, "cluster_state is fail")
    assert [at(node) in state.seen for node in nodes] == [True, True, False]


@pytest.mark.long
def test_a_node_that_stands_still_is_found_by_the_doctor_first(start_redis: Start) -> None:
    nodes = make_cluster(start_redis, 2, "cluster-node-timeout 60000\n")
    nodes[1].freeze()
    found = examine_redis(url_of(nodes[0]))
    nodes[1].thaw()
    gone = one(found, "does not answer (")
    assert gone.seen.startswith(f"{at(nodes[1])}: ")
    assert "has not found it to be down" in gone.seen


@pytest.mark.long
def test_slots_without_a_node_are_counted(start_redis: Start) -> None:
    nodes = make_cluster(start_redis, 2)
    for node in nodes:
        with closing(node.client()) as client:
            for number in (*range(100, 110), 200):
                client.execute_command("CLUSTER DELSLOTS", number)
    found = examine_redis(url_of(nodes[0]))
    lacking = one(found, "no node has the")
    assert lacking.level == "fault"
    assert lacking.seen == "no node has the 11 slots 100-109, 200"
    assert f"--cluster fix {at(nodes[0])}" in lacking.change


@pytest.mark.long
def test_a_slot_whose_move_has_stopped_half_way(start_redis: Start) -> None:
    nodes = make_cluster(start_redis, 2)
    with closing(nodes[0].client()) as client, closing(nodes[1].client()) as other:
        number = other.execute_command("CLUSTER MYID")
        client.execute_command("CLUSTER SETSLOT", 93, "MIGRATING", number)
    assert one(examine_redis(url_of(nodes[0])), "on their way").seen.endswith(": 93")


@pytest.mark.long
def test_an_account_that_one_node_does_not_know(start_redis: Start) -> None:
    nodes = make_cluster(start_redis, 2)
    rights = [*documented_rights(), "+cluster", "+ssubscribe", "+sunsubscribe", "+spublish"]
    with closing(nodes[0].client()) as client:
        client.execute_command("ACL SETUSER", "app", *rights)
    found = examine_redis(url_of(nodes[0], "app:password@"))
    text = one(found, "does not take the account").seen
    assert text.startswith(f"{at(nodes[1])}: ")
    assert "password@" not in "".join(map(str, found))
    assert one(found, "has all rights").seen.startswith(at(nodes[0]))


def test_the_rights_that_the_docs_give_are_enough_and_one_that_lacks_is_named(
    start_redis: Start,
) -> None:
    nodes = make_cluster(start_redis, 2)
    more = ["+cluster", "+ssubscribe", "+sunsubscribe", "+spublish"]
    rights = [each for each in documented_rights() if not re.search("subscribe|publish", each)]
    for node in nodes:
        with closing(node.client()) as client:
            client.execute_command("ACL SETUSER", "app", *rights, *more)
    found = examine_redis(url_of(nodes[0], "app:password@"))
    assert seen(found) == []
    with closing(nodes[1].client()) as client:
        client.execute_command("ACL SETUSER", "app", "-ssubscribe", "-xadd")
    (text,) = seen(examine_redis(url_of(nodes[0], "app:password@")))
    assert text.startswith(f"{at(nodes[1])}: the account lacks rights (XADD, SSUBSCRIBE)")


@pytest.mark.long
def test_a_replica_is_only_a_note(start_redis: Start) -> None:
    nodes = make_cluster(start_redis, 2)
    replica = start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    follow(replica, nodes[0])
    with closing(replica.client()) as client:
        client.config_set("client-output-buffer-limit", "pubsub 65536 32768 10")
    wait_until(lambda: all(says(node, "ok") for node in nodes), "the cluster")
    with closing(nodes[1].client()) as client:
        wait_until(
            lambda: "slave" in str(client.execute_command("CLUSTER", "NODES")),
            "the other node to know the replica",
        )
    found = examine_redis(url_of(nodes[1]))
    assert seen(found) == []
    buffers = one(found, "pubsub is 65536")
    assert buffers.level == "note"
    assert buffers.seen.startswith(f"{at(replica)}: ")
    assert buffers.why.startswith("after a failover to it, ")
    assert one(found, "no replica: ").seen == f"no replica: {at(nodes[1])}"
    replica.stop()
    found = examine_redis(url_of(nodes[1]))
    assert one(found, "does not answer (").level == "note"


def test_a_node_that_refuses_writes_is_named(start_redis: Start) -> None:
    nodes = make_cluster(start_redis, 2)
    with closing(nodes[1].client()) as client:
        client.config_set("min-replicas-to-write", 1)
    (text,) = seen(examine_redis(url_of(nodes[0])))
    assert text.startswith(f"{at(nodes[1])}: it refuses every write (NOREPLICAS)")


def test_a_server_that_is_no_cluster_and_one_that_is_not_there(start_redis: Start) -> None:
    server = start_redis()
    texts = seen(examine_redis(url_of(server)))
    assert any("cluster support disabled" in each for each in texts), texts
    server.stop()
    assert any("refused" in each for each in seen(examine_redis(url_of(server))))


@pytest.mark.long
def test_a_node_is_asked_by_tls_as_the_url_says(
    start_redis: Start, certificate: tuple[str, str]
) -> None:
    cert, key = certificate
    files = ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert]
    cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes"]
    cluster += ["--cluster-port", str(free_port())]
    node = start_redis(*files, *cluster, "--tls-auth-clients", "no", tls=True, durable=True)
    with closing(redis.Redis("localhost", node.port, ssl=True, ssl_ca_certs=cert)) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: client.cluster("info")["cluster_state"] == "ok", "the cluster")
    # redis-py asks the number of localhost, for which the certificate is not.
    url = f"rediss+cluster://localhost:{node.port}?ssl_check_hostname=false"
    found = examine_redis(f"{url}&ssl_ca_certs={cert}")
    assert seen(found) == []
    # A node alone does not know its own address.
    assert one(found, "cluster_state is ok").seen.startswith(f"localhost:{node.port}: ")
    untrusted = seen(examine_redis(url))
    assert untrusted
    assert all("certificate" in each for each in untrusted), untrusted


def test_nodes_are_read_as_redis_writes_them() -> None:
    nodes = nodes_of(
        "a1 :7000@17000 myself,master - 0 0 1 connected 0-5 7 [93->-b2] [94-<-b2]\n"
        "b2 10.0.0.2:7001@17001,host.example master,fail - 0 0 2 connected 8-16383\n"
        "c3 ::1:7002 slave a1 0 0 2 disconnected\n"
        "d4 :0@0 master,noaddr - 0 0 3 disconnected\n",
        ("seed", 7000),
        {"c3": ("other.example", 7002)},
    )
    nodes.sort(key=lambda node: node.id)
    assert [node.name for node in nodes] == ["seed:7000", "10.0.0.2:7001", "other.example:7002"]
    assert (nodes[0].slots, nodes[0].moving) == ([(0, 5), (7, 7)], [93, 94])
    assert nodes[2].master == "a1"
    assert gaps_in([*nodes[0].slots, *nodes[1].slots]) == [(6, 6)]
    assert gaps_in([]) == [(0, 16383)]


def test_a_channel_is_found_for_few_slots_too() -> None:
    assert channel_in([(5, 80)]) is not None
    assert channel_in([]) is None
