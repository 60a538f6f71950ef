"""Whether a worker has memory for more connections."""

import mmap
from typing import Any

#: New connections are accepted only while the process may still use this many bytes.
KEEP_FREE = 4 * 1024 * 1024

#: One in this many connections checks the memory. So many connections use far less than
#: `KEEP_FREE`.
ASK_EVERY = 16


class Memory:
    """Whether there is memory for more connections.

    When greenlet or libev get no memory, they abort the process. This happens when the
    process reaches its limit (``RLIMIT_AS``). Streams are so small here that nothing else
    fails before. So some memory is kept free for greenlet and libev.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._count = 0
        # The number of connections that fit into the memory; None while there is enough.
        self._fit: int | None = None

    def has_room_for_one(self, connections: int) -> bool:
        """Whether there is memory for one more connection, with *connections* open already."""
        self._count += 1
        if self._fit is None and self._count % ASK_EVERY:
            return True
        if _is_free():
            if self._fit is not None:
                self._log.warning("There is memory for more connections again")
            self._fit = None
            return True
        if self._fit is None:
            self._fit = connections * 9 // 10
            self._log.warning(
                "No memory for more than %d connections: any more are closed at once", self._fit
            )
        # The memory of closed connections is free inside this process, which the system's answer
        # does not show. It is enough for as many new connections.
        return connections <= self._fit


def _is_free() -> bool:
    """Whether the system would give `KEEP_FREE` bytes now."""
    try:
        # The map is never written to, so it takes no real memory.
        mmap.mmap(-1, KEEP_FREE).close()
    except (OSError, MemoryError):
        return False
    return True
