"""What the process at the other end has not read is known, if it is on this host."""

import socket

import pytest

from ssestream.http.peer import unread
from tests.kit.pair import pair_over
from tests.kit.visit import until


@pytest.mark.parametrize("line", ["tcp", "tcp6", "tls"])
def test_what_the_other_end_has_not_read_is_known_on_this_host(
    line: str, certificate: tuple[str, str]
) -> None:
    server, client = pair_over(line, certificate)
    with server, client:
        before = unread(server)
        assert before is not None
        server.sendall(b"x" * 1000)
        until(lambda: unread(server) >= before + 1000, "the bytes")
        client.settimeout(60)
        received = 0
        while received < 1000:
            received += len(client.recv(1000))
        assert unread(server) == 0


def test_what_is_no_connection_has_no_other_end() -> None:
    left, right = socket.socketpair()
    with left, right, socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = listener.accept()
            assert [unread(each) for each in (left, listener, None, socket)] == [None] * 4
            client.close()
            served.close()
            assert unread(served) is None
            assert unread(client) is None
