"""The soak test: thousands of clients that behave as clients do, and registry that must balance.

``python -m tests.long.soak --server gevent --connections 20000 --seed 1``. It takes
minutes and is run by hand or by ``tox -e soak``; pytest does not collect it.
"""


def text(number: int, size: int) -> str:
    """The data of message *number*, so that whoever reads it can tell it from any other."""
    pattern = f"{number} "
    return (pattern * (size // len(pattern) + 1))[:size]
