"""What a response tells each stream that is piped into it, and what it asks."""

from collections.abc import Callable

from ssestream.http.inlet import Inlet
from ssestream.http.outgoing import OutgoingMessage, body_of


class Noting(Inlet):
    """An inlet that notes what it is told, and holds two frames."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def drained(self) -> None:
        self.told.append("drained")

    def closed(self) -> None:
        self.told.append("closed")

    def retired(self, dropping: bool) -> list[bytes]:
        self.told.append(f"retired, dropping={dropping}")
        return [b"data: held\n\n", b"data: too\n\n"]

    def waiting(self) -> int:
        return 20


def test_an_inlet_is_told_of_the_drain_and_of_the_close_once() -> None:
    res, inlet = OutgoingMessage(high_water_mark=10), Noting()
    body = body_of(res)
    body.add_inlet((inlet,))
    assert res.write(b"x" * 10) is False
    assert next(body) == b"x" * 10
    assert inlet.told == []
    res.end(b"y")
    assert next(body) == b"y"
    assert list(body) == []
    assert inlet.told == ["drained", "closed"]
    res.destroy()
    assert inlet.told == ["drained", "closed"]


def test_the_frames_of_an_inlet_are_sent_before_the_response_is_retired() -> None:
    res, inlet = OutgoingMessage(), Noting()
    body = body_of(res)
    body.add_inlet((inlet,))
    res.write(b"data: first\n\n")
    body.retire("shutdown")
    sent = b"".join(body)
    assert sent.startswith(
        b"data: first\n\ndata: held\n\ndata: too\n\nevent: ssestream-retry\nretry: "
    )
    assert inlet.told == ["retired, dropping=False", "closed"]


def test_a_response_that_is_refused_sends_no_frame_of_an_inlet() -> None:
    res, inlet = OutgoingMessage(), Noting()
    body = body_of(res)
    body.add_inlet((inlet,))
    body.retire("refused")
    assert b"held" not in b"".join(body)
    assert inlet.told == ["retired, dropping=True", "closed"]


def test_what_an_inlet_holds_waits_for_the_client_too() -> None:
    res = OutgoingMessage()
    body = body_of(res)
    body.add_inlet((Noting(),))
    body.add_inlet((Noting(),))
    res.write(b"x")
    assert body.waiting() == 41


def test_an_inlet_that_has_parted_is_told_nothing_and_the_other_stays() -> None:
    res, first, second = OutgoingMessage(), Noting(), Noting()
    body = body_of(res)
    body.add_inlet((first,))
    body.add_inlet((second,))
    body.remove_inlet(first)
    body.remove_inlet(first)
    assert body.inlets == (second,)
    res.destroy()
    assert (first.told, second.told) == ([], ["closed"])


def test_an_inlet_holds_nothing_by_itself() -> None:
    inlet = Inlet()
    assert (inlet.retired(False), inlet.waiting()) == ([], 0)
    assert (inlet.is_writing, inlet.after_write(lambda: None)) == (False, False)


class Writing(Noting):
    """An inlet that is in the middle of a write."""

    def __init__(self) -> None:
        super().__init__()
        self.later: list[Callable[[], object]] | None = []

    @property
    def is_writing(self) -> bool:
        return self.later is not None

    def after_write(self, function: Callable[[], object]) -> bool:
        if self.later is None:
            return False
        self.later.append(function)
        return True

    def finish(self) -> None:
        later, self.later = self.later, None
        for function in later or ():
            function()


def test_a_response_that_is_retired_waits_for_all_inlets_that_are_writing() -> None:
    res, inlets = OutgoingMessage(), [Writing(), Noting(), Writing()]
    body = body_of(res)
    for inlet in inlets:
        body.add_inlet((inlet,))
    body.retire("age")
    first, _, last = inlets
    assert isinstance(first, Writing)
    assert isinstance(last, Writing)
    res.write(b"data: of the first\n\n")
    first.finish()
    res.write(b"data: of the last\n\n")
    last.finish()
    assert res.write(b"data: late\n\n") is False
    held = b"data: held\n\ndata: too\n\n"
    written = b"data: of the first\n\ndata: of the last\n\n"
    assert b"".join(body).startswith(written + held * 3 + b"event: ssestream-retry\n")
