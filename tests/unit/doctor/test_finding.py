"""The findings of the doctor, as a terminal shows them."""

from ssestream.doctor.finding import WIDTH, fault, note, ok, with_names


def test_a_finding_says_what_was_seen_why_it_matters_and_what_to_change() -> None:
    finding = fault("no head within 10 s", "the view has not returned", "return the response")
    assert str(finding).splitlines() == [
        "fault   no head within 10 s",
        "          why: the view has not returned",
        "          change: return the response",
    ]
    assert str(ok("status 200")) == "ok      status 200"


def test_long_text_is_wrapped_and_names_stay_whole() -> None:
    name = "SSESTREAM_MAX_STREAMS_PER_CLIENT"
    lines = str(note("a word " * 30, f"{name} " * 10, "x" * 200)).splitlines()
    assert len(lines) > 8
    assert all(len(line) <= WIDTH or "xxx" in line for line in lines)
    assert sum(line.count(name) for line in lines) == 10
    assert all(line.startswith(" " * 8) for line in lines[1:])


def test_what_a_server_says_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in str(fault("to '\x1b[2J'", "why", "change"))
    assert "\\x1b[2J" in str(fault("to '\x1b[2J'", "why", "change"))


def test_a_finding_that_several_have_is_told_once_with_their_names() -> None:
    a, b, c = ok("version 7"), ok("version 6"), note("no room", "slow", "more room")
    found = [("one", a), ("one", c), ("two", a), ("two", c), ("three", b), ("three", c)]
    assert [each.seen for each in with_names(found, "all three")] == [
        "one, two: version 7",
        "all three: no room",
        "three: version 6",
    ]
    (left,) = with_names([("one", c)], "all")
    assert (left.seen, left.why, left.change) == ("one: no room", "slow", "more room")
