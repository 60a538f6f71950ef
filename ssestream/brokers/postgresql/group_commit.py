"""Group commit: appends of one process that come together are stored in one transaction.

Up to `ALONE` appends at a time are transactions of their own. While more are under way, appends
wait in a line. The first of the line leads: it sends all that wait as one batch, lets the others
know the outcome, and hands the lead to the first that has come meanwhile. The lead is not bound to
a thread or a greenlet, so a line needs no end, and no care at a fork.

A batch never waits for a channel that another transaction has locked. Appends that have found their
channel locked `SKIPS` times wait in a line of this channel. The batches of such a line wait for the
lock. So a locked channel holds up one connection, and no other channel.

An append leaves its line undecided if it has waited too long, if its batch is lost, or if a batch
cannot store it. Then its caller appends alone.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from ...runtime.clock import clock
from ..broker import BrokerError
from .errors import UNDONE, state_of
from .line import Call, Line, Phase
from .logs import Append, Outcome

#: The appends that are transactions of their own while no line is in use.
ALONE = 2

#: How often an append finds its channel locked before it waits for the lock.
SKIPS = 2

#: Seconds after which an append no longer waits for its leader, and leads instead. The leader of a
#: locked channel may wait for `logs.PATIENCE`.
STUCK, STUCK_AT_LOCK = 0.5, 1.5

#: Seconds in which a batch ends: a connection is made, and the server answers.
SENDING = 4.0

#: Sends a batch. Waits for a free connection until a deadline, and with True also for the lock of
#: the first channel. Raises `BrokerError`.
Send = Callable[[Sequence[Append], float, bool], Sequence[Outcome]]


class GroupCommit:
    """The appends of one process that are under way, and their lines.

    At most *alone* appends are transactions of their own while no line is in use. *lock* guards all
    fields, also those of the calls and lines. Held for a few instructions only.
    """

    def __init__(self, send: Send, alone: int, lock: Any) -> None:
        self._send = send
        self._may_be_alone = alone
        self._lock = lock
        self._process = os.getpid()
        self._alone = self._in_lines = 0
        self._main = Line()
        self._of_channels: dict[str, Line] = {}

    @property
    def under_way(self) -> int:
        """The number of the appends that have begun, and have no outcome yet."""
        with self._lock:
            return self._alone + self._in_lines

    def begin_alone(self) -> bool:
        """Whether the caller may append alone. Then it calls `end_alone` afterwards."""
        with self._lock:
            may = self._main.leader is None and self._alone < self._may_be_alone
            self._alone += may
            return may

    def end_alone(self) -> None:
        with self._lock:
            self._alone -= 1

    def store(self, wanted: Append, deadline: float) -> Call:
        """Store *wanted* in a batch. Raises `BrokerError` if this fails after the *deadline*."""
        call = Call(wanted, deadline, self._main)
        try:
            with self._lock:
                self._in_lines += 1
                self._of_channels.get(wanted.channel, self._main).join(call)
            # A child has copies of the calls of its parent, which sleep for ever.
            while call.phase is not Phase.OVER or not self._is_mine:
                if call.phase is Phase.LEADS and self._is_mine:
                    self._lead(call)
                elif not call.sleep(self._patience(call)):
                    self._lose_patience(call)
        except BaseException:
            # The caller is killed. No other call may wait for this one.
            with self._lock:
                self._leave(call)
            raise
        finally:
            with self._lock:
                self._in_lines -= 1
        if call.error is not None and call.result is None and call.is_late:
            # The callers of a batch do not share one error object.
            raise BrokerError(str(call.error), lasting=call.error.lasting) from call.error.__cause__
        return call

    # -- the end of patience

    @property
    def _is_mine(self) -> bool:
        """Whether this is not the copy that a child has of the calls of its parent."""
        return self._process == os.getpid()

    def _patience(self, call: Call) -> float | None:
        if not self._is_mine:
            return None
        if call.phase is Phase.SENT:
            return max(0.0, call.deadline + SENDING - clock.real())
        longest = STUCK if call.line is self._main else STUCK_AT_LOCK
        return max(0.0, min(longest, call.deadline - clock.real()))

    def _lose_patience(self, call: Call) -> None:
        if not self._is_mine:
            return
        with self._lock:
            if call.phase is Phase.SENT:
                if clock.real() >= call.deadline + SENDING:
                    self._leave(call)
            elif call.phase is Phase.WAITS:
                if call.is_late:
                    self._leave(call)
                else:
                    call.line.let_lead(call)

    def _leave(self, call: Call) -> None:
        """Let *call* be over, in whatever phase it is. Called under the lock."""
        phase, line = call.phase, call.line
        if phase is Phase.OVER:
            return
        call.end(None, is_in_doubt=phase is Phase.SENT)
        if phase is Phase.WAITS and call in line.waiting:
            line.waiting.remove(call)
        if line.leader is call:
            self._hand_over(line)

    def _hand_over(self, line: Line) -> None:
        line.hand_over()
        if line.leader is None and line.channel is not None:
            self._of_channels.pop(line.channel, None)

    # -- batches

    def _lead(self, call: Call) -> None:
        """Send a batch, and let its calls know the outcome."""
        line, batch = call.line, [call]
        outcomes: Sequence[Outcome] = ()
        error: BrokerError | None = None
        try:
            with self._lock:
                batch = line.take(call)
            wanted, deadline = [each.wanted for each in batch], min(each.deadline for each in batch)
            outcomes = self._send(wanted, deadline, line is not self._main)
        except BrokerError as raised:
            error = raised
        finally:
            with self._lock:
                # In reverse: those that wait again come before the others, in their order.
                for index in range(len(batch) - 1, -1, -1):
                    if batch[index].phase is not Phase.SENT:
                        continue
                    if outcomes:
                        self._decide(batch[index], outcomes[index])
                    else:
                        self._fail(batch[index], error)
                if line.leader is call:
                    self._hand_over(line)
            for each in batch:
                if each is not call and each.phase is Phase.OVER:
                    each.wake()

    def _decide(self, call: Call, outcome: Outcome) -> None:
        if not outcome.is_locked:
            call.end(outcome.result)
            return
        call.skip()
        name = call.wanted.channel
        if call.skipped < SKIPS and name not in self._of_channels:
            self._main.join(call, in_front=True)
        else:
            self._of_channels.setdefault(name, Line(name)).join(call, in_front=True)

    def _fail(self, call: Call, error: BrokerError | None) -> None:
        """Note that the batch of *call* has failed; without *error*, its leader was killed."""
        call.fail(error)
        cause = None if error is None else error.__cause__
        is_undone = state_of(cause) in UNDONE
        if is_undone and call.line is not self._main and not call.is_late:
            call.line.join(call, in_front=True)
            return
        # Without a free connection, nothing was sent.
        is_sent = error is None or cause is not None
        call.end(None, is_in_doubt=is_sent and not is_undone)
