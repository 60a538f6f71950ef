"""How many messages a second `encode` makes, relative to ``json.dumps`` of the same data.

Also with orjson and msgspec, if they are installed (see ``docs/json.rst``).

Run it as ``python -m benchmarks.parts.encode``.
"""

import argparse
import contextlib
import functools
import importlib
import json
import timeit
from collections.abc import Callable, Iterator
from typing import Any

from ssestream.wire import encode

from . import kit
from .kit import Figure

MODULE = "benchmarks.parts.encode"

DATA = {
    "a short text": "tick",
    "a text of ten lines": "\n".join(["a line of some forty characters, or so"] * 10),
    "a small object": {"id": 7, "name": "tea", "price": 1.5},
    "a list of a hundred objects": [{"id": n, "name": f"item {n}"} for n in range(100)],
}


def per_second(function: Callable[[], object], seconds: float) -> float:
    """The best of five runs, as a disturbance can only make a run slower."""
    timer, number = timeit.Timer(function), 1
    while timer.timeit(number) < seconds:
        number *= 2
    return number / min(timer.repeat(5, number))


def providers() -> Iterator[tuple[str, Callable[[Any], bytes]]]:
    """The other libraries that are installed."""
    with contextlib.suppress(ImportError):
        yield "orjson", importlib.import_module("orjson").dumps
    with contextlib.suppress(ImportError):
        yield "msgspec", importlib.import_module("msgspec").json.encode


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    rates = {}
    for name, data in DATA.items():
        message = {"event": "message", "id": 7, "data": data}
        encoded = rates[name] = per_second(lambda message=message: encode(message), options.seconds)
        dumped = per_second(lambda data=data: json.dumps(data), options.seconds)
        yield Figure(f"encode {name}", encoded, "a second")
        yield Figure(f"json.dumps {name}", dumped, "a second")
        yield Figure(f"encode {name}", encoded / dumped, "of json.dumps")
    for library, dumps in providers():
        for name, data in DATA.items():
            message = {"event": "message", "id": 7, "data": data}
            faster = per_second(functools.partial(encode, message, dumps), options.seconds)
            yield Figure(f"encode {name} by {library}", faster / rates[name], "of encode")


def main() -> None:
    parser = kit.parser(MODULE, __doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each of five runs")
    kit.main(MODULE, parser.parse_args(), measure)


if __name__ == "__main__":
    main()
