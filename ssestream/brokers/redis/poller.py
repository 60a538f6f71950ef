"""Ask a cluster for news. A cluster before Redis 7 cannot announce to one node's followers."""

from collections.abc import Mapping

from ..broker import Position
from .errors import is_of_channel
from .keys import entry_id, key_of
from .pool import Pool

#: Seconds between two polls.
POLL = 0.1


def poll(pool: Pool, positions: Mapping[str, Position]) -> list[str]:
    """The channels of *positions* whose log goes on there, or cannot be read."""
    pipeline = pool.client.pipeline()
    for name, position in positions.items():
        pipeline.xrange(key_of(name), min=entry_id(position, 1), count=1)
    answers = pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not is_of_channel(answer):
            raise answer
    return [name for name, some in zip(positions, answers, strict=True) if some]
