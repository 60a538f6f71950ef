"""The servers of a group, such as the nodes of a cluster: asked one by one, each by its name."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis import exceptions
from redis.connection import parse_url

from ...brokers.redis.client import OPTIONS
from ...brokers.redis.errors import ERRORS
from ...brokers.redis.target import Target
from ..finding import Finding, fault

#: Host and port of a server.
Address = tuple[str, int]

#: Options of a URL that are not those of one server of a group.
_OF_GROUPS = ("host", "port", "db", "connection_class", "connection_pool", "decode_responses")

_ACCOUNTS = (exceptions.AuthenticationError, exceptions.AuthorizationError)


def name_of(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def words_of(error: BaseException, target: Target) -> str:
    """The text of *error* without passwords, and without the URL."""
    return target.explain(error).removeprefix(f"{target.where}: ")


def client_of(address: Address, target: Target, **changed: Any) -> Any:
    """A client for one server, with the options of the URL. *changed* replaces some of them."""
    options = OPTIONS | parse_url(target.url)
    if issubclass(options.get("connection_class", redis.Connection), redis.SSLConnection):
        options["ssl"] = True
    known = inspect.signature(redis.Redis).parameters.keys() - {*_OF_GROUPS}
    options = {name: value for name, value in options.items() if name in known}
    # The doctor reads answers without names, which differ in RESP 3.
    host, port = address
    return redis.Redis(host, port, **(options | {"protocol": 2} | changed))


@contextlib.contextmanager
def asked(client: Any, target: Target, lost: Callable[[str], Finding]) -> Iterator[list[Finding]]:
    """Collect findings while *client* answers. The client is closed at the end.

    :param lost: makes the finding for a server that does not answer, of the words of the error.
    """
    found: list[Finding] = []
    try:
        yield found
    except _ACCOUNTS as error:
        found.append(
            fault(
                f"does not take the account of the URL: {words_of(error, target)}",
                "accounts are not copied from server to server: commands at this one fail",
                "ACL SETUSER at this server, too (docs/channels.rst); ACL SAVE, or its redis.conf",
            )
        )
    except ERRORS as error:
        found.append(lost(words_of(error, target)))
    finally:
        client.close()


def of_replica(found: Finding) -> Finding:
    """*found* at a server that only takes over when another dies."""
    if found.level == "ok":
        return found
    return dataclasses.replace(found, level="note", why=f"after a failover to it, {found.why}")


def text_of(answer: Any) -> str:
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)


def pairs_of(answer: Any) -> dict[str, str]:
    """An answer of names and values in turn."""
    texts = [text_of(each) for each in answer]
    return dict(zip(texts[::2], texts[1::2], strict=False))
