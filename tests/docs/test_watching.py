"""The page on what to watch names the numbers that there are."""

import re

from ssestream import Channels
from ssestream.metrics import Metrics
from ssestream.metrics.prometheus_client import Collector
from tests.kit.servers import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "watching.rst").read_text()


def families() -> dict[str, str]:
    """The names and the kinds of what Prometheus gets, as they stand in queries."""
    return {
        f"{each.name}_total" if each.type == "counter" else each.name: each.type
        for each in Collector(Metrics(channels=Channels())).collect()
    }


def test_the_table_of_the_page_has_each_number_and_its_kind() -> None:
    named = dict(re.findall(r"^``(ssestream_\w+)`` +(\w+)  ", PAGE, re.MULTILINE))
    assert named == families()
