"""A Redis with two replicas and three sentinels, of which the master is killed."""

import contextlib
import shutil
import time
from typing import Any

from tests.kit.redis_server import RedisServer
from tests.kit.servers import wait_until
from tests.long.hosts.street import HERE

#: Milliseconds of silence after which the sentinels take the master for dead.
DOWN = 1000

SENTINEL = """
sentinel monitor street {address} {port} 2
sentinel down-after-milliseconds street {down}
sentinel failover-timeout street 10000
"""

#: Seconds that a failover may take here.
PATIENCE = 60.0


class RedisTrio:
    """It stands for one `RedisServer`."""

    def __init__(self, executable: str) -> None:
        bound = ("--bind", "127.0.0.1", HERE, "--protected-mode", "no")
        announced = ("--replica-announce-ip", HERE)
        self._servers = [RedisServer(executable, *bound, *announced, durable=True)]
        first = ("--replicaof", HERE, str(self._servers[0].port))
        self._servers += [
            RedisServer(executable, *bound, *announced, *first, durable=True) for _ in range(2)
        ]
        rules = SENTINEL.format(address=HERE, port=self._servers[0].port, down=DOWN)
        self._sentinels = [
            RedisServer(executable, "--sentinel", *bound, configuration=rules) for _ in range(3)
        ]
        #: When the last master was killed, by the clock that all processes share.
        self.killed_at = 0.0
        hosts = ",".join(f"{HERE}:{each.port}" for each in self._sentinels)
        self.url = f"redis+sentinel://{hosts}/street/0"

    def start(self) -> None:
        for each in (*self._servers, *self._sentinels):
            each.start()
        self._wait_until_whole()

    def fail_over(self) -> None:
        """Kill the master. Start it again, as a replica, when another one is the master."""
        port = self._master()
        master = next(each for each in self._servers if each.port == port)
        master.kill()
        self.killed_at = time.monotonic()
        wait_until(lambda: self._master() != port, "another master", PATIENCE)
        master.start()
        self._wait_until_whole()

    def remove(self) -> None:
        for each in (*self._sentinels, *self._servers):
            each.remove()

    def _master(self) -> int:
        with contextlib.closing(self._sentinels[0].client()) as client:
            found: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "street")
            return int(found[1])

    def _wait_until_whole(self) -> None:
        """Wait until all sentinels name one master, with two replicas that have all of it."""
        wait_until(self._is_whole, "the replicas and the sentinels", PATIENCE)

    def _is_whole(self) -> bool:
        for sentinel in self._sentinels:
            with contextlib.closing(sentinel.client()) as client:
                state: Any = client.sentinel_master("street")
                if state["num-other-sentinels"] != 2 or "disconnected" in state["flags"]:
                    return False
        port = self._master()
        master = next(each for each in self._servers if each.port == port)
        with contextlib.closing(master.client()) as client:
            said: Any = client.info("replication")
        replicas = [said.get(f"slave{number}", {}) for number in range(2)]
        return said["role"] == "master" and all(r.get("state") == "online" for r in replicas)


def found_redis() -> str:
    """The path of redis-server."""
    found = shutil.which("redis-server")
    assert found is not None, "redis-server is not installed"
    return found
