"""The simulation of a storm of clients that come back: ``benchmarks/scaling/simulate.py``."""

import random
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import simulate
from benchmarks.scaling.simulate import Outcome, Storm
from ssestream import settings
from ssestream.settings import DEFAULTS, Retry

# Half of what comes within the default's four seconds could be taken.
EASY = Storm(clients=2000, per_second=1000)
# More than the queue and the timeouts bear.
HARD = Storm(clients=2000, per_second=50, backlog=100, timeout=5)


def played(storm: Storm, retry: Retry | None = DEFAULTS.retry_after, seed: int = 1) -> Outcome:
    return simulate.simulate(storm, retry, seed)


@pytest.mark.parametrize("storm", [EASY, HARD])
@pytest.mark.parametrize("retry", [None, 3000, DEFAULTS.retry_after])
def test_a_seed_gives_the_same_storm_again_and_another_seed_another(
    storm: Storm, retry: Retry | None
) -> None:
    assert played(storm, retry) == played(storm, retry)
    assert played(storm, retry) != played(storm, retry, seed=2)


def test_more_wait_at_once_without_jitter_than_with() -> None:
    assert played(EASY, 3000).queue > 10 * played(EASY).queue


@pytest.mark.parametrize("retry", [None, 3000, DEFAULTS.retry_after])
def test_every_client_is_back_in_the_end_even_where_syns_are_dropped_and_clients_give_up(
    retry: Retry | None,
) -> None:
    out = played(HARD, retry)
    assert out.dropped > 0
    assert out.given_up > 0
    assert len(out.away) == HARD.clients
    # The host opens no more than it can, and nobody comes before the time.
    assert out.away[-1] >= HARD.clients / HARD.per_second
    assert out.away[0] >= 1.0


def test_a_client_that_was_in_the_queue_for_too_long_is_served_in_vain() -> None:
    storm = Storm(clients=300, per_second=50, backlog=1000, timeout=5)
    out = played(storm, 3000)
    assert out.dropped == 0
    # 250 within five seconds, the others again.
    assert 40 <= out.given_up <= 60
    assert len(out.away) == 300


def test_what_was_missed_makes_the_storm_longer() -> None:
    storm = Storm(clients=300, per_second=100)
    behind = Storm(clients=300, per_second=100, replay=0.01)
    assert played(behind).away[-1] > 1.5 * played(storm).away[-1]


def test_the_times_come_from_the_draw_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = settings.draw

    def draw(retry: Retry) -> int:
        asked.append(retry)
        return real(retry)

    usual = played(EASY)
    monkeypatch.setattr(settings, "draw", draw)
    assert played(EASY) == usual
    assert asked == [DEFAULTS.retry_after] * EASY.clients
    monkeypatch.setattr(settings, "draw", lambda retry: 60_000)
    assert played(EASY).away[0] >= 60


def test_the_jitter_of_the_project_is_its_own_again_afterwards() -> None:
    chance = settings.chance
    played(EASY)
    with simulate.seeded(1):
        assert type(settings.chance) is random.Random
    assert settings.chance is chance
    with pytest.raises(ZeroDivisionError), simulate.seeded(1):
        raise ZeroDivisionError
    assert settings.chance is chance
    # Nobody can say what it will draw.
    assert chance.getstate() != random.Random(1).getstate()


@pytest.mark.parametrize("clients", [3000, 20_000])
@pytest.mark.parametrize("replay", [0.0, 0.00001])
def test_the_advised_range_is_enough_and_a_third_of_it_is_not(clients: int, replay: float) -> None:
    storm = Storm(clients=clients, per_second=500, backlog=500, replay=replay)
    advised = simulate.advised(storm)
    enough = played(storm, advised)
    assert enough.queue < 100
    assert enough.away[-1] < advised[1] / 1000 + 0.5
    assert played(storm, simulate.narrowed(advised, 1 / 3)).dropped > 0


def test_no_range_is_advised_where_what_is_missed_grows_faster_than_it_is_sent() -> None:
    with pytest.raises(ValueError, match="no range is wide enough"):
        simulate.advised(Storm(clients=1000, per_second=100, replay=0.001))


def test_all_hosts_but_one_can_carry_and_take_everything() -> None:
    for worker in simulate.WORKERS:
        counts = [simulate.hosts_for(size, worker) for size in simulate.SIZES]
        assert counts == sorted(counts)
        assert counts[0] >= 2
        for size, count in zip(simulate.SIZES, counts, strict=True):
            left = (count - 1) * simulate.CORES * simulate.BUSY
            assert simulate.cores(size, worker, simulate.PACE) <= left
            assert simulate.width(simulate.after_death(size, count)) <= simulate.RECOVERY


# Those of the storms would take a minute.
QUICK = {
    "figures": simulate.figures,
    "needs-gevent": lambda: simulate.needs("gevent"),
    "needs-sseworker": lambda: simulate.needs("SseWorker"),
    "network": simulate.network,
}


@pytest.mark.parametrize("name", QUICK)
def test_a_table_of_the_docs_is_the_one_that_is_computed(name: str) -> None:
    # If not: python -m benchmarks.scaling.simulate --write-docs
    assert (simulate.DOCS / f"{name}.rst").read_text() == QUICK[name]()


def test_the_page_shows_every_table_and_plot_that_is_written() -> None:
    page = simulate.DOCS.with_suffix(".rst").read_text()
    written = {path.name for path in simulate.DOCS.iterdir()}
    assert {f"{name}.rst" for name in QUICK} < written
    for name in written:
        assert f":: scaling/{name}\n" in page, name


def written_docs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(simulate, "DOCS", folder)
    monkeypatch.setattr(simulate, "tables", lambda seed: {"figures": simulate.figures()})
    monkeypatch.setattr(sys, "argv", ["simulate", "--write-docs"])
    simulate.main()


def test_without_matplotlib_the_tables_are_written_and_the_lack_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written_docs(monkeypatch, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.rst"]
    assert "there is no matplotlib" in capsys.readouterr().out


@pytest.mark.long
def test_the_same_seed_draws_the_same_plots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(simulate, "PLOTTED", 10_000)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert simulate.plot(tmp_path / name, seed=1)
    for name in ("back.svg", "width.svg"):
        one = (tmp_path / "one" / name).read_bytes()
        assert one == (tmp_path / "two" / name).read_bytes()
        # Text that can be read and found, not outlines of letters.
        assert b"seconds after the host died</text>" in one
