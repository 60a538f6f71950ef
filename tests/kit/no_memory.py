"""A broker in a process of its own that gets no memory for a large entry, and later some again."""

import json
from typing import Any

from tests.kit.programs import run_program

#: Bytes of the entry. The process appends such an entry, and one is in the channel "large".
LARGE = 4 << 20

#: What `without_memory` gives if all is well: the error of a large append, of a read and of a wait;
#: and with memory again what is in "news", the bytes of the entry, and its number in the news.
WELL = [*[["no memory", False]] * 3, ["first", "second"], LARGE, 1]

_PROGRAM = """
import importlib, json, resource, sys
from ssestream.brokers.broker import BrokerError, Position
from tests.kit.brokers import news

def say(what):
    print(json.dumps(what), flush=True)

def tell(function, *args):
    try:
        function(*args)
    except BrokerError as error:
        say([str(error).rpartition(": ")[2], error.lasting])
    else:
        say("no error")

module, _, name = sys.argv[1].partition(":")
broker = getattr(importlib.import_module(module), name)(sys.argv[2], None, None)
first = broker.append("news", b"first")
start = Position(broker.read("large", 0, 0, 0).log, 0)
# What is loaded for the first wait is no entry's.
news(broker, {"news": Position(first.log, 0)})
large = b"x" * int(sys.argv[3])
with open("/proc/self/statm") as sizes:
    limit = int(sizes.read().split()[0]) * resource.getpagesize() + (1 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
tell(broker.append, "news", large)
tell(broker.read, "large", 0, 9, 1 << 30)
tell(news, broker, {"large": start})
# A small one finds memory.
broker.append("news", b"second")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
say([entry.frame.decode() for entry in broker.read("news", 0, 9, 1 << 30).entries])
say(len(broker.read("large", 0, 9, 1 << 30).entries[0].frame))
say(news(broker, {"large": start})["large"].last)
broker.close()
"""


def without_memory(kind: type, where: str) -> list[Any]:
    """What a broker of *kind* at *where* says. See `WELL`."""
    done = run_program(_PROGRAM, f"{kind.__module__}:{kind.__name__}", where, str(LARGE))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
