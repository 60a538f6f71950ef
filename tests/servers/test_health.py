"""The health checks of real workers: while Redis restarts, and while they drain."""

from collections.abc import Callable, Iterator

import pytest

from tests.kit.redis_server import RedisServer
from tests.kit.servers import PATIENCE, Client, Server, wait_until

pytestmark = pytest.mark.server


@pytest.fixture(params=["SseWorker", "gevent", "gthread"])
def server(
    request: pytest.FixtureRequest, start_redis: Callable[..., RedisServer]
) -> Iterator[tuple[Server, RedisServer]]:
    redis = start_redis()
    env = {"EVENTS": redis.url}
    server = Server(request.param, "tests.servers.apps.health:app", env=env)
    yield server.start(), redis
    server.stop()


def answer(server: Server, path: str) -> tuple[int, bytes]:
    client = Client(server.port).get(path, version="1.0")
    client.read_until(b"\r\n\r\n")
    head, _, _ = client.received.partition(b"\r\n\r\n")
    client.read_to_end()
    _, _, body = client.received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.strip()


READY, LOST = (204, b""), (503, b'{"not_ready": ["broker"]}')


@pytest.mark.long_except("SseWorker-followed")
@pytest.mark.parametrize("path", ["", "/follow"], ids=["idle", "followed"])
def test_a_worker_is_ready_when_its_broker_is_there(
    server: tuple[Server, RedisServer], path: str
) -> None:
    worker, redis = server
    follower = Client(worker.port).get(path or "/live")
    follower.read_until(b":ok\n\n" if path else b" 204 ")
    assert answer(worker, "/broker") == READY
    redis.kill()
    wait_until(lambda: answer(worker, "/broker") == LOST, "the outage to be told", PATIENCE)
    # Neither a restart nor another worker would mend that.
    assert answer(worker, "/live") == answer(worker, "/ready") == READY
    redis.start()
    wait_until(lambda: answer(worker, "/broker") == READY, "the end of the outage", PATIENCE)


@pytest.mark.long_except("SseWorker")
def test_a_worker_that_drains_is_alive_and_not_ready(server: tuple[Server, RedisServer]) -> None:
    worker, _ = server
    stream = Client(worker.port).get("/follow")
    stream.read_until(b":ok\n\n")
    assert answer(worker, "/ready") == READY
    assert answer(worker, "/drain") == READY
    stream.read_until(b"retry: ")
    assert answer(worker, "/ready") == (503, b'{"not_ready": ["draining"]}')
    assert answer(worker, "/live") == READY
