"""The performance goals of this project, and whether a run has reached them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    measure: str
    clients: int
    quantity: str
    contender: str
    #: The ratio is to this contender; None means an absolute number.
    reference: str | None
    #: One of these two bounds is given: the least ratio, or the greatest.
    least: float | None = None
    most: float | None = None

    def kept_by(self, value: float) -> bool:
        if self.least is not None and value < self.least:
            return False
        return self.most is None or value <= self.most

    @property
    def bound(self) -> str:
        return f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"


PROMISES = (
    Promise("fanout", 1000, "rate", "ours-gevent", "generator", least=1.3),
    Promise("fanout", 1000, "rate", "ours-worker", "generator", least=4.5),
    Promise("fanout", 1000, "rate", "ours-gevent", "npm-ssestream", least=0.85),
    Promise("fanout", 1000, "rate", "ours-worker", "npm-ssestream", least=3.0),
    Promise("fanout", 1000, "cpu", "ours-worker", "floor", most=1.3),
    Promise("burst", 1000, "rate", "ours-gevent", "npm-ssestream", least=15),
    Promise("burst", 1000, "rate", "ours-worker", "npm-ssestream", least=30),
    Promise("fanout", 5000, "rate", "ours-worker", "nchan", least=1.3),
    Promise("latency", 1000, "p99", "ours-worker", "floor", most=1.3),
    Promise("memory", 10_000, "own", "ours-gevent", None, most=16),
    Promise("memory", 10_000, "own", "ours-worker", None, most=4),
    Promise("connect", 0, "rate", "ours-gevent", "generator", least=0.9),
    Promise("connect", 0, "rate", "ours-worker", "generator", least=0.9),
)
