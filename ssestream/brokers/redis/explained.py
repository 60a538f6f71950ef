"""Raise this package's errors for those of redis-py."""

import contextlib
from collections.abc import Iterator

from ..broker import BrokerError, Busy, ChannelError
from .errors import ERRORS, is_lasting, is_of_channel, lack_of_memory
from .pool import NoTurn
from .target import Target


@contextlib.contextmanager
def explained(target: Target, channel: str | None) -> Iterator[None]:
    """Raise a `BrokerError` for an error of redis-py.

    Raises a `ChannelError` if the error concerns only *channel*, and `Busy` for a lack of
    free connections. *channel* is None if the commands do not concern exactly one channel.
    """
    try:
        yield
    except NoTurn as error:
        raise Busy(f"{target.where}: {error}") from None
    except ERRORS as error:
        text = target.explain(error)
        if channel is not None and is_of_channel(error):
            raise ChannelError(channel, text) from error
        raise BrokerError(text, lasting=is_lasting(error)) from error
    except ValueError as error:
        lack = lack_of_memory(error)
        if lack is None:
            raise
        raise BrokerError(target.explain(lack)) from error
