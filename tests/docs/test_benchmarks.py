"""The benchmarks' own check of every delivery, which must be able to fail."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import measure
from benchmarks.beside import package_in
from benchmarks.contenders import CONTENDERS, before, build, missing
from benchmarks.measures import MEASURES, Measuring, Plan, Record, visits
from benchmarks.pages import PLOTS
from benchmarks.parts import kit
from benchmarks.promises import PROMISES, Promise
from benchmarks.report import QUANTITIES, Numbers, beside_table, spread, text
from benchmarks.servers import Contender, running
from benchmarks.workloads import WORKLOADS
from tests.conftest import _missing
from tests.kit.servers import PATIENCE, ROOT

CLIENTS = 20
QUICK = Plan(frozenset({"fanout", "burst"}), (CLIENTS,), seconds=0.1, warm_up=0.02)


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if shutil.which("cc") is None:
        _missing("a C compiler", "install Debian's gcc and libc6-dev")
    build(npm=False)


def faulty(fault: str) -> Contender:
    program = ROOT / "tests" / "servers" / "apps" / "faults.py"
    command = (sys.executable, str(program), "{port}", "{control}", "{text}", fault)
    return Contender("faulty", "makes mistakes", command)


#: Faults after which the clients would wait in vain for a message.
LEAVING_OUT = ("drop", "drop the last", "cut", "hang up")


def burst(fault: str) -> Record:
    patience = 0.2 if fault in LEAVING_OUT else PATIENCE
    with running(faulty(fault), patience=patience) as (server, load):
        measuring = Measuring(server, load, QUICK)
        measuring.connect(CLIENTS)
        return measuring.run("burst", CLIENTS, 8)


@pytest.mark.server
def test_each_client_of_each_contender_gets_every_message() -> None:
    names = ["ours-gevent", "generator", "floor"]
    records = measure([CONTENDERS[name] for name in names], QUICK, rounds=1, quiet=True)
    found = {(record["contender"], record["measure"]) for record in records}
    assert found == {(name, kind) for name in names for kind in ("fanout", "burst")}
    for record in records:
        assert record["wrong"] == {}, record
        assert record["deliveries"] >= 3 * CLIENTS
        assert record["rate"] > 0
        assert record["cpu"] > 0
    tables = text({"records": records, "left_out": {}})
    assert "deliveries checked" in tables
    assert "WRONG" not in tables


@pytest.mark.long_except("double-doubles")
@pytest.mark.server
@pytest.mark.parametrize(
    ("fault", "count"),
    [
        ("drop", "missing"),
        ("drop the last", "missing"),
        ("double", "doubles"),
        ("double late", "doubles"),
        ("reorder", "late"),
        ("cut", "broken"),
        ("hang up", "hung_up"),
    ],
)
def test_a_mistake_towards_one_client_of_twenty_is_seen(fault: str, count: str) -> None:
    record = burst(fault)
    assert record["wrong"].get(count, 0) >= 1, record
    record = {"round": 0, "contender": "floor", "doubts": [], **record}
    tables = text({"records": [record], "left_out": {}})
    assert f"{count}: " in tables
    assert "WRONG" in tables
    assert Numbers([record]).of(("burst", CLIENTS, "rate"), "floor") == []


@pytest.mark.server
def test_a_server_without_a_mistake_has_no_fault() -> None:
    assert burst("none")["wrong"] == {}


@pytest.mark.server
def test_nothing_is_left_of_a_server_that_was_measured() -> None:
    with running(CONTENDERS["floor"]) as (server, load):
        load.do("connect", 3, 3)
        pids = server.processes()
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.server
def test_the_server_and_its_clients_are_bound_to_different_cores_where_there_are_two() -> None:
    available = sorted(os.sched_getaffinity(0))
    with running(CONTENDERS["floor"]) as (server, load):
        assert os.sched_getaffinity(server.process.pid) == {available[0]}
        assert os.sched_getaffinity(load.pid) == {available[-1]}
    assert sorted(os.sched_getaffinity(0)) == available


def seconds_of(workload: str) -> float:
    """Long enough for a tick on a busy machine, where nothing else says how many there are."""
    return 0.3 if workload in ("timers", "sources") else 0.05


@pytest.mark.long
@pytest.mark.server
@pytest.mark.parametrize("workload", WORKLOADS)
def test_each_stream_with_a_producer_of_its_own_gets_every_message(workload: str) -> None:
    if why := WORKLOADS[workload].missing:
        _missing("redis-server", why)
    names = ["ours-worker", "generator"]
    if WORKLOADS[workload].contender(CONTENDERS["generator"]) is None:
        names.remove("generator")
    # By hand, each client has a connection to Redis. redis-py opens 100 if it is not told more.
    clients = 110 if workload == "users-redis" else 5
    plan = Plan(frozenset({workload}), (clients,), seconds=seconds_of(workload), warm_up=0.15)
    records = measure([CONTENDERS[name] for name in names], plan, rounds=1, quiet=True)
    assert sorted(record["contender"] for record in records) == sorted(names)
    for record in records:
        assert record["wrong"] == {}, record
        assert record["measure"] == workload
        assert record["deliveries"] > 0
        assert record["cpu"] > 0
        if WORKLOADS[workload].ends:
            # Each stream had exactly as many as it was to have.
            streams = 1 if workload == "full" else 2 * 5
            assert record["deliveries"] == streams * WORKLOADS[workload].count(seconds_of(workload))
    tables = text({"records": records, "left_out": {}})
    wanted = set(QUANTITIES[workload]) - {"growth"}
    assert all(QUANTITIES[workload][quantity] in tables for quantity in wanted)


@pytest.fixture(scope="module")
def npm(built: None) -> Contender:
    build()
    if why := missing(CONTENDERS["npm-ssestream"]):
        _missing("npm-ssestream", why)
    return CONTENDERS["npm-ssestream"]


@pytest.mark.long
@pytest.mark.server
@pytest.mark.node
@pytest.mark.parametrize(
    "workload", [name for name in WORKLOADS if WORKLOADS[name].broker in (None, "redis")]
)
def test_npm_ssestream_takes_part_where_each_stream_has_a_producer(
    npm: Contender, workload: str
) -> None:
    if why := WORKLOADS[workload].missing:
        _missing("redis-server", why)
    plan = Plan(frozenset({workload}), (5,), seconds=seconds_of(workload), warm_up=0.15)
    [record] = measure([npm], plan, rounds=1, quiet=True)
    assert record["wrong"] == {}, record
    assert record["deliveries"] > 0


def test_the_drawn_and_promised_quantities_are_measured() -> None:
    keys = [key for _, keys in PLOTS.values() for key in keys.values()]
    keys += [(each.measure, each.clients, each.quantity) for each in PROMISES]
    for measure_of, _, quantity in keys:
        assert quantity in QUANTITIES[measure_of]
    assert set(QUANTITIES) == set(MEASURES)


@pytest.mark.long
@pytest.mark.server
def test_the_package_of_another_checkout_is_measured_beside_this_one(tmp_path: Path) -> None:
    shutil.copytree(package_in(ROOT), tmp_path / "ssestream")
    with (tmp_path / "ssestream" / "__init__.py").open("a") as package:
        package.write(
            "\nonce = Channels.publish\n"
            "def twice(*words):\n    once(*words)\n    once(*words)\n"
            "Channels.publish = twice\n"
        )
    contenders = [CONTENDERS["ours-worker"], before(tmp_path)["before-worker"]]
    records = measure(contenders, QUICK, rounds=1, quiet=True)
    for record in records:
        doubled = record["contender"] == "before-worker"
        assert bool(record["wrong"].get("doubles")) == doubled, record


def records_of(rates: dict[str, list[float]]) -> list[Record]:
    return [
        {
            "round": number,
            "contender": name,
            "measure": "fanout",
            "clients": 1000,
            "rate": rate,
            "wrong": {},
        }
        for name, rounds in rates.items()
        for number, rate in enumerate(rounds)
    ]


def rates(**by_contender: list[float]) -> Numbers:
    return Numbers(records_of(by_contender))


def test_each_round_gives_a_ratio_of_this_checkout_to_the_other() -> None:
    records = records_of({"ours-worker": [90.0, 220.0], "before-worker": [100.0, 200.0]})
    assert "1.00 (0.90 to 1.10)" in beside_table(records)
    assert beside_table(records_of({"ours-worker": [90.0]})) == ""


def test_a_ratio_is_made_within_a_round() -> None:
    # The machine was half as fast in the second: only who is divided first and then compared
    # sees that nothing else has changed.
    numbers = rates(ours=[300.0, 150.0], theirs=[100.0, 50.0])
    ratios = numbers.ratios(("fanout", 1000, "rate"), "ours", "theirs")
    assert ratios == [3.0, 3.0]
    assert spread(ratios) == "3.00 (3.00 to 3.00)"


def test_a_round_that_one_of_two_was_not_in_makes_no_ratio() -> None:
    numbers = rates(ours=[300.0, 150.0], theirs=[100.0])
    assert numbers.ratios(("fanout", 1000, "rate"), "ours", "theirs") == [3.0]


def test_a_promise_is_kept_up_to_its_bound() -> None:
    least = Promise("fanout", 1000, "rate", "ours-gevent", "generator", least=1.3)
    most = Promise("memory", 10_000, "own", "ours-gevent", None, most=16)
    assert [least.kept_by(value) for value in (1.29, 1.3, 1.31)] == [False, True, True]
    assert [most.kept_by(value) for value in (15.9, 16, 16.1)] == [True, True, False]


def test_a_plan_visits_only_what_it_measures() -> None:
    assert visits(Plan(frozenset({"burst"}))) == ["broadcasts"]
    assert visits(Plan(frozenset({"memory", "stream"}))) == ["single", "crowd"]
    assert visits(Plan(frozenset({"timers", "latency"}))) == ["broadcasts", "timers"]
    assert Plan(frozenset({"burst"})).clients_of("fanout") == set()
    assert Plan(frozenset({"burst"}), (7,)).clients_of("burst") == {7}


@pytest.mark.long
def test_a_part_measures_the_package_of_another_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(package_in(ROOT), tmp_path / "ssestream")
    # The copy's encode() is slower by far.
    with (tmp_path / "ssestream" / "wire.py").open("a") as wire:
        wire.write("\nimport time\nreal = encode\n")
        wire.write("def encode(*a, **k):\n    time.sleep(0.002)\n    return real(*a, **k)\n")
    words = ["encode", "--beside", str(tmp_path), "--rounds", "1", "--seconds", "0.001"]
    monkeypatch.setattr(sys, "argv", words)
    kit.compare("benchmarks.parts.encode", tmp_path, rounds=1)
    rows = capsys.readouterr().out.splitlines()
    row = next(row for row in rows if row.startswith("encode a short text, a second"))
    ratio = float(row.split()[-4])
    assert ratio > 10


def test_a_folder_without_the_package_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no ssestream/"):
        package_in(tmp_path)


@pytest.mark.long
@pytest.mark.server
@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("stalled", ["--clients", "3", "--messages", "3"]),
        ("gzip_cost", ["--clients", "3", "--messages", "3", "--worker-only"]),
        ("neighbours", ["--streams", "10", "--seconds", "0.2"]),
    ],
)
def test_a_part_runs(part: str, options: list[str]) -> None:
    command = [sys.executable, "-m", f"benchmarks.parts.{part}", "--json", *options]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures = [json.loads(line) for line in output.splitlines()]
    assert len(figures) >= 10
    assert {package for *_, package in figures} == {str(package_in(ROOT))}


@pytest.mark.long
@pytest.mark.server
def test_the_part_with_several_publishers_runs(shared_url: str) -> None:
    command = [sys.executable, "-m", "benchmarks.parts.publishers", "--json", shared_url]
    command += ["--processes", "2", "--channels", "5", "--seconds", "2", "--rate", "50"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures = {name: value for name, value, *_ in map(json.loads, output.splitlines())}
    assert len(figures) == 5
    assert all(value > 0 for value in figures.values())
