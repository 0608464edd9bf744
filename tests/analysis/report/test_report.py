import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mnprobe.analysis.figures.curve import draw_curve
from mnprobe.analysis.report import gather, write_report
from mnprobe.analysis.report.collect import _blanking
from mnprobe.analysis.report.data import Model
from mnprobe.analysis.report.summary import caveats, headlines, last_points
from mnprobe.analysis.tables.alignment import read_alignment, write_table
from mnprobe.analysis.tsne.embedding import TsneConfig
from mnprobe.analysis.tsne.maps import TsneInput, draw_tsne
from mnprobe.core.errors import ConfigError
from mnprobe.core.names import FeatureId, Side
from mnprobe.core.rundir import RunDir
from mnprobe.features.extractors.base import EXTRACTORS
from mnprobe.probe import load_pair

EVIL = '<script>hacked=1</script><img src=x onerror="hacked=1">'
EVIL_NAME = "\"onload='hacked=1' <b>&amp; {{ 7*7 }}"


class _Page(HTMLParser):
    """Collects tags with attributes, and text, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def _page(run):
    return _Page(write_report(run).path.read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "first", {"init": {"seed": 4}})


@pytest.fixture
def full(run, write_pair, alignment_table, many_instructions):
    """A run with features, measurements and both figures."""
    paths = write_pair(run.path, many_instructions[:6], each=4)
    write_table(alignment_table(steps=(0, 1000)), run.results("alignment"))
    draw_curve(
        run.results("alignment"), stem=run.figures / "curve", table=run.results("curve"), command="mnprobe curve --x 1"
    )
    quick = TsneConfig(iterations=20, exaggeration_iterations=20)
    inputs = [TsneInput(pair=load_pair(*paths))]
    draw_tsne(inputs, stem=run.figures / "tsne", table=run.results("tsne"), space="raw", config=quick, command="c2")
    return run


def test_everything_of_the_run_is_in_the_page(full):
    page = _page(full)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    for image, name in zip(images, ("curve", "tsne"), strict=True):
        with Image.open(full.figures / f"{name}.png") as drawn:
            assert (image["width"], image["height"]) == tuple(map(str, drawn.size))
        kind, _, packed = image["src"].partition(";base64,")
        assert kind in ("data:image/png", "data:image/webp")
        with (
            Image.open(full.figures / f"{name}.png") as drawn,
            Image.open(io.BytesIO(base64.b64decode(packed))) as shown,
        ):
            assert np.array_equal(np.asarray(shown.convert("RGBA")), np.asarray(drawn.convert("RGBA")))  # nothing lost
        assert image["alt"]
    for words in (
        "mnprobe curve --x 1",
        "alignment.csv",
        "curve.csv",
        "tsne.csv",
        "24 ",
        "random (untrained)",
        "before training",
        "Episodes: 24; instructions: 6; tasks: 2.",
        "Glossary",
        f"mnprobe report --run {full.path}",
        "seed = 4",
    ):
        assert words in page.text, words


def test_the_headline_is_the_table(full):
    points = last_points(read_alignment(full.results("alignment"))).points
    lines = headlines(points)
    assert [line.value for line in lines] == points["value"].tolist()
    assert [(line.low, line.high, line.chance) for line in lines] == list(
        points[["ci_low", "ci_high", "chance"]].itertuples(index=False, name=None)
    )
    assert [line.is_claim for line in lines] == ([True] + [False] * 5) * 2
    assert [line.step for line in lines[:3]] == [1000, 0, 1000]
    text = " ".join(_page(full).text.split())
    claim = lines[0]
    row = (
        f"demonstrations (the claim) 1000 {claim.value * 100:.1f} {claim.low * 100:.1f} to {claim.high * 100:.1f} 12.5"
    )
    assert row in text
    assert "above chance 40 8 40 5 (1.0) trained" in text


def test_an_empty_run_says_what_to_do(run):
    page = _page(run)
    text = " ".join(page.text.split())
    for what, command in {
        "features of the understanding side": "extract",
        "features of the execution side": "extract",
        "alignment scores": "align",
        "alignment curve": "curve",
        "t-SNE": "tsne",
    }.items():
        assert f"no {what} yet: run mnprobe {command} --run {run.path}" in text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_missing_controls_are_named(run, write_pair, many_instructions):
    write_pair(run.path, many_instructions[:2])
    missing = {piece.what for piece in gather(run).missing}
    assert {"features with the instruction blanked (control a)", "pixel features (control c)"} <= missing
    write_pair(run.path, many_instructions[:2], source="demos-blank")
    write_pair(run.path, many_instructions[:2], understanding="pixels")
    assert not {piece.what for piece in gather(run).missing} & missing - {
        "alignment scores",
        "verdict in plain words",
        "alignment curve",
        "similarity heatmap",
        "t-SNE",
    }


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("arp", "arp-joint", "mnprobe extract --run RUN --model arp --blank-instruction"),
        ("", "arp-baseline", "mnprobe extract --run RUN --model arp --blank-instruction"),
        (
            "lerobot",
            "act",
            "mnprobe extract --run RUN --model lerobot:FOLDER --data DATASET --name act --blank-instruction",
        ),
        (
            "hook",
            "mine",
            "mnprobe import FEATURES_WITHOUT_INSTRUCTION --episodes TABLE --side execution --name mine "
            "--source demos-blank --run RUN",
        ),
    ],
)
def test_the_command_of_a_missing_control_is_for_the_model_at_hand(run, kind, name, command):
    model = Model(
        id=FeatureId(model=name, side=Side.EXECUTION, source="demos", step=0),
        provenance=json.dumps({"asked": {"extractor": kind}} if kind else {}),
        **dict.fromkeys(("layers", "checkpoint", "created", "versions", "language", "config", "file"), ""),
        episodes=1,
    )
    assert _blanking(run, model) == command.replace("RUN", str(run.path))
    if kind:
        assert ("blank_instruction" in EXTRACTORS.load(kind).option_defaults) == ("--blank-instruction" in command)


def test_hostile_strings_stay_text(tmp_path, write_pair, alignment_row):
    run = RunDir.create(tmp_path / EVIL_NAME.replace("/", ""), {"note": {"text": EVIL}})
    paths = write_pair(run.path, [(EVIL, f"{EVIL} {i}") for i in range(3)], each=2)
    rows = [alignment_row(understanding=EVIL, execution="</style>" + EVIL, config_hash=EVIL_NAME)]
    write_table(pd.DataFrame(rows), run.results("alignment"))
    write_table(pd.DataFrame({EVIL: ["a"], "b": [EVIL_NAME]}), run.results(EVIL_NAME))
    draw_curve(run.results("alignment"), stem=run.figures / "curve", table=run.results("curve"), command=EVIL)
    quick = TsneConfig(iterations=5, exaggeration_iterations=5)
    stem = run.figures / EVIL_NAME
    draw_tsne([TsneInput(pair=load_pair(*paths))], stem=stem, table=run.results("t"), space="raw", config=quick)
    source = write_report(run).path.read_text(encoding="utf-8")
    page = _Page(source)
    assert EVIL in page.text
    assert EVIL_NAME.replace("/", "") in page.text
    assert "49" not in re.findall(r"<title>(.*?)</title>", source)[0]
    _harmless(page)


def _harmless(page):
    """No event handler, no address but data: and anchors of the page itself, no script but ours and plotly's."""
    kinds = [attributes.get("type", "") for tag, attributes in page.tags if tag == "script"]
    assert kinds in ([""], ["", "text/plain", "text/plain", ""])
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "poster"):
                assert (value or "").startswith(("data:", "#")), (tag, value)
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    hashes = "; script-src" + r" 'sha256-[\w+/=]{44}'" * (3 if len(kinds) > 1 else 1)
    assert len(policies) == 1
    assert re.fullmatch(f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{hashes}", policies[0])


def test_an_ordinary_page_asks_for_nothing_either(full):
    page = _page(full)
    _harmless(page)
    source = full.report.read_text()
    assert "@import" not in source
    assert not re.findall(r"url\((?!data:|\"\$\{find)", source)  # the script names the sheet of thumbnails


def test_a_page_without_a_plot_has_one_script(run):
    page = _page(run)
    _harmless(page)
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 1


def test_broken_pieces_are_said_and_the_rest_is_shown(full):
    (full.figures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (full.figures / "curve.json").write_text("{")
    (full.path / "results" / "bad.csv").write_bytes(b"a\n\xff\n")
    (full.path / "results" / "empty.csv").write_text("")
    store = next((full.path / "features").rglob("*.h5"))
    store.write_bytes(b"not hdf5")
    full.results("alignment").write_text("a,b\n1,2\n")
    text = " ".join(_page(full).text.split())
    for words in (
        "figures/broken.png is no whole PNG image",
        "curve.json is not a figure's note",
        "results/bad.csv cannot be read",
        "results/empty.csv is empty",
        "A feature file cannot be read: ",
        "No headline: ",
        "lacks the columns understanding",
    ):
        assert words in text, words


def test_links_out_of_the_run_and_hidden_files_are_left_alone(run, tmp_path):
    (tmp_path / "secret.csv").write_text("password\nxyzzy\n")
    (run.path / "results").mkdir()
    (run.path / "results" / "leak.csv").symlink_to(tmp_path / "secret.csv")
    (run.path / "results" / ".half.csv.1.part.csv").write_text("a\n1\n")
    data = gather(run)
    assert data.tables == ()


def test_long_tables_are_folded_and_cut_with_a_word(run):
    write_table(pd.DataFrame({"n": range(2500)}), run.results("long"))
    write_table(pd.DataFrame({"n": range(3), "name": ["NA", "1.0", "0.123456789"]}), run.results("short"))
    data = gather(run)
    assert [(table.name, len(table.rows), table.total) for table in data.tables] == [
        ("long.csv", 2000, 2500),
        ("short.csv", 3, 3),
    ]
    assert data.tables[1].rows[0] == ("0", "NA")
    assert data.tables[1].rows[2] == ("2", "0.123457")
    page = _page(run)
    assert "The first 2000 of 2500 rows; all are in results/long.csv." in page.text
    opened = ["open" in attributes for tag, attributes in page.tags if tag == "details"]
    # answers of three tabs with the controls explained among them, long, short, hashes, run.toml
    assert opened == [False, False, False, False, False, True, False, False]


def test_a_damaged_run_file_is_an_error(run):
    run.config_path.write_text("[")
    with pytest.raises(ConfigError, match=r"run\.toml is damaged"):
        write_report(RunDir(run.path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trained_e": False}, "Random weights: arp at step 0."),
        (
            {"n_test": 10},
            "Few samples (holdout episodes): 10 test episodes; one episode more or less moves the score by 10.0",
        ),
        ({"n_groups": 4}, "Few groups (holdout episodes): 4;"),
        ({"ci_low": 0.2, "ci_high": 0.8}, "Wide interval (holdout episodes): from 20.0 % to 80.0 %."),
        ({"ci_low": 0.1, "ci_high": 0.2}, "Not above chance (holdout episodes): the interval includes 12.5 %."),
        ({"ci_low": "", "ci_high": ""}, "No interval (holdout episodes)"),
        ({"chance": 0.2625}, "Uneven groups (holdout episodes): chance is 26.2 %, more than 1/groups = 12.5 %."),
        ({"n_seeds": 1}, "Few probe seeds (holdout episodes): 1;"),
    ],
)
def test_each_doubt_is_said_when_it_applies_and_only_then(alignment_row, tmp_path, change, words):
    def told(row):
        write_table(pd.DataFrame([row]), tmp_path / "a.csv")
        table = read_alignment(tmp_path / "a.csv")
        return " ".join(caveats(last_points(table).points, table))

    good = {"n_test": 200, "n_groups": 8}
    assert words in told(alignment_row(**(good | change)))
    assert told(alignment_row(**good)) == ""


def test_controls_near_the_claim_are_caveats_and_as_high_is_said_only_of_as_high(alignment_row, tmp_path):
    def told(**blank):
        rows = [alignment_row(n_test=200), alignment_row(source_e="demos-blank", n_test=200, **blank)]
        ties = alignment_row(metric="tied_share", value=0.4)
        write_table(pd.DataFrame([*rows, ties]), tmp_path / "a.csv")
        table = read_alignment(tmp_path / "a.csv")
        return caveats(last_points(table).points, table)

    overlap = told(value=0.4, ci_low=0.25, ci_high=0.5)  # the difference: +10 points, -4.1 to +28.0
    assert overlap[0] == (
        "Not told apart from a control at this sample size (holdout episodes): the claim 50.0 % (40.0 % to 60.0 %), "
        "instruction blanked 40.0 % (25.0 % to 50.0 %)."
    )
    assert overlap[1].startswith("Ties: up to 40.0 % of the queries")
    assert told(value=0.35, ci_low=0.2, ci_high=0.45)[0].startswith("Ties")  # both intervals overlap; +0.9 to +33.0
    assert told(value=0.5)[0].startswith("Not told apart from a control")
    assert told(value=0.8, ci_low=0.7, ci_high=0.9)[0] == (
        "A control scores as high (holdout episodes): instruction blanked 80.0 %; the claim 50.0 %. "
        "What the control has is enough for this score."
    )
    assert told(value=0.2, ci_low=0.1, ci_high=0.3)[0].startswith("Ties")


def test_a_score_that_is_chance_up_to_rounding_is_not_above_it(alignment_row, tmp_path):
    third = 1 / 3
    row = alignment_row(n_test=200, value=third, ci_low=third + 1e-16, ci_high=third + 1e-16, chance=third - 1e-16)
    write_table(pd.DataFrame([row]), tmp_path / "a.csv")
    points = last_points(read_alignment(tmp_path / "a.csv")).points
    assert headlines(points)[0].verdict == "includes chance"


def test_episodes_are_counted_once_with_the_outcome_that_any_file_knows(run, tmp_path):
    from mnprobe.features import write_features

    for model, side, success in (("viclip", "understanding", [-1, -1, -1]), ("arp", "execution", [1, 0, -1])):
        episodes = {"id": list("abc"), "task": ["t"] * 3, "instruction": ["i", "i", "k"], "success": success}
        path = run.features(model, "demos", 0)
        write_features(path, model=model, side=side, episodes=episodes, layers={"x": np.zeros((3, 2))})
    assert gather(run).episodes.rows == (("t", "i", "", "2", "1", "1", "0"), ("t", "k", "", "1", "0", "0", "1"))
