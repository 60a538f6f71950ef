"""The master that the sentinels with the newest configuration name."""

import math
from typing import Any

from redis import exceptions
from redis.sentinel import MasterNotFoundError, Sentinel

from ...runtime.clock import clock

#: Seconds for which a sentinel that has not answered is not asked, while others answer.
SILENT = 10.0

_ADDRESS = "SENTINEL GET-MASTER-ADDR-BY-NAME"


class NewestSentinels(Sentinel):
    """Sentinels, of which one may not have heard of the last failover yet.

    Such a sentinel names the master before, for about two seconds. That master may be up again, and
    takes events that are lost when it becomes a replica. So all sentinels are asked, and the
    greatest ``config-epoch`` counts (Redis documentation, "High availability with Redis Sentinel",
    configuration propagation).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # By the place of the sentinel: the time until which it is not asked.
        self._silent_until: dict[int, float] = {}

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """The host and port of the master of *service_name*.

        Raises ``MasterNotFoundError`` if no sentinel answers, if none knows the service, or if
        the sentinels with the newest configuration cannot use its master.
        """
        now = clock.real()
        places = range(len(self.sentinels))
        asked = [n for n in places if self._silent_until.get(n, -math.inf) <= now]
        errors: list[str] = []
        states = self._states(service_name, asked, errors)
        if not states:
            rest = [n for n in places if n not in asked]
            states = self._states(service_name, rest, errors)
        newest = max((state["config-epoch"] for _, state in states), default=0)
        for sentinel, state in states:
            if state["config-epoch"] == newest:
                # During a failover this is the next master, and the state is of the one before.
                # The method of redis-py 6 for this command fails.
                found = sentinel.execute_command(_ADDRESS, service_name)
                if found is not None:
                    address = (str(found[0], "ascii"), int(found[1]))
                    is_before = address == (state["ip"], state["port"])
                    if not is_before or self.check_master_state(state, service_name):
                        return address
        raise MasterNotFoundError(
            f"No master found for {service_name!r}{' : ' if errors else ''}{', '.join(errors)}"
        )

    def _states(
        self, service_name: str, places: list[int], errors: list[str]
    ) -> list[tuple[Any, Any]]:
        """The sentinels at *places* that know the service, each with the service's state.

        Adds to *errors* for each sentinel that does not answer.
        """
        states = []
        for place in places:
            sentinel: Any = self.sentinels[place]
            try:
                masters = sentinel.sentinel_masters()
            except exceptions.RedisError as error:  # also of an address that is no sentinel
                self._silent_until[place] = clock.real() + SILENT
                errors.append(f"{sentinel} - {error!r}")
                continue
            self._silent_until.pop(place, None)
            if service_name in masters:
                states.append((sentinel, masters[service_name]))
        return states
