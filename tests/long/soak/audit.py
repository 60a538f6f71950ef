"""Whether the registry balance: what clients saw, what the ledger says, what is counted."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ssestream.http.output import CHUNK
from tests.long.soak.client import Answer

#: Causes upon which the server has sent everything, and says so with a clean end.
COMPLETE = {"ended", "age", "refused"}


class Audit:
    """Grows visit by visit, so that nothing is kept of those that are in order."""

    def __init__(self) -> None:
        self.mismatches: list[str] = []
        #: By what may have become of them: how many of the streams.
        self.allowed: Counter[frozenset[str | None]] = Counter()
        self.totals: Counter[str] = Counter()
        self.by_behaviour: dict[str, Counter[str]] = {}
        self._waiting: dict[str, tuple[Answer, str]] = {}
        self._pages: dict[str, dict[str, Any]] = {}

    def saw(self, behaviour: str, connections: int, answers: Iterable[Answer]) -> None:
        """What a visit has seen, which is over."""
        row = self.by_behaviour.setdefault(behaviour, Counter())
        row["visits"] += 1
        row["connections"] += connections
        for answer in answers:
            self._waiting[answer.key] = (answer, behaviour)
            self._match(answer.key)

    def told(self, pages: Iterable[dict[str, Any]]) -> None:
        """What the server's ledger says."""
        for page in pages:
            self._pages[page["key"]] = page
            self._match(page["key"])

    def conclude(self) -> None:
        """All are there; who has no page was never known to the app."""
        for key in list(self._waiting):
            self._pages.setdefault(key, {})
            self._match(key)
        for key in self._pages:
            self._wrong(key, "?", "is in the ledger, and nobody asked for it")

    def _wrong(self, key: str, behaviour: str, sentence: str) -> None:
        self.mismatches.append(f"stream {key} ({behaviour}): {sentence}")

    def _match(self, key: str) -> None:
        if key not in self._waiting or key not in self._pages:
            return
        answer, behaviour = self._waiting.pop(key)
        page = self._pages.pop(key)
        if not page:
            page = {"opened": None, "cause": None, "closes": None, "messages": 0, "bytes": 0}
            page |= {"given": 0, "in_hand": 0, "given_messages": 0, "in_hand_messages": 0}
        outcome = "refused" if page["opened"] is False else page["cause"]
        row = self.by_behaviour[behaviour]
        row["streams"] += 1
        row["answered"] += answer.answered
        row["clean"] += answer.clean and not answer.head
        row["messages"] += answer.messages
        row["beats"] += answer.beats
        row["never opened" if outcome is None else outcome] += 1
        self.allowed[frozenset(answer.may_be)] += 1
        self.totals.update(
            {
                "messages": page["messages"],
                "bytes": page["bytes"],
                "received": answer.messages,
                "beats": answer.beats,
                "missed": answer.missed,
                "answered": answer.answered and not answer.head,
                "opened unanswered": bool(page["opened"]) and not answer.answered,
            }
        )
        for sentence in [*answer.faults, *_wrongs(answer, page, outcome)]:
            self._wrong(key, behaviour, sentence)

    def total(self, counts: dict[str, Any]) -> None:
        """Compare with what ``statistics()`` says in the end."""
        totals = self.totals
        closed = counts["closed"]

        def equal(what: str, counted: int, seen: int) -> None:
            if counted != seen:
                self.mismatches.append(f"{what}: {counted} are counted, and {seen} were seen")

        equal("streams still open", counts["open"], 0)
        equal("bytes still waiting", counts["waiting"], 0)
        equal("streams closed, of those opened", sum(closed.values()), counts["opened"])
        equal(
            "streams opened or refused",
            counts["opened"] + counts["refused"],
            totals["answered"] + totals["opened unanswered"],
        )
        for cause in sorted({*closed, *(c for set_ in self.allowed for c in set_ if c)}):
            least, most = self.bounds(cause)
            counted = counts["refused"] if cause == "refused" else closed.get(cause, 0)
            if not least <= counted <= most:
                self.mismatches.append(
                    f"closed as {cause!r}: {counted} are counted, and from what clients saw"
                    f" it is {least} to {most}"
                )
        equal("messages", counts["messages"], totals["messages"])
        equal("bytes", counts["bytes"], totals["bytes"])
        equal("heartbeats", counts["heartbeats"], totals["beats"])
        equal("dropped messages", counts["dropped"], totals["missed"])

    def bounds(self, cause: str) -> tuple[int, int]:
        """How many streams must have ended so, and how many may have."""
        least = self.allowed[frozenset([cause])]
        return least, sum(n for causes, n in self.allowed.items() if cause in causes)


def _wrongs(answer: Answer, page: dict[str, Any], outcome: str | None) -> Iterable[str]:
    if outcome not in answer.may_be:
        names = " or ".join(sorted(str(each) for each in answer.may_be))
        yield (
            f"its cause is {outcome}, and from what its client saw it is {names};"
            f" its client has status {answer.status} and {answer.bytes} bytes, its page is {page}"
        )
    if page["closes"] not in (None, 1):
        yield f'it emitted "close" {page["closes"]} times'
    if answer.answered and not answer.head and page["opened"] is None:
        yield "its client has a head, and the server never opened it"
    counted, given = page["bytes"], page["given"]
    if outcome in COMPLETE:
        if counted != given:
            yield f"{counted} bytes are counted, and the server was given {given}"
    elif counted not in (given, given - page["in_hand"]):
        yield (
            f"{counted} bytes are counted, and the server was given {given},"
            f" the last {page['in_hand']} perhaps not sent"
        )
    if answer.bytes > given:
        yield f"its client has {answer.bytes} bytes, and the server was given {given}"
    if answer.clean and not answer.head:
        if outcome not in COMPLETE:
            yield f"its client got a clean end, and its cause is {outcome}"
        if (answer.messages, answer.bytes) != (page["messages"], counted):
            yield (
                f"its client read all of {answer.messages} messages and {answer.bytes} bytes,"
                f" and {page['messages']} and {counted} are counted"
            )
    elif answer.size <= CHUNK:  # larger ones leave in pieces
        sure = page["given_messages"] - page["in_hand_messages"]
        if page["messages"] not in (sure, page["given_messages"]):
            yield (
                f"{page['messages']} messages are counted, and the server was given"
                f" {page['given_messages']}, the last {page['in_hand_messages']} perhaps not sent"
            )
    if answer.messages > page["given_messages"]:
        yield "its client has more messages than the server was given"
    read_it_all = answer.over and outcome in COMPLETE
    if answer.whole is not None and read_it_all and answer.messages != answer.whole:
        yield f"its client has {answer.messages} messages of {answer.whole}"
