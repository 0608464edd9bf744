import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D

from mnprobe.analysis.audit.controls import controls_table
from mnprobe.analysis.audit.figures import controls_figure, decomposition_figure
from mnprobe.analysis.audit.findings import Finding
from mnprobe.analysis.comparison.figure import compare_figure
from mnprobe.analysis.figures.curve import curve_figure
from mnprobe.analysis.figures.curve_data import curve_data
from mnprobe.analysis.figures.layout import FigureLayout, text_collisions
from mnprobe.analysis.figures.style import DPI, house_style, new_figure
from mnprobe.analysis.report.comparison import SideCurve, side_figure
from mnprobe.analysis.similarity import make_index
from mnprobe.analysis.success.contrast import contrast_table
from mnprobe.analysis.success.figure import last_contrasts, success_figure
from mnprobe.analysis.tables.alignment import read_alignment, write_table
from mnprobe.analysis.tables.progress import recognition_progress
from mnprobe.analysis.tsne.embedding import Embedding, Quality, TsneConfig
from mnprobe.analysis.tsne.figure import TsnePanel, tsne_figure
from mnprobe.analysis.tsne.maps import SeriesMap, TsneSeries, quality_table
from mnprobe.analysis.tsne.series import purity_figure, series_figure

LONG = "a_very_long_name_without_any_break_" * 5


def _names(long):
    """Models and trainings by the names of the fixtures, each with a long name where `long`."""
    names = ["viclip", "arp", "viclip-baseline", "arp-baseline", "viclip-joint", "arp-joint"]
    return {name: f"{name}{LONG if long else ''}" for name in names}


def _alignment(table, folder, long=False):
    write_table(table.replace(_names(long)), folder / "alignment.csv")
    return read_alignment(folder / "alignment.csv")


def _curve(request, long, **options):
    data = curve_data(
        _alignment(request.getfixturevalue("alignment_table")(**options), request.getfixturevalue("tmp_path"), long)
    )
    return curve_figure(data)


def _curve_of_trainings(request, long):
    run = request.getfixturevalue("one")
    table = pd.read_csv(run.results("alignment"), keep_default_na=False)
    data = curve_data(_alignment(table, request.getfixturevalue("tmp_path"), long))
    return curve_figure(data, progress=[recognition_progress(run.results("recognition"), ["viclip"])])


def _controls(request, long):
    folder = request.getfixturevalue("tmp_path")
    table = _alignment(request.getfixturevalue("alignment_table")(), folder, long)
    about = {"topic": "rise", "conclusion": "more", "understanding": "viclip", "execution": "arp"}
    sentence = "Alignment rises over training, by more than each control. " * (5 if long else 2)
    findings = [Finding(**about, holdout=name, written=sentence) for name in ("episodes", "both")]
    return controls_figure(controls_table(table, folder / "hits"), tuple(findings))


def _decomposition(long):
    name = LONG if long else "arp"
    quantities = [
        ("recall", "instruction"),
        ("right", "task"),
        ("right given coarser", "variation"),
        ("oracle", "task"),
    ]
    quantities += [("without", "task"), ("without", "variation")]
    rows = [
        {"understanding": name, "execution": name, "source_e": "demos", "holdout": holdout, "quantity": quantity,
         "factor": factor, "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "chance": 0.1, "n_test": 40,
         "note": f"given the {LONG if long else 'task'}"}
        for holdout in ("episodes", "instructions")
        for (quantity, factor), value in zip(quantities, (0.5, 0.9, 1.0, 0.25, 0.4, np.nan), strict=True)
    ]  # fmt: skip
    return decomposition_figure(pd.DataFrame(rows), note="Episodes of one world")


def _success(request, long):
    kept_scores = request.getfixturevalue("kept_scores")
    scores = [
        kept_scores(difference=0.3, holdout=holdout, mode=mode, seed=1)
        for holdout in ("episodes", "instructions")
        for mode in ("own-probe", "shared-probe")
    ]
    rows = last_contrasts(contrast_table(scores, resamples=99))
    other = rows.assign(side="understanding")  # four groups of bars, the most there can be
    return success_figure(pd.concat([rows, other], ignore_index=True).replace(_names(long)))


def _comparison(long, shape, grid="layers"):
    generator = np.random.default_rng(0)
    name = LONG if long else "blocks"
    rows = []
    for row in range(shape[0]):
        for column in range(shape[1]):
            value = float(generator.uniform(-0.1, 0.9))
            rows.append(
                {"grid": grid, "understanding": f"viclip{name}", "execution": f"arp{name}", "layer_u": f"{name}.{row}",
                 "layer_e": f"{name}.{column}", "step_u": 100 * row, "step_e": 100 * column, "trained_u": row > 0,
                 "trained_e": True, "value": value, "null_95": 0.2, "p_max": 0.01 if value > 0.6 else 0.5}
            )  # fmt: skip
    about = make_index("debiased_cka").about
    title = f"Debiased CKA: viclip and arp, layer by layer{LONG if long else ''}"
    return compare_figure(pd.DataFrame(rows), about, title=title, caption="A sentence of the caption. " * 20)


def _quality(points="all"):
    return Quality(
        points=points, count=40, trust_neighbours=10, trustworthiness=0.953, neighbours=5, purity=0.61,
        purity_chance=0.13, across_neighbours=3, across=0.5, across_chance=0.12,
    )  # fmt: skip


def _panel(long, instructions, training="joint", number=0):
    generator = np.random.default_rng(number)
    names = [f"do the thing number {i} {LONG if long else ''}" for i in range(instructions)]
    ids = [f"e{i}" for i in range(4 * instructions)]
    points = pd.DataFrame(
        {
            "id": ids * 2,
            "task": [f"task_{i % instructions // 5}{LONG if long else ''}" for i in range(4 * instructions)] * 2,
            "instruction": [names[i % instructions] for i in range(4 * instructions)] * 2,
            "side": ["understanding"] * len(ids) + ["execution"] * len(ids),
            "model": [f"viclip-{training}"] * len(ids) + [f"arp-{training}"] * len(ids),
            "fitted": [i % 3 == 0 for i in range(len(ids))] * 2,
        }
    )
    spots = generator.normal(size=(len(points), 2))
    embedding = Embedding(coordinates=spots, perplexity=30.0, trustworthiness=0.95, neighbors=10, kl=1.0)
    return TsnePanel(
        title=f"{training}, step 100",
        subtitle=f"heads of the run {training}",
        points=points,
        embedding=embedding,
        qualities=(_quality(), _quality("held-out"), _quality("fitted")),
    )


def _map(long, panels, instructions):
    name = f"joint{LONG if long else ''}"
    shown = [_panel(long, instructions, name, number) for number in range(panels)]
    return tsne_figure(shown, TsneConfig(), title=f"t-SNE {name}", caption="A sentence of the caption. " * 30)


def _series(long):
    trainings = (f"baseline{LONG if long else ''}", "joint")
    maps = [
        SeriesMap(training=training, step=step, panel=_panel(long, 9, training, step), moved=0.1)
        for training in trainings
        for step in ((0, 1000, 20000) if training != "joint" else (0, 20000))
    ]
    return TsneSeries(maps=tuple(maps), notes=())


def _side_by_side(long):
    steps = [0, 100, 5000]
    points = pd.DataFrame(
        {"step": steps, "value": [0.2, 0.4, 0.5], "ci_low": [0.1, 0.3, 0.4], "ci_high": [0.3, 0.5, 0.6], "chance": 0.1}
    )
    name = LONG if long else ""
    curves = [
        SideCurve(
            run=f"{run}{name}",
            training=training,
            holdout=holdout,
            points=points.assign(value=points["value"] + 0.1 * i),
        )
        for i, run in enumerate(("_first", "second$x$"))
        for training in ("baseline", "joint")
        for holdout in ("episodes", "instructions")
    ]
    return side_figure(curves)


FIGURES = {
    "curve": lambda request, long: _curve(request, long),
    "curve-one-checkpoint": lambda request, long: _curve(request, long, steps=(0,)),
    "curve-one-holdout": lambda request, long: _curve(request, long, holdouts=("episodes",)),
    "curve-of-trainings": _curve_of_trainings,
    "controls": _controls,
    "decomposition": lambda _, long: _decomposition(long),
    "success": _success,
    "compare": lambda _, long: _comparison(long, (4, 7)),
    "compare-one-cell": lambda _, long: _comparison(long, (1, 1)),
    "compare-many": lambda _, long: _comparison(long, (56, 52)),
    "compare-checkpoints": lambda _, long: _comparison(long, (3, 12), "checkpoints"),
    "tsne": lambda _, long: _map(long, 1, 5),
    "tsne-many": lambda _, long: _map(long, 3, 60),
    "tsne-tasks": lambda _, long: _map(long, 2, 90),
    "series": lambda _, long: series_figure(_series(long), title="t-SNE over training", caption="Caption. " * 60),
    "purity": lambda _, long: purity_figure(quality_table(_series(long)), title="Purity", caption="Caption. " * 60),
    "side-by-side": lambda _, long: _side_by_side(long),
}


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_another_or_the_edge(request, name, long):
    figure = FIGURES[name](request, long)
    assert text_collisions(figure) == []
    ink, (width, height) = figure.get_tightbbox(figure.canvas.get_renderer()), figure.get_size_inches()
    assert min(ink.x0, ink.y0) >= 0  # legends and marks, too
    assert ink.x1 <= width
    assert ink.y1 <= height


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_at_most_1600_by_1200_pixels(request, name):
    figure = FIGURES[name](request, False)
    width, height = figure.get_size_inches() * DPI
    assert width <= 1600
    assert height <= 1200


def _pairs(table, number):
    """The rows of `table` for so many pairs of models."""
    return pd.concat(
        [
            table.assign(understanding=table["understanding"] + f"-seed{i}", execution=table["execution"] + f"-seed{i}")
            for i in range(1, number + 1)
        ],
        ignore_index=True,
    )


def test_a_run_with_many_pairs_draws_the_first_and_says_how_many_are_left(request, kept_scores, tmp_path):
    rows = last_contrasts(contrast_table([kept_scores(difference=0.3)], resamples=19))
    figure = success_figure(_pairs(rows, 9))
    assert len(figure.axes) == 4
    assert any("5 more in results/success_contrast.csv" in text.get_text() for text in figure.texts)
    assert (figure.get_size_inches() * DPI <= (1600, 1200)).all()
    assert text_collisions(figure) == []
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert not [text for text in words if "p 1" in text or "-0.0" in text]


def test_values_above_bars_are_possible_and_say_nothing_where_nothing_is_known(kept_scores):
    rows = last_contrasts(contrast_table([kept_scores()], resamples=19))
    rows = rows.assign(difference=-0.0, ci_low=-1.2, ci_high=1.046, p_holm=1.0, detectable=1.06)
    words = [
        text.get_text() for axes in success_figure(rows).axes for text in axes.texts if "points" in text.get_text()
    ]
    assert words
    assert all(text.startswith("+0.0 points\n[-100.0, +100.0]\nn.s.") for text in words)
    assert not any("visible from" in text for text in words)


def test_the_check_finds_overlaps_and_text_at_the_edge():
    with house_style():
        figure = new_figure(3, 2)
        axes = figure.add_axes((0.2, 0.2, 0.6, 0.6))
        axes.set_xticks([0, 0.02, 0.9, 7], ["zero", "near", "far", "outside"])
        axes.set_xlim(0, 1)
        figure.text(0.9, 0.5, "beyond the edge")
        figure.text(0.5, 0.9, "above").set_visible(False)
        figure.text(0.5, 0.9, "above too")
    found = text_collisions(figure)
    assert found == ["'beyond the edge' crosses the edge", "'near' overlaps 'zero'"]


def _layout(**options):
    with house_style():
        layout = FigureLayout([2.0, 2.0], [1.5, 1.0], title="title", caption="word " * 80, **options)
        for row, column in ((0, 0), (0, 1), (1, 0)):
            axes = layout.panel(row, column)
            axes.plot([0, 1], [0, 1000 if column else 1])
            axes.set_ylabel("value")
            axes.set_title("a title of some width" if column == 0 else "another title")
        layout.legend([Line2D([], [], label=f"line {number} of the legend") for number in range(7)])
        layout.paragraph(["one finding", "another finding"])
        return layout.finish()


def test_panels_keep_their_size_and_the_figure_has_whole_pixels():
    figure = _layout()
    width, height = figure.get_size_inches()
    sizes = [(box.width * width, box.height * height) for box in (axes.get_position() for axes in figure.axes)]
    np.testing.assert_allclose(sizes, [(2.0, 1.5), (2.0, 1.5), (2.0, 1.0)], rtol=1e-9)
    assert (figure.get_size_inches() * DPI).round(6).tolist() == (figure.get_size_inches() * DPI).round().tolist()
    assert text_collisions(figure) == []
    left, right, below = (axes.get_position() for axes in figure.axes)
    assert left.x0 == below.x0  # columns and rows are aligned
    assert left.y0 == right.y0


def test_a_limit_shrinks_panels_and_never_the_text():
    free, bound = _layout(), _layout(limit=(700, 760))
    assert (free.get_size_inches() * DPI > (700, 760)).all()
    assert (bound.get_size_inches() * DPI <= (700, 760)).all()
    assert text_collisions(bound) == []
    sizes = {text.get_fontsize() for text in bound.texts}
    assert sizes == {text.get_fontsize() for text in free.texts}
    tiny = _layout(limit=(10, 10))
    assert tiny.axes[0].get_position().width * tiny.get_size_inches()[0] == pytest.approx(
        1.0
    )  # half of its size, and no smaller
    assert text_collisions(tiny) == []


def test_a_legend_takes_the_columns_that_fit():
    figure = _layout()
    assert figure.legends[0]._ncols == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == [
        "line 0 of the legend",
        "line 1 of the legend",
    ]
