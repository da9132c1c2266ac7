"""The page: its first screen has question, answer and verdicts, and what few readers need is folded away."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from icecore.experiments.results import RunRecord
from icecore.report import write_report
from icecore.report.answer import find_answer
from icecore.report.effects import Decision, Effect
from icecore.report.page import PageContent, PlotStyles, render_page
from icecore.report.plots import Plot
from icecore.report.result_tables import build_tables
from icecore.report.verdict_lines import TOP_VERDICTS, list_verdicts
from icecore.report.verdicts import evaluate_claims
from result_samples import cell

RANDOM: Mapping[str, Any] = {"weights": "random"}


def table2() -> list[RunRecord]:
    """Table 2 with two tasks, a gap, and a note."""
    draws = [
        replace(run, config={**run.config, "body_seed": seed})
        for seed, run in enumerate(cell("random", tests=(0.30, 0.31, 0.32), settings={**RANDOM}))
    ]
    return [
        *cell("pretrained", tests=(0.79, 0.80, 0.81)),
        *draws,
        *cell("none", tests=(0.86, 0.87, 0.88), settings={"backbone": "none", **RANDOM}),
        *cell("pretrained", "cifar10", tests=(0.20, 0.21, 0.22)),
        *cell("pretrained", "cifar10", tests=(0.1, 0.1, 0.1), settings={"lr": 3e-3}, val_metric=0.1),
    ]


class FoldedText(HTMLParser):
    """Splits the text of a page into what is in sight and what is folded away, and counts open details."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.depth, self.opened = 0, 0
        self.is_style = self.is_summary = False
        self.sight, self.folded = "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag == "details"
        self.opened += tag == "details" and "open" in dict(attrs)
        self.is_style = self.is_style or tag == "style"
        self.is_summary = self.is_summary or tag == "summary"

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "details"
        self.is_style = self.is_style and tag != "style"
        self.is_summary = self.is_summary and tag != "summary"

    def handle_data(self, data: str) -> None:
        if self.is_style:
            return
        if self.depth == 0 or (self.depth == 1 and self.is_summary):
            self.sight += data
        else:
            self.folded += data


def page_of(records: Sequence[RunRecord], folder: Path) -> str:
    write_report(records, [], folder / "report", folder)
    return (folder / "report" / "index.html").read_text()


def test_the_story_comes_first(tmp_path: Path) -> None:
    text = page_of(table2(), tmp_path)
    places = [
        text.index(part)
        for part in (
            "<h1>Does language teach a transformer to compute?",
            'class="answer"',
            'id="verdicts-title"',
            'class="reading"',
            "<table>",
            'id="leaderboard"',
        )
    ]
    assert places == sorted(places)
    first_screen = FoldedText(text[: text.index('class="reading"')]).sight
    assert "A frozen body that was pretrained on language is better than a random one." in first_screen
    assert "holds" in first_screen


def test_commands_run_ids_and_notes_are_folded_away(tmp_path: Path) -> None:
    records = table2()
    page = FoldedText(page_of(records, tmp_path))
    note = "The chosen learning rate is the smallest of the sweep"
    for hidden in (records[0].run_id, records[0].command, note, "CPU, 2 threads", "2.13.0"):
        assert hidden in page.folded
        assert hidden not in page.sight
    for shown in ("80.0", "± 0.6", "published 98.0", "What the body was pretrained on", "mnist"):
        assert shown in page.sight
    assert page.opened == 0


def test_the_figure_has_our_numbers_beside_the_published_ones() -> None:
    answer = find_answer(build_tables(table2()))
    assert answer is not None
    assert [panel.task for panel in answer.panels] == ["mnist", "cifar10"]
    assert answer.lacking == ("bit-memory", "bit-xor", "listops", "cifar10-lra", "remote-homology")
    mnist, cifar10 = answer.panels
    assert [(bar.label, bar.kind) for bar in mnist.bars] == [
        ("language", "language"),
        ("random", "random"),
        ("no body", "none"),
    ]
    assert [round(bar.ours.mean) for bar in mnist.bars if bar.ours] == [80, 31, 87]
    assert [bar.published.mean if bar.published else None for bar in mnist.bars] == [98.0, 91.7, None]
    assert (mnist.end, mnist.trivial) == (100, 10)
    assert [bar.ours is None for bar in cifar10.bars] == [False, True, True]
    assert cifar10.end == 80  # the published number is the largest
    assert cifar10.place(20) == 25
    assert cifar10.place(200) == 100


def test_the_figure_is_of_the_table_that_says_most() -> None:
    few = [replace(run, key=replace(run.key, budget="full", body="gpt2")) for run in cell()]
    trial = [replace(run, key=replace(run.key, budget="smoke")) for run in table2()]
    answer = find_answer(build_tables([*few, *trial, *table2()]))
    assert answer is not None
    assert (answer.table.budget, answer.table.body) == ("cpu", "minilm")
    assert not answer.is_comparable
    answer = find_answer(build_tables([*few, *trial]))
    assert answer is not None
    assert answer.table.budget == "full"
    assert answer.is_comparable
    answer = find_answer(build_tables(trial))
    assert answer is not None
    assert answer.table.budget == "smoke"


def test_without_results_of_the_question_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    text = page_of(cell("wide", study="my grid"), tmp_path)
    page = FoldedText(text)
    assert "There are no results yet that answer it. icecore paper table2 --budget cpu makes them." in page.sight
    assert 'class="answer"' not in text
    assert "my grid" in page.sight


def test_the_top_has_the_most_important_verdicts_that_rest_on_results() -> None:
    verdicts = evaluate_claims(table2())
    shown = list_verdicts(verdicts)
    top = shown.top
    assert len(top) <= TOP_VERDICTS
    assert len(top) + len(shown.others) == len(verdicts)
    assert shown.group == "budget cpu, minilm"
    assert top[0].statement == "A frozen body that was pretrained on language is better than a random one."
    assert top[0].tone == "holds"
    assert "Holds on mnist" in top[0].detail
    assert "+49.0 points (95 %: " in top[0].detail
    assert "minilm" not in top[0].detail  # all have this body
    assert all(line.text != "not run" for line in top)
    assert {line.text for line in shown.others} == {"not run"}
    assert "Would cost about" in shown.others[-1].detail


def test_a_claim_with_several_comparisons_on_a_task_counts_them() -> None:
    rows = [*cell("smollm2"), *cell("mpnet", tests=(0.4, 0.41, 0.42)), *table2()]
    verdict = next(each for each in evaluate_claims(rows) if each.claim.name == "other-language-models")
    (line,) = list_verdicts([verdict]).top
    assert line.detail.startswith("Holds on 1, does not hold on 1 of 2 comparisons; 12 more decide nothing. On average")


@pytest.mark.parametrize(
    ("decision", "tone"),
    [
        (Decision.HOLDS, "holds"),
        (Decision.FAILS, "fails"),
        (Decision.DIFFERS, "mixed"),
        (Decision.UNSEEN, "open"),
        (Decision.TOO_FEW, "open"),
    ],
)
def test_a_verdict_has_the_tone_of_its_decision(decision: Decision, tone: str) -> None:
    verdict = replace(evaluate_claims(table2())[0], decision=decision)
    (line,) = list_verdicts([verdict]).top
    assert line.tone == tone


def test_an_effect_on_examples_is_a_ratio() -> None:
    verdicts = [each for each in evaluate_claims(table2()) if each.claim.measure == "examples"]
    verdict = replace(verdicts[0], decision=Decision.HOLDS, effect=Effect(2.0, 1.5, 2.5, 0.1))
    (line,) = list_verdicts([verdict]).top
    assert "2.0 times the examples (95 %: 1.5 to 2.5)." in line.detail


def test_styles_of_plots_are_in_the_page_once_and_follow_the_theme() -> None:
    styles = PlotStyles()
    path = '<path id="a-long" style="fill: #ffffff"/>'
    svg = f'<?xml?><svg>\n {path} <use xlink:href="#a-long" style="fill: #ffffff"/><text>style="x" &gt;</text></svg>'
    element = styles.inline(Plot("a", "A <caption>", b"", svg))
    assert element.count('class="p0"') == 2
    assert '<path id="i0" class="p0"/><use xlink:href="#i0" class="p0"/>' in element
    assert '<text>style="x" &gt;</text>' in element  # only tags are changed, so no label can add a rule
    assert 'aria-label="A &lt;caption&gt;"' in element
    assert styles.css() == ".p0 {fill: var(--paper)}\n"


def test_the_page_stays_small(tmp_path: Path) -> None:
    text = page_of(table2(), tmp_path)
    body = text[text.index("<body>") :]
    assert body.count(" style=") == body.count(' style="left:') + body.count(' style="width:')
    assert len(text) < 150_000


def test_rows_that_were_not_run_are_one_line(tmp_path: Path) -> None:
    text = page_of(table2(), tmp_path)
    assert "Not run: pretrained on nested brackets (Dyck); pretrained on cellular automata; " in text
    assert text.count("pretrained on nested brackets (Dyck)") == 1
    assert '<th scope="row">pretrained on images (ViT)' in text  # it has published numbers


def test_names_from_files_stay_text() -> None:
    odd = [replace(run, key=replace(run.key, row="<script>", body="<i>")) for run in cell()]
    text = render_page(PageContent(build_tables(odd), answer=find_answer(build_tables(odd)), faults=["<b>"]))
    assert "<script" not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;script&gt;" in text
