"""A publisher in a process of its own, told what to do: ``python -m tests.long.hosts.publisher``.

Each line of its input is JSON: channels, and what to do with them.

``{"names": [...], "number": 5}``
    Publish the message of this number once to each channel. There is no answer.
``{"names": [...], "seconds": 4.0}``
    Publish to the channels in turn, one message after another. The answer has the number of
    messages and the seconds.
``{"names": [name], "first": 6, "pace": 20}``
    Publish so many messages a second until the next line comes. The answer has the number of the
    last one.
"""

import argparse
import itertools
import json
import select
import sys
import time
from typing import Any

from ssestream import BrokerError, Channels

#: Characters of a message.
SIZE = 100

#: Seconds for which one message is tried. No outage is as long.
PATIENCE = 60.0


def text(number: int) -> str:
    """The data of a message: its number, and when it was published."""
    return f"{number} {time.monotonic():.6f} ".ljust(SIZE, ".")


class Publisher:
    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def do(self, command: dict[str, Any]) -> dict[str, Any] | None:
        names = command["names"]
        if "number" in command:
            for name in names:
                self._channels.publish(name, {"data": text(command["number"])})
            return None
        if "seconds" in command:
            return self._publish_for(names, command["seconds"])
        return {"last": self._publish_until_told(names[0], command["first"], command["pace"])}

    def _publish_for(self, names: list[str], seconds: float) -> dict[str, float]:
        began = time.monotonic()
        for number in itertools.count(1):
            self._channels.publish(names[number % len(names)], {"data": text(number)})
            passed = time.monotonic() - began
            if passed >= seconds:
                return {"messages": number, "seconds": passed}
        raise AssertionError

    def _publish_until_told(self, name: str, first: int, pace: float) -> int:
        began = time.monotonic()
        for number in itertools.count(first):
            due = began + (number - first) / pace
            wait = max(0.0, due - time.monotonic())
            if select.select([sys.stdin], [], [], wait)[0]:
                sys.stdin.readline()
                return number - 1
            self._publish(name, number)
        raise AssertionError

    def _publish(self, name: str, number: int) -> None:
        """Until it is stored, and only once."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._channels.publish(name, {"data": text(number)})
                return
            except BrokerError:
                if time.monotonic() > deadline:
                    raise
            # The answer may have been lost and not the message.
            if self._last(name, deadline) == number:
                return

    def _last(self, name: str, deadline: float) -> int | None:
        """The number of the newest message of the log, when that can be asked."""
        while True:
            try:
                newest = self._channels.history(name, 1)
            except BrokerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            return int(str(newest[0]["data"]).split(" ")[0]) if newest else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    arguments = parser.parse_args()
    publisher = Publisher(Channels(arguments.url))
    while line := sys.stdin.readline():
        answer = publisher.do(json.loads(line))
        if answer is not None:
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
