"""A socket of a descriptor that somebody else closes."""

import gc
import os
import socket
from collections.abc import Iterator

import pytest

from ssestream.http.lent_socket import LentSocket

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_it_is_the_socket_of_its_descriptor(pair: Pair) -> None:
    lent = LentSocket(pair[0].fileno())
    assert lent.fileno() == pair[0].fileno()
    assert lent.family == socket.AF_UNIX
    lent.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert pair[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_whoever_drops_it_leaves_the_descriptor_open(pair: Pair) -> None:
    lent = LentSocket(pair[0].fileno())
    del lent
    gc.collect()
    pair[0].send(b"open")
    assert pair[1].recv(4) == b"open"


def test_its_descriptor_is_gone_when_the_owner_has_closed_it(pair: Pair) -> None:
    lent = LentSocket(pair[0].fileno())
    pair[0].close()
    assert lent.fileno() == -1


def test_a_new_file_with_the_number_is_another_one(pair: Pair) -> None:
    number = pair[0].fileno()
    lent = LentSocket(number)
    with socket.socket() as other:
        os.dup2(other.fileno(), number)
        assert lent.fileno() == -1


def test_it_leaves_to_the_owner_whether_the_socket_blocks(pair: Pair) -> None:
    pair[0].settimeout(5)
    assert LentSocket(pair[0].fileno()).gettimeout() is None


def test_a_descriptor_of_something_else_is_refused() -> None:
    with open(os.devnull) as file, pytest.raises(OSError, match="socket"):
        LentSocket(file.fileno())
