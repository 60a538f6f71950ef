"""Sentinels that do not agree, or do not answer."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssestream.brokers import open_broker
from ssestream.brokers.redis import RedisBroker
from tests.kit.redis_server import RedisServer
from tests.kit.servers import wait_until

pytestmark = pytest.mark.server

Start = Callable[..., RedisServer]


@pytest.fixture
def broker() -> Iterator[Callable[..., RedisBroker]]:
    brokers: list[RedisBroker] = []

    def start(url: str) -> RedisBroker:
        made = open_broker(url)
        assert isinstance(made, RedisBroker)
        brokers.append(made)
        return made

    yield start
    for each in brokers:
        each.close()


@pytest.mark.long
def test_a_sentinel_that_names_the_master_before_is_not_believed(
    start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    secret = ("--requirepass", "pw", "--masterauth", "pw")
    master = start_redis(*secret)
    replica = start_redis(*secret, "--replicaof", "127.0.0.1", str(master.port))
    rules = f"""
sentinel monitor mine 127.0.0.1 {master.port} 1
sentinel down-after-milliseconds mine 300000
sentinel failover-timeout mine 2000
"""
    # Without the password it hears nothing of what happens.
    late = start_redis("--sentinel", configuration=rules)
    prompt = start_redis("--sentinel", configuration=f"{rules}sentinel auth-pass mine pw\n")

    def asked(sentinel: RedisServer, *words: str) -> Any:
        with contextlib.closing(sentinel.client()) as client:
            return client.execute_command("SENTINEL", *words, "mine")

    wait_until(lambda: asked(prompt, "REPLICAS"), "the sentinel to know the replica", 60)
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in (late, prompt))
    channels = broker(f"redis+sentinel://:pw@{hosts}/mine/0")
    channels.append("news", b"one")
    other = replica.client(password="pw")
    wait_until(lambda: other.xlen("ssestream:{news}") == 1, "the replica to have all")

    asked(prompt, "FAILOVER")
    port = str(replica.port).encode()
    wait_until(lambda: asked(prompt, "GET-MASTER-ADDR-BY-NAME")[1] == port, "the failover", 60)
    master.kill()
    master.start()
    channels.append("news", b"two")
    assert asked(late, "GET-MASTER-ADDR-BY-NAME")[1] == str(master.port).encode()
    assert other.xlen("ssestream:{news}") == 2


def test_a_silent_sentinel_is_not_asked_at_each_connection(
    start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    master = start_redis()
    rules = f"sentinel monitor mine 127.0.0.1 {master.port} 1\n"
    silent, other = (start_redis("--sentinel", configuration=rules) for _ in range(2))
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in (silent, other))
    channels = broker(f"redis+sentinel://{hosts}/mine/0")
    channels.append("news", b"one")
    with contextlib.closing(silent.client()) as client:
        before = client.info("stats")["total_connections_received"]
    silent.freeze()
    try:
        for _ in range(5):
            with contextlib.closing(master.client()) as client:
                client.client_kill_filter(_type="normal", skipme=True)
            channels.append("news", b"two")
    finally:
        silent.thaw()
    with contextlib.closing(silent.client()) as client:
        connections = client.info("stats")["total_connections_received"] - before
    # Two are of the kit.
    assert connections <= 3


def test_an_address_that_is_no_sentinel_keeps_nobody_from_the_others(
    start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    master = start_redis()
    rules = f"sentinel monitor mine 127.0.0.1 {master.port} 1\n"
    sentinel = start_redis("--sentinel", configuration=rules)
    channels = broker(f"redis+sentinel://127.0.0.1:{master.port},127.0.0.1:{sentinel.port}/mine/0")
    channels.append("news", b"one")
    assert channels.read("news", 0, 1, 100).last == 1
