"""Tell the listeners of all processes which channels have changed.

PostgreSQL lets the transactions that notify end one after another, each after its write to the
disk. So an append does not notify. A transaction of its own, which writes nothing, does it for all
appends of this process that are done meanwhile. A notification is a hint only. If it is lost, the
listeners find the change a little later.
"""

from collections.abc import Callable

from ...runtime.threads import new_lock

#: The channel of PostgreSQL on which all is announced.
LISTENED = "ssestream"

#: The most bytes of a payload. PostgreSQL allows less than 8000.
MOST_BYTES = 7900

#: How often one caller announces for others before it goes on with its own work.
TURNS = 8


class Announcing:
    """The changed channels of one process that are not announced yet.

    *notify* sends some payloads, and raises nothing that is not of interest.
    """

    def __init__(self, notify: Callable[[list[str]], None]) -> None:
        self._notify = notify
        # Guards both. Held for a few instructions only.
        self._lock = new_lock()
        self._changed: dict[str, None] = {}
        self._is_busy = False

    def announce(self, channel: str) -> None:
        """Announce that *channel* has changed, unless another caller is about to do so."""
        with self._lock:
            self._changed[channel] = None
            if self._is_busy:
                return
            self._is_busy = True
        try:
            for _ in range(TURNS):
                with self._lock:
                    changed, self._changed = self._changed, {}
                    if not changed:
                        # In one step with the look: nobody leaves a channel to this caller now.
                        self._is_busy = False
                        return
                self._notify(payloads(changed))
        finally:
            with self._lock:
                self._is_busy = False


def payloads(channels: dict[str, None]) -> list[str]:
    """The names of *channels* with spaces between, which no name has."""
    found: list[str] = []
    for name in channels:
        if found and len(found[-1]) + 1 + len(name) <= MOST_BYTES:
            found[-1] += f" {name}"
        else:
            found.append(name)
    return found
