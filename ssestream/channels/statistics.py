"""The numbers of one channel in one process."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """The numbers of one channel in this process at one moment.

    The counts begin with the channel's first stream in this process, and end with its last.
    """

    #: Streams that follow the channel now.
    subscribers: int
    #: Events that streams have got, live or from the log.
    delivered: int
    #: Events of these that were read from the log, for a stream that came back or was slow.
    replayed: int
    #: Streams that are behind now.
    lagging: int
    #: How often a stream had missed events that the log no longer had.
    gaps: int
    #: Events that this process has published to the channel.
    published: int
