"""Apps that real servers run for the tests."""

import json
import time
from typing import Any


def tell(**event: Any) -> None:
    """Tell the test, with the time on the clock that all processes share."""
    print("@event " + json.dumps({"at": time.monotonic(), **event}), flush=True)
