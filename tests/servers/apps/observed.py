"""An app of any framework, the module of which ``OBSERVED`` names, and its numbers beside it."""

import dataclasses
import importlib
import json
import logging
import os
from collections.abc import Iterable
from typing import Any

from ssestream import statistics

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
logging.getLogger("ssestream").setLevel(logging.INFO)

_observed = importlib.import_module(os.environ["OBSERVED"]).app


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/statistics":
        # As it is, so that a server knows the body.
        answer: Iterable[bytes] = _observed(environ, start_response)
        return answer
    body = json.dumps(dataclasses.asdict(statistics())).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
