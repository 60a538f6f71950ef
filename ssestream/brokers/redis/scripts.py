"""The scripts that Redis runs, each in a Lua file beside this one.

``log.lua`` has the functions that all scripts use, and is put before each of them. ``terms.lua``
is put between both, for the scripts that change a log.
"""

import hashlib
from importlib import resources
from typing import Any

from redis import exceptions

_FOLDER = resources.files(__package__)


def _script(*parts: str) -> str:
    return "\n".join(_FOLDER.joinpath(f"{part}.lua").read_text("utf-8") for part in parts)


APPEND, READ = _script("log", "terms", "append"), _script("log", "read")
KEEP, RENEW = _script("log", "terms", "keep"), _script("log", "terms", "renew")
DELETE = _script("log", "delete")


class Script:
    """A script on one server.

    An append is the most frequent call of a program. So this packs the command itself: redis-py
    would need twice the time for the same call. The connections are those of redis-py's pool.
    """

    def __init__(self, client: Any, text: str) -> None:
        self._client = client
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: list[Any], args: list[Any]) -> Any:
        command = [packed("EVALSHA", self._sha, len(keys), *keys, *args)]
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            try:
                return _answer(connection, command)
            except exceptions.NoScriptError:
                _answer(connection, [packed("SCRIPT", "LOAD", self._text)])
                return _answer(connection, command)
        finally:
            pool.release(connection)


def _answer(connection: Any, command: list[bytes]) -> Any:
    try:
        connection.send_packed_command(command)
        return connection.read_response()
    except exceptions.ResponseError:
        raise
    except BaseException:
        # The answer may come later. It must not be taken for the answer to another command.
        connection.disconnect()
        raise


def packed(*words: bytes | int | str) -> bytes:
    """The command with these *words* in the protocol of Redis."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        text = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


class ClusterScript:
    """A script on the node of its keys.

    redis-py would need all masters to load a script, of which one may be down.
    """

    def __init__(self, client: Any, text: str) -> None:
        self._client = client
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: list[Any], args: list[Any]) -> Any:
        try:
            return self._client.evalsha(self._sha, len(keys), *keys, *args)
        except exceptions.NoScriptError:
            failure = self._load(keys[0])
        try:
            return self._client.evalsha(self._sha, len(keys), *keys, *args)
        except exceptions.NoScriptError as error:
            # The master of the keys may be the one that has not answered. Unlike a missing
            # script, its failure may pass.
            raise failure or error from None

    def _load(self, key: Any) -> exceptions.RedisError | None:
        """Load the script on all masters. Returns the last failure of a master; None for none."""
        failure = None
        # While a slot moves, another master may answer than the one that has the slot. redis-py
        # knows the master of the key also when it has lost its list of all masters.
        nodes = (self._client.get_node_from_key(key), *self._client.get_primaries())
        for node in {each.name: each for each in nodes if each}.values():
            try:
                self._client.execute_command("SCRIPT LOAD", self._text, target_nodes=node)
            except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
                failure = error
        return failure
