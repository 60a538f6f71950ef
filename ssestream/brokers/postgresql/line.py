"""A line of appends that wait for the one that leads them. `GroupCommit` has the rules."""

import enum
from collections import deque

from ...runtime.clock import clock
from ...runtime.waits import new_wake
from ..broker import Bounds, BrokerError, Position
from .logs import Append

#: The most appends and bytes of one batch. One append may have more bytes.
MOST, MOST_BYTES = 100, 1 << 20


class Phase(enum.Enum):
    """Where a call is: in a line, at its head, in a batch that is sent, or at its end."""

    WAITS, LEADS, SENT, OVER = range(4)


class Call:
    """One append. Its caller appends alone if there is no `result` at the end."""

    def __init__(self, wanted: Append, deadline: float, line: "Line") -> None:
        self.wanted = wanted
        #: The time until which the call waits for its turn, and may be sent again.
        self.deadline = deadline
        self.line = line
        self.phase = Phase.WAITS
        #: How often its channel was locked.
        self.skipped = 0
        #: The position of the entry and the bounds of its log, when it is stored.
        self.result: tuple[Position, Bounds] | None = None
        #: Whether a batch whose outcome is not known may store the entry.
        self.is_in_doubt = False
        #: Why its last batch has failed.
        self.error: BrokerError | None = None
        # psycopg waits with `select`.
        waker = new_wake("select")
        #: Sleeps for some seconds at most, and returns whether the call was woken.
        self.sleep, self.wake = waker.sleep, waker.wake

    @property
    def is_late(self) -> bool:
        return clock.real() >= self.deadline

    def waits(self, line: "Line") -> None:
        self.phase, self.line = Phase.WAITS, line

    def leads(self) -> None:
        self.phase = Phase.LEADS
        self.wake()

    def is_sent(self) -> None:
        self.phase = Phase.SENT

    def skip(self) -> None:
        """Count that the channel was locked."""
        self.skipped += 1

    def fail(self, error: BrokerError | None) -> None:
        """Note why the batch has failed; None is for a leader that was killed."""
        self.error = error

    def end(self, result: tuple[Position, Bounds] | None, *, is_in_doubt: bool = False) -> None:
        self.phase, self.result, self.is_in_doubt = Phase.OVER, result, is_in_doubt


class Line:
    """Calls that wait for their leader. With *channel*, all are of this locked channel."""

    def __init__(self, channel: str | None = None) -> None:
        self.channel = channel
        self.leader: Call | None = None
        self.waiting: deque[Call] = deque()

    def join(self, call: Call, *, in_front: bool = False) -> None:
        call.waits(self)
        if in_front:
            self.waiting.appendleft(call)
        else:
            self.waiting.append(call)
        if self.leader is None:
            self.hand_over()

    def hand_over(self) -> None:
        """Let the first call that waits lead."""
        self.leader = None
        if self.waiting:
            self.let_lead(self.waiting[0])

    def let_lead(self, call: Call) -> None:
        """Let *call*, which waits, lead instead of any other."""
        self.waiting.remove(call)
        self.leader = call
        call.leads()

    def take(self, leader: Call) -> list[Call]:
        """The next batch."""
        batch, size = [leader], len(leader.wanted.frame)
        while self.waiting and len(batch) < MOST:
            size += len(self.waiting[0].wanted.frame)
            if size > MOST_BYTES:
                break
            batch.append(self.waiting.popleft())
        for each in batch:
            each.is_sent()
        return batch
