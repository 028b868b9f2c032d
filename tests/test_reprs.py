"""What notebooks show."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.evaluation import plots

EVIL = "<img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Collects the tags of a page and checks that they close."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("img", "line", "rect", "polyline", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(value: object) -> str:
    page: str = value._repr_html_()  # type: ignore[attr-defined]  # that is what notebooks call
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "img" not in tags.seen
    return page


def test_a_data_set_shows_its_classes() -> None:
    source = fc.InMemory(np.zeros((3, 8, 8, 3), np.uint8), [EVIL, EVIL, "b"])
    page = shown(fc.Dataset.from_source(source))
    assert "<strong>3</strong> samples of 2 classes" in page
    assert "&lt;img" in page


def test_a_run_and_its_evaluation_show_curves_and_classes(run: fc.TrainingRun) -> None:
    page = shown(run)
    assert "Accuracy over" in page
    assert "correct (95&nbsp;% interval" in page
    assert "red" in shown(run.evaluation)


def test_predictions_show_the_answer_or_why_there_is_none() -> None:
    probabilities = np.array([0.3, 0.7], np.float32)
    known = fc.Prediction.of(EVIL, ("a", EVIL), probabilities)
    assert "70.0%" in shown(known)
    assert "unknown (too far)" in shown(fc.Prediction.of("1", ("a", "b"), probabilities, "too far"))
    assert "gone" in shown(fc.Prediction.failed("1", ("a", "b"), "gone"))


@pytest.mark.parametrize("dark", [False, True])
def test_every_plot_is_drawn_on_its_ground(
    run: fc.TrainingRun, tmp_path: Path, *, dark: bool
) -> None:
    assert run.evaluation is not None
    curves = run.history.to_dict()
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 3
    figures = {
        "history": plots.history_figure(curves, dark=dark),
        "learning rate": plots.learning_rate_figure(curves, dark=dark),
        "counts": plots.class_counts_figure({"a": 3, "$b$": 1}, dark=dark),
        "samples": plots.sample_grid(pictures, ["a", "b", "$c$"], dark=dark),
        "confusion": plots.confusion_figure(
            run.evaluation.confusion_matrix, run.evaluation.class_names, dark=dark
        ),
        "reliability": plots.reliability_figure(run.evaluation.reliability, dark=dark),
        "classes": plots.per_class_figure(run.evaluation.per_class, dark=dark),
        "predictions": plots.prediction_grid(
            pictures, ["a"] * 3, ["a", "b", "c"], [0.5] * 3, dark=dark
        ),
        "overlay": plots.overlay_figure(pictures, pictures, ["a", "b", "c"], dark=dark),
    }
    for name, figure in figures.items():
        path = plots.save_figure(figure, tmp_path / f"{name}.png")
        assert path.stat().st_size > 2000
        assert sum(figure.get_facecolor()[:3]) < 1 if dark else sum(figure.get_facecolor()[:3]) == 3
    assert b"<svg" in plots.save_figure(figures["counts"], tmp_path / "counts.svg").read_bytes()


def test_the_plots_of_an_evaluation_are_saved(run: fc.TrainingRun, tmp_path: Path) -> None:
    assert run.evaluation is not None
    assert run.evaluation.plot_reliability(tmp_path / "r.png").is_file()
    assert run.evaluation.plot_per_class(tmp_path / "c.svg", dark=True).is_file()
    assert run.history.plot_learning_rate(tmp_path / "l.pdf").is_file()
