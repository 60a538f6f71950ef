"""Whether the broker can be used now, and what the log says about that."""

import logging
import time
from typing import Literal

from ..errors import BrokerError
from ..runtime.clock import clock
from ..runtime.loop import logger
from .tasks import spawn

#: Seconds without a failure after which the broker counts as steady again.
STEADY = 10.0

State = Literal["idle", "listening", "down"]


class Health:
    """The state of one broker in one process.

    Only the listener changes the state. A reader that meets an error notes the error here, and
    the listener raises it.
    """

    def __init__(self) -> None:
        self.state: State = "idle"
        #: Whether the broker failed again soon after it came back.
        self.is_unsteady = False
        # The last error that was logged, and the time when the broker last came back.
        self._logged: str | None = None
        self._back_at = -STEADY
        # Whether `_await_steadiness` runs.
        self._is_awaiting = False
        # An error that a reader met, until the listener raises it.
        self._failure: BrokerError | None = None

    @property
    def is_down(self) -> bool:
        return self.state == "down"

    def idle(self) -> None:
        """Set the state to ``"idle"``, because no stream follows any channel."""
        self.state = "idle"

    def down(self, error: BrokerError) -> None:
        """Set the state to ``"down"``, and log *error* unless it repeats too often."""
        if self.is_down:
            return
        was_unsteady, words = self.is_unsteady, str(error)
        self.is_unsteady = clock.real() < self._back_at + STEADY
        # A broker that comes and goes fails with the same error again and again. Log the first
        # two failures only.
        if not (was_unsteady and self.is_unsteady and words == self._logged):
            lasts = " an operator must correct this;" if error.lasting else ""
            level = logging.ERROR if error.lasting else logging.WARNING
            logger.log(level, "channels: %s;%s the streams stay open meanwhile", words, lasts)
        self._logged = words
        self.state = "down"

    def up(self) -> None:
        """Set the state to ``"listening"``, and log that the broker is back if it was down."""
        if self.is_down:
            self._back_at = clock.real()
            if not self.is_unsteady:
                logger.warning("channels: the broker is back")
            elif not self._is_awaiting:
                self._is_awaiting = True
                spawn(self._await_steadiness)
        self.state = "listening"

    def _await_steadiness(self) -> None:
        """Log that the broker is back, once it has worked for `STEADY` seconds."""
        try:
            while self.is_unsteady and self.state != "idle":
                left = self._back_at + STEADY - clock.real()
                if left <= 0 and self.state == "listening":
                    logger.warning("channels: the broker is back")
                    break
                time.sleep(max(left, STEADY / 4))
        finally:
            self.is_unsteady = self._is_awaiting = False

    def note(self, failure: BrokerError) -> None:
        """Keep *failure*, which a reader met, for the listener."""
        self._failure = failure

    def take_failure(self) -> BrokerError | None:
        """The failure that a reader met since the last call, if any."""
        failure, self._failure = self._failure, None
        return failure
