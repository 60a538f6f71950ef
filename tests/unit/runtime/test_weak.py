"""Weak collections that other threads change while they are read."""

import sys
import weakref
from collections.abc import Iterator

from ssestream.runtime.weak import snapshot


class Member:
    pass


def test_all_living_members_are_there() -> None:
    members = [Member() for _ in range(3)]
    weak = weakref.WeakSet(members)
    del members[0]
    assert {*snapshot(lambda: weak)} == {*members}
    assert snapshot(weakref.WeakKeyDictionary({members[0]: 1}).items) == [(members[0], 1)]


def test_a_member_that_comes_meanwhile_is_no_error() -> None:
    weak: weakref.WeakSet[Member] = weakref.WeakSet()
    members = [Member() for _ in range(3)]
    weak.update(members[:2])

    def read() -> Iterator[Member]:
        for member in weak:
            weak.add(members[2])  # as another thread would, between two members
            yield member

    # From Python 3.14 on, a weak set iterates a copy of itself.
    there = members if sys.version_info < (3, 14) else members[:2]
    assert {*snapshot(read)} == {*there}
