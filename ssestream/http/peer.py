"""unread(): how many received bytes the process at the other end has not read yet.

The kernel of a slow client may hold a hundred kilobytes or more. While the client reads
these, its kernel tells the sender nothing: over loopback it opens the window only once,
when all of them are read. So a client that reads slowly looks like a client that is stuck.

If the other end is on this host, as a proxy often is, this kernel knows. It answers over
netlink (see sock_diag(7)), and a process may ask for any socket of its network namespace.
If the other end is on another host or in another namespace, no socket is found.
"""

import socket
import struct
from typing import Any

from gevent import monkey

# The unpatched socket class, because the question must not switch greenlets.
_Socket: Any = monkey.get_original("socket", "socket")

# The constants and structs are from linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
_SOCK_DIAG = 4
_BY_FAMILY, _REQUEST = 20, 1
_LISTEN, _CLOSED = 10, 7
_ANY_STATE = _ANY_COOKIE = 0xFFFFFFFF

# The header of a netlink message, then the fields before the socket's name: family, protocol
# and others.
_HEADER = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBBI")
_FOUND = struct.Struct("=BBBB")
# The socket's name: two ports and two addresses. After it come an interface and a cookie.
_NAME = struct.Struct("!HH16s16s")
_REST = struct.Struct("=III")
# After the name in the answer: when the socket's timer is due, and the bytes to read.
_COUNTS = struct.Struct("=II")


def unread(sock: Any) -> int | None:
    """Bytes that the peer of the TCP connection *sock* has received and not read.

    None if this is unknown.
    """
    try:
        here, there = sock.getsockname(), sock.getpeername()
        family = sock.family
        name = _NAME.pack(
            there[1], here[1], socket.inet_pton(family, there[0]), socket.inet_pton(family, here[0])
        )
        with _Socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as question:
            question.send(_question(family, name))
            answer: bytes = question.recv(1024, socket.MSG_DONTWAIT)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, struct.error):
        # *sock* is no TCP connection or is closed, or this system has no sock_diag.
        return None
    return _unread(answer, name)


def _question(family: int, name: bytes) -> bytes:
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE)
    rest = _REST.pack(0, _ANY_COOKIE, _ANY_COOKIE)
    length = _HEADER.size + len(asked) + len(name) + len(rest)
    return _HEADER.pack(length, _BY_FAMILY, _REQUEST, 0, 0) + asked + name + rest


def _unread(answer: bytes, name: bytes) -> int | None:
    at_name = _HEADER.size + _FOUND.size
    at_counts = at_name + _NAME.size + _REST.size
    if len(answer) < at_counts + _COUNTS.size or _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return None
    state = _FOUND.unpack_from(answer, _HEADER.size)[1]
    # If no such connection exists, the kernel answers with a listener on its port.
    if state in (_LISTEN, _CLOSED) or not answer.startswith(name[:4], at_name):
        return None
    return int(_COUNTS.unpack_from(answer, at_counts)[1])
