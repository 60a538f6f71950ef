"""What an error of redis-py means: for one channel or for all, and whether it may pass."""

import re
import ssl

from redis import exceptions

#: All errors that a command may raise.
ERRORS = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    exceptions.ChildDeadlockedError,
    OSError,
    MemoryError,
)

#: Errors that may pass by themselves: Redis starts or stops, another server becomes master, or a
#: slot of a cluster moves. redis-py gives up after some tries, with a plain ``ClusterError``.
PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterError,
    exceptions.TryAgainError,
    exceptions.RedisClusterException,
    OSError,
)


#: The rights that an account needs besides the rights to read and to write.
NEEDED = (
    "The account needs the Pub/Sub channels &ssestream:* and the commands subscribe, unsubscribe"
    " and publish (ssubscribe, sunsubscribe and spublish in a cluster)"
)

# Errors that concern one key only: the key has another type, does not hold a log, or is not
# allowed to this account. A command in a script names the script if it fails, mostly for a number
# that it gets from a damaged log.
_OF_CHANNEL = re.compile(
    r"WRONGTYPE|user_script:\d+|(?i:no permissions to access)"
    r"|can't access at least one of the keys|permissions to access one of the keys"
)
_OF_ALL = re.compile(
    r"can't run this command|permissions to run|READONLY|OOM|MISCONF|NOREPLICAS|CLUSTERDOWN"
    r"|TRYAGAIN|nknown Redis command|not allowed from script|non local key"
)


def lack_of_memory(error: BaseException) -> MemoryError | None:
    """The lack of memory that has caused *error*; None if there was none.

    Without memory for an answer, redis-py's buffer closes itself. Then redis-py goes back in this
    buffer, and raises the ``ValueError`` of a closed file.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MemoryError):
        cause = cause.__cause__ or cause.__context__
    return cause


def is_of_channel(error: object) -> bool:
    if not isinstance(error, exceptions.ResponseError):
        return False
    words = str(error)
    return bool(_OF_CHANNEL.search(words)) and not _OF_ALL.search(words)


def is_of_pubsub_channel(error: object) -> bool:
    """Whether an account may use Pub/Sub, but not the Pub/Sub channel that it has named."""
    is_refusal = isinstance(error, exceptions.NoPermissionError)
    return is_refusal and "channel" in str(error) and "run the" not in str(error)


def without_rights(error: object) -> exceptions.NoPermissionError:
    """The same refusal, with the rights that the account needs for Pub/Sub."""
    return exceptions.NoPermissionError(f"{error}. {NEEDED}")


def is_lasting(error: BaseException) -> bool:
    """Whether *error* stays until an operator acts: a wrong password, or an unsuitable server."""
    if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
        return True
    if isinstance(error, exceptions.NoPermissionError) or is_untrusted(error):
        return True
    # A plain ResponseError is a reply for which redis-py has no class. Three of these pass: BUSY
    # when another client's script has ended, NOREPLICAS when a replica is back, and UNBLOCKED,
    # with which a failover ends a wait.
    is_plain = type(error) is exceptions.ResponseError
    return is_plain and not str(error).startswith(("BUSY ", "NOREPLICAS ", "UNBLOCKED "))


def is_untrusted(error: BaseException | None) -> bool:
    """Whether the server's certificate is the cause of *error*."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def may_pass(cause: object) -> bool:
    return isinstance(cause, PASSING) and not isinstance(cause, exceptions.AuthenticationError)
