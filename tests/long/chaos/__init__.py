"""Chaos: publishers, workers and clients in disorder, and registry that must balance.

``python -m tests.long.chaos --url sqlite --seed 1``. Publishers in processes of their
own write numbered messages; clients follow them through gunicorn as an
EventSource does, and leave and come back at random; meanwhile workers are killed
and reloaded, and Redis is stopped, killed, frozen and started. Afterwards each
client holds every message of its channels exactly once and in order.

With ``--own`` each client has a channel of its own: ``--own --clients 5000 --url redis``.

The seed decides what is done and when, not what comes of it. It takes minutes
and is run by hand or by ``tox -e chaos``; pytest runs a short form of it.
"""

import zlib


def text(channel: str, publisher: str, number: int) -> str:
    """The data of one message, some lines, so that it cannot be taken for another."""
    head = f"{channel} {publisher} {number}"
    dice = zlib.crc32(head.encode())
    # Most are short; some do not fit into one packet.
    size = dice % 500 if dice % 50 else 20_000
    return head + "\n" + (head + "\n") * (size // len(head))


def author(data: str) -> tuple[str, str, int]:
    """Channel, publisher and number of a message with this *data*. Raises ``ValueError``."""
    channel, publisher, number = data.partition("\n")[0].split(" ")
    if data != text(channel, publisher, int(number)):
        raise ValueError(f"a message is not what was written: {data[:100]!r}")
    return channel, publisher, int(number)
