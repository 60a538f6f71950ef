"""The exceptions, by cause."""

import concurrent.futures
import copy
import importlib
import inspect
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest

import ssestream
from ssestream import (
    BrokerError,
    BufferFull,
    ChannelEnded,
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


PACKAGE = Path(ssestream.__file__).parent


def exceptions() -> list[type[Exception]]:
    """The classes of exceptions of all modules of the package."""
    found: set[type[Exception]] = set()
    for file in PACKAGE.rglob("*.py"):
        if "(Exception)" in (text := file.read_text()) or "Error):" in text:
            path = file.relative_to(PACKAGE.parent).with_suffix("")
            module = importlib.import_module(".".join(path.parts).removesuffix(".__init__"))
            found.update(
                each
                for each in vars(module).values()
                if inspect.isclass(each)
                and issubclass(each, Exception)
                and each.__module__.partition(".")[0] == "ssestream"
            )
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


def made(kind: type[Exception]) -> Exception:
    """An error of *kind*, with a value for each of its arguments."""
    of_python = kind.__init__ if inspect.isfunction(kind.__init__) else lambda self, text: None
    _, *parameters = inspect.signature(of_python).parameters.values()
    named = {each.name: True for each in parameters if each.kind is each.KEYWORD_ONLY}
    error = kind(*(f"the {each.name}" for each in parameters if each.name not in named), **named)
    error.added = ["more"]  # type: ignore[attr-defined]
    return error


def by_pickle(error: Exception, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))


@pytest.mark.parametrize("kind", exceptions(), ids=lambda kind: kind.__name__)
def test_a_copy_of_an_error_is_equal_to_it(kind: type[Exception]) -> None:
    error = made(kind)
    copies = [copy.copy(error), copy.deepcopy(error)]
    copies += [by_pickle(error, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    # As often as the error goes from process to process.
    copies += [copy.copy(each) for each in copies]
    for each in copies:
        assert type(each) is kind
        assert str(each) == str(error)
        assert (each.args, vars(each)) == (error.args, vars(error))


class Worse(BrokerError):
    """An error of an app, with arguments of its own."""

    def __init__(self, host: str, *, port: int) -> None:
        super().__init__(f"{host} is down", lasting=True)
        self.port = port


def test_a_subclass_of_an_app_is_copied_too() -> None:
    again = by_pickle(Worse("db", port=5), pickle.DEFAULT_PROTOCOL)
    assert (type(again), str(again), again.port, again.lasting) == (Worse, "db is down", 5, True)


def fail() -> None:
    raise ChannelEnded("news")


def test_an_error_of_a_job_comes_out_of_its_process() -> None:
    spawn = multiprocessing.get_context("spawn")
    jobs = concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn)
    with jobs, pytest.raises(ChannelEnded, match=r"^the channel 'news' has ended, and takes no"):
        jobs.submit(fail).result()
