"""What there can be only one of: it is neither copied nor pickled, and says why.

A cache of responses, a task queue or a ``multiprocessing`` argument would else get a second
object that shares the socket, the lock or the timer of the first.
"""

from typing import NoReturn


class Uncopyable:
    """A base of such classes. A class of the app's may have a ``__reduce__`` of its own."""

    __slots__ = ()

    #: Why there is only one, and what to do instead.
    _only_one = "there is only one of it"

    # copy(), deepcopy() and pickle all come here.
    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} can be neither copied nor pickled: {self._only_one}"
        )
