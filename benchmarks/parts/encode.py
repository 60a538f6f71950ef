"""How many messages a second `encode` makes, relative to ``json.dumps`` of the same data.

Run it as ``python benchmarks/encode.py``.
"""

import json
import timeit
from collections.abc import Callable

from ssestream.wire import encode

DATA = {
    "a short text": "tick",
    "a text of ten lines": "\n".join(["a line of some forty characters, or so"] * 10),
    "a small object": {"id": 7, "name": "tea", "price": 1.5},
    "a list of a hundred objects": [{"id": n, "name": f"item {n}"} for n in range(100)],
}


def per_second(function: Callable[[], object]) -> float:
    """The best of five runs, as a disturbance can only make a run slower."""
    timer = timeit.Timer(function)
    number, _ = timer.autorange()
    return number / min(timer.repeat(5, number))


def main() -> None:
    print(f"{'data':30}{'encode/s':>12}{'json.dumps/s':>14}{'ratio':>8}")
    for name, data in DATA.items():
        message = {"event": "message", "id": 7, "data": data}
        encoded = per_second(lambda message=message: encode(message))
        dumped = per_second(lambda data=data: json.dumps(data))
        print(f"{name:30}{encoded:12,.0f}{dumped:14,.0f}{encoded / dumped:8.2f}")


if __name__ == "__main__":
    main()
