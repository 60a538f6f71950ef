"""What a broker knows of tickets: which were used, and the keys whose tickets are revoked.

Each is a channel of its own with a small log, which deletes itself.
"""

import hashlib
import hmac
import time
from collections.abc import Hashable

from ..brokers.broker import CONTROL, Bounds, Broker, Refused, Terms
from ..plain import unproxied

#: The greatest life of a ticket in seconds. Marks are kept so long.
LONGEST = 24 * 3600.0

#: Seconds by which the clocks of two hosts may differ.
CLOCKS = 1.0

#: Seconds for which a mark outlives its ticket.
_AFTER = 60.0

_USED, _REVOKED = CONTROL + b"ticket used", CONTROL + b"tickets revoked"

#: The most bytes of an entry that is read here.
_SMALL = 1000


def use_up(broker: Broker, id: str, browser: str, expires_at: float, grace: float | None) -> bool:
    """Use the ticket *id* up for *browser*. Return False if it was used up before.

    The same *browser* may use it again within *grace* seconds; None means until *expires_at*.
    Raises `BrokerError`.
    """
    now = time.time()
    name, digest = f"ticket:{id}", digest_of(browser)
    frame = b"%b %b %.3f" % (_USED, digest.encode(), now)
    try:
        broker.append(name, frame, Terms(new=True, ttl=max(0.0, expires_at - now) + _AFTER))
    except Refused:
        pass
    else:
        return True
    entries = broker.read(name, 0, 1, _SMALL).entries
    if not entries or not entries[0].frame.startswith(_USED):
        return False
    by, at = entries[0].frame.decode().split(" ")[2:]
    is_late = grace is not None and now > float(at) + grace
    return hmac.compare_digest(by, digest) and not is_late


def revoke(broker: Broker, salt: str, key: Hashable) -> None:
    """Mark all tickets of *key* that were issued until now as revoked. Raises `BrokerError`."""
    frame = b"%b %.3f" % (_REVOKED, time.time())
    terms = Terms(bounds=Bounds(1, None), ttl=LONGEST + _AFTER)
    broker.append(_name_of(salt, key), frame, terms)


def is_revoked(broker: Broker, salt: str, key: Hashable, issued_at: float) -> bool:
    """Whether a ticket of *key* that was issued at *issued_at* is revoked.

    Raises `BrokerError`.
    """
    name = _name_of(salt, key)
    piece = broker.read(name, 0, 1, _SMALL)
    if piece.entries and piece.entries[-1].number < piece.last:
        # Of several marks the newest counts.
        piece = broker.read(name, piece.last - 1, 1, _SMALL)
    if not piece.entries:
        # An empty log that has had entries may have lost its mark.
        return piece.last > 0
    frame = piece.entries[-1].frame
    if not frame.startswith(_REVOKED):
        return True
    return issued_at <= float(frame.decode().rpartition(" ")[2]) + CLOCKS


def _name_of(salt: str, key: Hashable) -> str:
    return f"tickets:{digest_of(f'{salt} {unproxied(key)!r}')}"


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]
