"""A base class for objects that cannot be copied or pickled; the error says why.

Without it, a cache of responses, a task queue or ``multiprocessing`` would make a second object
that shares the socket, the lock or the timer of the first object.
"""

from typing import NoReturn


class Uncopyable:
    """Refuses to be copied or pickled. A subclass in an app may define its own ``__reduce__``."""

    __slots__ = ()

    #: The reason in the error, and the way to get another object.
    _only_one = "there is only one of it"

    # copy(), deepcopy() and pickle all call this.
    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        article = "an" if name[0] in "AEIOU" else "a"
        raise TypeError(f"{article} {name} can be neither copied nor pickled: {self._only_one}")
