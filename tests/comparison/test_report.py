"""The pages of a comparison, from made-up scores."""

import csv
from collections.abc import Callable
from pathlib import Path

from tats_ray.comparison.judging import Missing, Scored
from tats_ray.comparison.plan import Plan
from tats_ray.comparison.report import Report, write_report

Make = Callable[[dict], dict[str, Scored]]


def made(planned: Plan, make_scores: Make, folder: Path) -> Report:
    scores: dict[str, Scored | Missing] = dict(make_scores({("tats", "ridge/top1"): 0.05}))
    scores["duel-random-r0.9-s1"] = Missing("its disk <was> full")
    curves = {"sampler/motion_lift": {"tats, 0.9, seed 0": ([1.0, 2.0], [1.0, 1.5])}}
    return write_report(planned, scores, folder, facts={"commit": "abc"}, curves=curves)


def test_every_number_leads_to_its_run(planned: Plan, make_scores: Make, tmp_path: Path) -> None:
    report = made(planned, make_scores, tmp_path)
    page, text = report.html.read_text(), report.markdown.read_text()
    for entry in planned.entries:
        if entry.run != "duel-random-r0.9-s1":
            assert f'<a href="../../{entry.run}/0001">' in page
            assert f"(../../{entry.run}/0001)" in text
    assert page.index("What may be said") < page.index("Accuracies")
    assert all(sentence in text for sentence in report.sentences)
    assert "its disk &lt;was&gt; full" in page
    assert "its disk <was> full" in text


def test_tables_of_the_text_are_tables(planned: Plan, make_scores: Make, tmp_path: Path) -> None:
    """Every row of a table has as many cells as the row above."""
    lines = made(planned, make_scores, tmp_path).markdown.read_text().splitlines()
    rows = [(number, line.count("|")) for number, line in enumerate(lines) if line.startswith("|")]
    above = dict(rows)
    assert len(rows) > 50
    for number, cells in rows:
        assert above.get(number - 1, cells) == cells, lines[number]
    headings = [number for number, _ in rows if number - 1 not in above]
    assert all(set(lines[number + 1]) <= set("|-") for number in headings)


def test_the_table_holds_every_number_in_full(planned: Plan, make_scores: Make, tmp_path: Path) -> None:
    report = made(planned, make_scores, tmp_path)
    with report.table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(planned.entries)
    scores = make_scores({("tats", "ridge/top1"): 0.05})
    for row in rows:
        if row["note"]:
            assert row["run"] == "duel-random-r0.9-s1"
        else:
            assert float(row["ridge/top1"]) == scores[row["run"]].metrics["ridge/top1"]


def test_charts_are_small_files(planned: Plan, make_scores: Make, tmp_path: Path) -> None:
    charts = [path for path in made(planned, make_scores, tmp_path).files if path.suffix == ".png"]
    assert len(charts) == 5  # 2 budgets x 2 ratios x 1 reference, and the curves
    assert all(0 < path.stat().st_size < 300_000 for path in charts)
