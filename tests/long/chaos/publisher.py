"""One publisher, in a process without gevent's patches: ``python -m tests.long.chaos.publisher``.

It numbers its messages for each channel. One that could not be published is
published again, unless the log has it: the answer may have been lost and not the
message. In the end it prints what it did, as JSON.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter

from ssestream import BrokerError, Channels
from tests.long.chaos import author, text

#: Seconds for which one message is tried. No outage is as long.
PATIENCE = 60.0


class Publisher:
    def __init__(self, channels: Channels, name: str) -> None:
        self.name = name
        #: Messages in each channel.
        self.published: Counter[str] = Counter()
        self.errors = 0
        #: Of those that raised, the ones that had been stored.
        self.found = 0
        self._channels = channels

    def publish(self, channel: str) -> None:
        number = self.published[channel] + 1
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._channels.publish(channel, {"data": text(channel, self.name, number)})
                break
            except BrokerError:
                self.errors += 1
                if time.monotonic() > deadline:
                    raise
            if self._last(channel, deadline) == number:
                self.found += 1
                break
        self.published[channel] = number

    def _last(self, channel: str, deadline: float) -> int:
        """The number of the newest of its own messages in the log, when that can be asked."""
        limit = 100
        while True:
            try:
                messages = self._channels.history(channel, limit)
            except BrokerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            for message in reversed(messages):
                _, publisher, number = author(str(message["data"]))
                if publisher == self.name:
                    return number
            if len(messages) < limit:
                return 0
            limit *= 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--history", type=int, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("channels", nargs="+")
    arguments = parser.parse_args()
    assert "gevent" not in sys.modules or not sys.modules["gevent"].monkey.saved

    dice = random.Random(f"{arguments.seed}:{arguments.name}")
    publisher = Publisher(Channels(arguments.url, history=arguments.history), arguments.name)
    began = time.monotonic()
    done = 0
    while done < arguments.messages:
        # In bursts; one that an outage has held up makes up for it.
        for _ in range(min(dice.randint(1, 40), arguments.messages - done)):
            publisher.publish(dice.choice(arguments.channels))
            done += 1
        due = began + done / arguments.messages * arguments.seconds
        time.sleep(max(0.0, due - time.monotonic()))
    print(
        json.dumps(
            {
                "published": publisher.published,
                "errors": publisher.errors,
                "found": publisher.found,
            }
        )
    )


if __name__ == "__main__":
    main()
