"""The page on what to watch, its board and its alerts name the numbers that there are."""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ssestream import Channels
from ssestream.http.registry import REASONS
from ssestream.metrics import Metrics
from ssestream.metrics.prometheus_client import Collector
from tests.docs.test_docs import blocks
from tests.kit.servers import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "watching.rst").read_text()
BOARD = json.loads((DOCS / "grafana.json").read_text())
ALERTS = (DOCS / "alerts.yml").read_text()
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]

#: The labels that Prometheus itself gives.
GIVEN = {"instance", "job"}


def families() -> dict[str, str]:
    """The names and the kinds of what Prometheus gets, as they stand in the table."""
    return {
        f"{each.name}_total" if each.type == "counter" else each.name: each.type
        for each in Collector(Metrics(channels=Channels())).collect()
    }


def series() -> dict[str, set[str]]:
    """The names that may stand in a query, and their labels."""
    found = {}
    for number in Metrics(channels=Channels()).numbers():
        name, labels = f"ssestream_{number.name}", set(number.labels)
        if number.kind == "histogram":
            found[f"{name}_bucket"] = labels
            found[f"{name}_sum"] = found[f"{name}_count"] = labels - {"le"}
        else:
            found[f"{name}_total" if number.kind == "counter" else name] = labels
    return found


def rules() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    (group,) = yaml.safe_load(ALERTS)["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def check(query: str) -> set[str]:
    """Check each name and each label in *query*, and return the names."""
    names = set(re.findall(r"\bssestream_\w+", query))
    assert names <= set(series()), query
    assert names, query
    assert query.count("(") == query.count(")")
    labels = GIVEN.union(*(series()[name] for name in names))
    by = {
        label.strip() for each in re.findall(r"by \(([^)]*)\)", query) for label in each.split(",")
    }
    assert by <= labels, query
    for name, selected in re.findall(r"\b(ssestream_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)=~?\"", selected)) <= GIVEN | series()[name], query
    for causes in re.findall(r"cause=~?\"([^\"]*)\"", query):
        assert set(causes.split("|")) <= set(REASONS)
    if "histogram_quantile" in query:
        assert re.search(r"by \([^)]*\ble\)", query)
    return names


def test_the_table_of_the_page_has_each_number_and_its_kind() -> None:
    named = dict(re.findall(r"^``(ssestream_\w+)`` +(\w+)  ", PAGE, re.MULTILINE))
    assert named == families()


def test_the_names_in_queries_are_those_of_a_scrape() -> None:
    """So that the other tests compare with what there is."""
    channels = Channels()
    metrics = Metrics(channels=channels)
    channels.publish("news", {"data": "1"})
    scraped = {
        sample.name: set(sample.labels)
        for family in Collector(metrics).collect()
        for sample in family.samples
    }
    known = series()
    assert {name: known[name] for name in scraped} == scraped
    # The others have no sample before a channel is followed.
    assert {name for name in known if "group" not in known[name]} <= set(scraped)


def test_the_board_shows_each_number_and_none_that_there_is_not() -> None:
    shown = set().union(*map(check, QUERIES))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in series()
    }
    (job,) = (each for each in BOARD["templating"]["list"] if each["name"] == "job")
    check(job["definition"])


def test_the_board_asks_its_own_variables_and_its_panels_do_not_overlap() -> None:
    variables = {each["name"] for each in BOARD["templating"]["list"]}
    asked = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(BOARD)))
    assert asked == variables
    assert len({each["id"] for each in BOARD["panels"]}) == len(BOARD["panels"])
    for panel in PANELS:
        assert panel["description"].endswith(".")
    places = [each["gridPos"] for each in BOARD["panels"]]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for one, two in itertools.combinations(places, 2):
        apart = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]


def test_each_alert_asks_for_numbers_that_there_are_and_has_its_reason_on_the_page() -> None:
    reasons = re.findall(r"^``(Ssestream\w+)`` +\S", PAGE, re.MULTILINE)
    assert [rule["alert"] for rule in rules()] == reasons
    for rule in rules():
        check(rule["expr"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        assert shown <= kept, rule["alert"]


def judged(promtool: str, *words: str) -> None:
    done = subprocess.run([promtool, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_queries_of_the_board(promtool: str, tmp_path: Path) -> None:
    text = json.dumps(QUERIES).replace("$__rate_interval", "5m").replace("$job", ".*")
    recorded = [
        {"record": f"board:{number}", "expr": query}
        for number, query in enumerate(json.loads(text))
    ]
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(
        json.dumps({"groups": [{"name": "board", "rules": recorded}]})
    )
    judged(promtool, "check", "rules", str(tmp_path / "rules.yml"))


def test_prometheus_raises_each_alert_for_a_bad_app_and_none_for_a_good_one(
    promtool: str, tmp_path: Path
) -> None:
    expected = []
    for rule in rules():
        labels = {"job": "bad", **rule["labels"]}
        if "by (job, group)" in rule["expr"]:
            labels["group"] = "a"
        summary = re.sub(
            r"\{\{ \$labels\.(\w+) \}\}",
            lambda found, labels=labels: labels[found[1]],
            rule["annotations"]["summary"],
        )
        expected.append(
            {
                "eval_time": "55m",
                "alertname": rule["alert"],
                "exp_alerts": [{"exp_labels": labels, "exp_annotations": {"summary": summary}}],
            }
        )
    test = {"interval": "1m", "input_series": INPUT, "alert_rule_test": expected}
    file = tmp_path / "test.yml"
    file.write_text(
        json.dumps(
            {
                "rule_files": [str(DOCS / "alerts.yml")],
                "evaluation_interval": "1m",
                "tests": [test],
            }
        )
    )
    judged(promtool, "test", "rules", str(file))


def _input(name: str, labels: str, bad: str, good: str) -> list[dict[str, str]]:
    return [
        {"series": f'ssestream_{name}{{job="{job}"{labels}}}', "values": values}
        for job, values in (("bad", bad), ("good", good))
    ]


#: An hour of a bad app and of a good one, in Prometheus's own notation.
INPUT = [
    *_input("processes_without_broker", "", "1x60", "0x60"),
    *_input("failed_publications_total", ',group="a"', "0x28 0+1x30", "3x60"),
    *_input("publish_seconds_bucket", ',group="a",le="0.25"', "0+1x60", "0+100x60"),
    *_input("publish_seconds_bucket", ',group="a",le="0.5"', "0+100x60", "0+100x60"),
    *_input("publish_seconds_bucket", ',group="a",le="+Inf"', "0+100x60", "0+100x60"),
    *_input("refused_streams_total", "", "0+1x60", "7x60"),
    *_input("closed_streams_total", ',cause="error"', "0+2x60", "5x60"),
    *_input("closed_streams_total", ',cause="client"', "0+60x60", "0+60x60"),
    *_input("closed_streams_total", ',cause="stalled"', "0+3x60", "0+1x60"),
    *_input("closed_streams_total", ',cause="overflow"', "0+3x60", "0x60"),
    *_input("closed_streams_total", ',cause="interrupted"', "0x50 1x10", "2x60"),
    *_input("open_streams", "", "20x60", "2000x60"),
    *_input("opened_streams_total", "", "0+180x60", "0+180x60"),
    *_input("greatest_lag_seconds", ',group="a"', "45x60", "5x60"),
    *_input("gaps_total", ',group="a"', "0x50 1x10", "4x60"),
    *_input("drain_seconds_sum", "", "0x30 25x30", "0x30 2x30"),
    *_input("drain_seconds_count", "", "0x30 2x30", "0x30 2x30"),
    *_input("waiting_bytes", "", "300000000x60", "3000x60"),
]


def test_the_page_for_operators_admits_the_operators_of_the_app() -> None:
    (code,) = (block for block in blocks(DOCS / "watching.rst", "python") if "operators" in block)
    program: dict[str, Any] = {"__name__": "operators_page"}
    exec(f"import os\n{code}", program)
    client = program["app"].test_client()
    assert client.get("/operators/").status_code == 403
    with client.session_transaction() as session:
        session["role"] = "operator"
    assert client.get("/operators/").status_code == 200
