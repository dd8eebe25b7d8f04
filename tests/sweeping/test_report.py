"""The page of a sweep, from made-up trials."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tats_ray.config.files import read_run
from tats_ray.config.overrides import change
from tats_ray.recipes import recipe
from tats_ray.sweeping.question import Question
from tats_ray.sweeping.report import Report, write_report
from tats_ray.sweeping.trials import Point, Trial
from tats_ray.sweeping.verdict import two_best
from tats_ray.tracking.base import RunHandle

RATE, RATIO, BETAS, FIXED = "optim.base_learning_rate", "masking.mask_ratio", "optim.betas", "optim.warmup_share"
BASE = change(recipe("tiny"), [("masking.visible.kind", "random"), ("init", "/store/warm/0001"), ("seed", 9)])
QUESTION = Question(
    "rates-0001",
    "validation/random_mask_error",
    "min",
    BASE,
    [RATE, RATIO, BETAS, FIXED],
    logarithmic=[RATE],
    shown=["sampler/site_coverage"],
)


def trial(name: str, seed: int, value: float, **knobs: Any) -> Trial:
    held = {RATE: knobs.get("rate", 0.01), RATIO: knobs.get("ratio", 0.9), BETAS: [0.9, 0.95], FIXED: 0.1}
    curve = [Point(step, step * 1e9, value + 1 / step) for step in (10, 20)]
    metrics = {"step": 20.0, "sampler/site_coverage": 0.5 + seed}
    return Trial(name, held, seed, "finished", None, metrics, curve, f"../{name}/0001", f"run-{name}")


TRIALS = [
    trial("a0", 0, 0.5, rate=0.01),
    trial("a1", 1, 0.6, rate=0.01),
    trial("b0", 0, 0.4, rate=0.1),
    trial("b1", 1, 0.48, rate=0.1),
    trial("c0", 0, 0.7, rate=0.001, ratio=0.75),
    Trial("c1", trial("", 0, 0, rate=0.001, ratio=0.75).knobs, 1, "failed", "its disk <was> full | broken"),
    Trial("d0", trial("", 0, 0, rate=0.2).knobs, 0, "pruned", "a worker needs at least 91 GiB"),
    Trial("d1", trial("", 0, 0, rate=0.2).knobs, 1, "pruned", "a worker needs at least 91 GiB"),
]


def made(folder: Path, trials: list[Trial] = TRIALS, parent: RunHandle | None = None) -> Report:
    return write_report(QUESTION, trials, folder, facts={"commit": "abc"}, parent=parent)


def test_the_page_says_first_what_may_be_said_and_hides_no_trial(tmp_path: Path) -> None:
    report = made(tmp_path)
    page, text = report.html.read_text(), report.markdown.read_text()
    parts = [
        "What may be said",
        "Configurations, best first",
        "knobs.png",
        "The best as a run",
        "<h2>Not ranked",
        "commit",
    ]
    assert [page.index(part) for part in parts] == sorted(page.index(part) for part in parts)
    for one in TRIALS:
        assert (f'href="{one.folder}"' if one.folder else one.name) in page
    assert "its disk &lt;was&gt; full" in page
    assert "its disk <was> full" in text
    assert all(sentence in text for sentence in report.sentences)
    assert "seed 1 failed" in page
    assert "d0 d1" in " ".join(page[page.index("<h2>Not ranked") :].split())  # seeds of one reason share a row


def test_links_lead_to_a_server_where_there_is_one(tmp_path: Path) -> None:
    page = made(tmp_path, parent=RunHandle("http://host:5000", "parent", "7")).html.read_text()
    assert "http://host:5000/#/experiments/7/runs/run-b0" in page


def test_tables_of_the_text_are_tables(tmp_path: Path) -> None:
    lines = made(tmp_path).markdown.read_text().replace("\\|", "").splitlines()
    rows = {number: line.count("|") for number, line in enumerate(lines) if line.startswith("|")}
    assert len(rows) > 8
    assert all(rows.get(number - 1, cells) == cells for number, cells in rows.items())


def test_tables_hold_every_number_in_full(tmp_path: Path) -> None:
    report = made(tmp_path)
    rows = {row["trial"]: row for row in _read(report.trials)}
    assert list(rows) == [one.name for one in TRIALS]
    assert (rows["b0"]["rank"], rows["b0"][QUESTION.metric], rows["b0"]["at_step"]) == ("1", repr(0.45), "20")
    assert (rows["b0"][RATE], rows["b0"][BETAS], rows["b0"]["seed"]) == ("0.1", "[0.9, 0.95]", "0")
    assert (rows["c1"]["status"], rows["c1"]["reason"], rows["c1"]["rank"]) == ("failed", TRIALS[5].reason, "")
    ranked = _read(report.summary)
    assert [row[RATE] for row in ranked] == ["0.1", "0.01", "0.001"]
    assert float(ranked[0]["mean"]) == pytest.approx(0.49)
    assert float(ranked[0]["spread"]) == pytest.approx(0.08 / math.sqrt(2))
    assert "c1: its disk" in ranked[2]["left_out"]


def test_the_best_is_a_run_that_can_be_started_as_it_is(tmp_path: Path) -> None:
    report = made(tmp_path)
    assert report.best is not None
    run = read_run(report.best)
    knobs = [(RATE, 0.1), (RATIO, 0.9), (BETAS, [0.9, 0.95]), (FIXED, 0.1)]
    assert run == change(BASE, [*knobs, ("seed", 0), ("name", "rates-0001-best")])
    assert report.best.read_text().startswith("# Best configuration of rates-0001")


def test_the_best_starts_where_its_own_seed_started(tmp_path: Path) -> None:
    """The first seed of the best failed, and each seed has a warm-up of its own."""
    starts = {0: "/store/warm/0000", 1: "/store/warm/0001"}
    trials = [trial("a0", 0, 0.5), trial("b1", 1, 0.1, rate=0.1)]
    report = write_report(replace(QUESTION, starts=starts), trials, tmp_path, facts={})
    assert report.best is not None
    run = read_run(report.best)
    assert (run.seed, run.init) == (1, "/store/warm/0001")


def test_charts_are_small_and_leave_out_what_does_not_vary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    chart = "tats_ray.sweeping.report.knobs_chart"
    monkeypatch.setattr(chart, lambda dots, path, **options: (drawn.append((dots, options)), path.touch()))
    charts = [path for path in made(tmp_path).files if path.suffix == ".png"]
    assert [path.name for path in charts] == ["knobs.png", "coordinates.png", "cost.png"]
    assert all(0 < path.stat().st_size < 300_000 for path in charts[1:])
    ((dots, options),) = drawn
    assert options["knobs"] == [RATE, RATIO]
    assert options["logarithmic"] == [RATE]
    assert sorted(dot.value for dot in dots if dot.best) == pytest.approx([0.45, 0.53])
    assert len(dots) == 5


def test_one_seed_is_no_evidence(tmp_path: Path) -> None:
    said = " ".join(made(tmp_path, TRIALS[::2]).sentences)
    assert "One seed says nothing about the spread" in said
    assert "tells them apart" not in said


def test_the_two_best_are_compared_on_the_seeds_that_both_have(tmp_path: Path) -> None:
    """0.1 and 0.12 better on two seeds: by hand 0.11 +- tan(0.475 pi) * 0.0141 / sqrt(2), which holds 0."""
    report = made(tmp_path)
    found = two_best(report.ranking)
    assert found is not None
    interval, verdict = found
    assert (interval.mean, interval.n) == (pytest.approx(0.11), 2)
    assert interval.low == pytest.approx(0.11 - math.tan(0.475 * math.pi) * 0.01)
    assert verdict == "cannot tell"
    assert "does not tell them apart" in " ".join(report.sentences)
    third = [trial("a2", 2, 0.55, rate=0.01), trial("b2", 2, 0.44, rate=0.1)]
    clear = made(tmp_path, TRIALS + third)
    assert "that tells them apart" in " ".join(clear.sentences)


def test_what_a_scheduler_stopped_is_not_compared_with_what_went_on(tmp_path: Path) -> None:
    """Values at different steps: the second was stopped at step 10, where it was no worse than the first there."""
    cut = [trial("b0", 0, 0.6, rate=0.1), trial("b1", 1, 0.7, rate=0.1)]
    stopped = [replace(one, status="stopped", curve=one.curve[:1]) for one in cut]
    report = made(tmp_path, [*TRIALS[:2], *stopped])
    assert [one.stopped_at for one in report.ranking.configurations] == [None, 10]
    assert two_best(report.ranking) is None
    said = " ".join(report.sentences)
    assert "no common seed that went to its end" in said
    assert "The first is better than the second" not in said


def test_a_sweep_without_a_result_still_has_a_page(tmp_path: Path) -> None:
    report = made(tmp_path, TRIALS[5:])
    assert report.best is None
    assert not (tmp_path / "best.yaml").exists()
    assert "No trial counts" in report.html.read_text()
    assert "91 GiB" in report.html.read_text()


def test_no_file_holds_a_password(tmp_path: Path) -> None:
    uri = "postgresql://me:hunter2@host/runs"
    failed = Trial("c1", TRIALS[4].knobs, 1, "failed", f"cannot reach {uri}")
    secretive = replace(QUESTION, base=change(BASE, [("tracking.uri", uri)]))
    facts = {"command": f"python a.py tracking.uri={uri}"}
    report = write_report(secretive, [*TRIALS[:4], failed], tmp_path, facts=facts, parent=RunHandle(uri, "a", "b"))
    assert "postgresql://host/runs" in report.html.read_text()
    assert all(b"hunter2" not in path.read_bytes() for path in tmp_path.iterdir())


def _read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))
