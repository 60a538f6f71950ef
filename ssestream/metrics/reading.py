"""The numbers of the streams of this process, read from their registry."""

from ..http.registry import REASONS, statistics
from .number import Labels, Number

ONE: Labels = ()


def read() -> list[Number]:
    """The numbers of all streams at this moment."""
    now = statistics()

    def counter(name: str, text: str, value: float) -> Number:
        return Number(name, "counter", text, (), {ONE: value})

    return [
        Number("open_streams", "gauge", "Streams that are open now.", (), {ONE: now.open}),
        counter("opened_streams", "Streams that were opened.", now.opened),
        Number(
            "closed_streams",
            "counter",
            "Streams that are over, by the cause of their end.",
            ("cause",),
            # Each cause is there from the beginning: a rate needs the zero before the first.
            {(cause,): now.closed.get(cause, 0) for cause in REASONS},
        ),
        counter(
            "refused_streams", "Streams that were refused, as there were too many.", now.refused
        ),
        counter("messages", "Messages that servers have taken.", now.messages),
        counter("message_bytes", "Bytes of these messages.", now.bytes),
        counter("dropped_messages", "Messages dropped by overflow='drop-oldest'.", now.dropped),
        counter("heartbeats", "Heartbeats that were sent.", now.heartbeats),
        Number(
            "waiting_bytes",
            "gauge",
            "Bytes that wait for the clients of all open streams.",
            (),
            {ONE: now.waiting},
        ),
    ]
