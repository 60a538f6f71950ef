"""The exceptions, by cause."""

import pytest

from ssestream import (
    BrokerError,
    BufferFull,
    ClientDisconnected,
    HeadersSent,
    MessageError,
    SseStreamError,
    StreamDestroyed,
    StreamError,
    WriteAfterEnd,
)


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (MessageError, ValueError),
        (BrokerError, SseStreamError),
        (WriteAfterEnd, StreamError),
        (HeadersSent, StreamError),
        (BufferFull, StreamError),
        (StreamDestroyed, StreamError),
        (ClientDisconnected, StreamDestroyed),
    ],
)
def test_an_error_is_caught_by_its_cause_and_by_the_root(
    error: type[Exception], also: type[Exception]
) -> None:
    for kind in (also, SseStreamError):
        with pytest.raises(kind):
            raise error("why")


def test_errors_of_different_causes_are_not_caught_together() -> None:
    assert not issubclass(StreamError, ValueError)
    assert not issubclass(BrokerError, StreamError)
    assert not issubclass(MessageError, StreamError)


def test_a_message_error_names_the_field() -> None:
    assert MessageError("id must be text", "id").field == "id"
    assert MessageError("a message is a dict").field is None
    assert str(MessageError("id must be text", "id")) == "id must be text"


def test_a_broker_error_passes_unless_an_operator_must_act() -> None:
    assert not BrokerError("is loading").lasting
    assert BrokerError("wrong password", lasting=True).lasting
