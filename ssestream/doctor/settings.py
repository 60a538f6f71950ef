"""The settings of an app's streams, against proxies and the limits of the process."""

import logging
import resource
from collections.abc import Iterator

from ..config import app_settings
from ..runtime.loop import logger
from ..settings import Settings
from .finding import Finding, fault, note, ok

#: Seconds after which nginx and most proxies cut a silent connection, and after which the
#: strictest of the known hosts do.
PROXIES_CUT, STRICT_PROXIES_CUT = 60, 30

#: Seconds of a stream below which browsers come back so often that it costs.
SHORT_AGE = 60

#: Descriptors that a worker needs besides one for each stream: files, listeners, brokers.
MORE_DESCRIPTORS = 50


def examine_settings() -> Iterator[Finding]:
    """Look at the settings of the current app."""
    try:
        with _Warnings() as said:
            settings = app_settings()
    except (TypeError, ValueError) as error:
        yield fault(
            f"a setting is wrong: {error}",
            "every view with a stream raises this error",
            "that line of the app's configuration",
        )
        return
    for text in said.texts:
        yield note(text, "the line has no effect", "that line of the app's configuration")
    yield from _heartbeat(settings)
    if settings.max_age is not None and settings.max_age < SHORT_AGE:
        yield note(
            f"SSESTREAM_MAX_AGE is {settings.max_age:g} s",
            "each browser comes back that often",
            "SSESTREAM_MAX_AGE = 3600, or below the longest response that the host allows",
        )
    after = settings.retry_after
    if isinstance(after, int) or after[0] == after[1]:
        yield note(
            f"SSESTREAM_RETRY_AFTER is {after}",
            "after a reload, all browsers come back at the same moment",
            "SSESTREAM_RETRY_AFTER = (1000, 5000)",
        )
    if settings.send_timeout is None:
        yield note(
            "SSESTREAM_SEND_TIMEOUT is None",
            "a client that takes nothing keeps its stream, and what waits for it, for ever",
            "SSESTREAM_SEND_TIMEOUT = 15",
        )
    if settings.max_streams is not None:
        yield examine_descriptors("SSESTREAM_MAX_STREAMS", settings.max_streams)


class _Warnings(logging.Filter):
    """A context manager that keeps the warnings of the package, instead of logging them."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.WARNING:
            self.texts.append(record.getMessage())
        return record.levelno != logging.WARNING

    def __enter__(self) -> "_Warnings":
        logger.addFilter(self)
        return self

    def __exit__(self, *error: object) -> None:
        logger.removeFilter(self)


def _heartbeat(settings: Settings) -> Iterator[Finding]:
    beat = settings.heartbeat
    change = "SSESTREAM_HEARTBEAT = 15, or nothing: 15 is the default"
    if beat is None:
        yield fault(
            "SSESTREAM_HEARTBEAT is None",
            f"nginx and most proxies cut a stream that is silent for {PROXIES_CUT} s, and some"
            " servers notice only by a heartbeat that a client has left",
            change,
        )
    elif beat >= PROXIES_CUT:
        yield fault(
            f"SSESTREAM_HEARTBEAT is {beat:g} s",
            f"nginx and most proxies cut a stream that is silent for {PROXIES_CUT} s",
            change,
        )
    elif beat >= STRICT_PROXIES_CUT:
        yield note(
            f"SSESTREAM_HEARTBEAT is {beat:g} s",
            f"some hosts cut a stream that is silent for {STRICT_PROXIES_CUT} s (docs/hosts.rst)",
            change,
        )
    else:
        yield ok(f"a heartbeat after {beat:g} s of silence")


# -- what the process has


def examine_descriptors(name: str, streams: int) -> Finding:
    """Compare *streams*, which the setting *name* allows, with the descriptors of this process.

    It is a note and no fault, because the server may have been given another limit.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and streams + MORE_DESCRIPTORS > limit:
        return note(
            f"{name} is {streams}, and this process may open {limit} files",
            "each stream takes a descriptor: a server with this limit accepts no client beyond it",
            f"LimitNOFILE={streams + 1000} in the unit of systemd, or ulimit -n",
        )
    return ok(f"{name} is {streams}, and this process may open {limit} files")
