import base64
import gzip
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mnprobe.analysis.report import gather, write_report
from mnprobe.analysis.report.explorer import as_json, explorer, plotly_library
from mnprobe.analysis.report.thumbnails import Origin, draw_thumbnails, find_data
from mnprobe.analysis.tables.alignment import write_table
from mnprobe.analysis.tsne.embedding import TsneConfig
from mnprobe.analysis.tsne.maps import TsneInput, draw_tsne
from mnprobe.core.rundir import RunDir
from mnprobe.data import open_dataset
from mnprobe.probe import load_pair

QUICK = TsneConfig(iterations=5, exaggeration_iterations=5)
EVIL = "</script><script>hacked=1</script><!--<script>&\u2028"


class _Scripts(HTMLParser):
    """Collects the script elements of a page: their attributes and texts."""

    def __init__(self, text):
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "script":
            self.found.append((dict(attrs), ""))
            self._open = True
        if tag == "meta" and dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"] or ""

    def handle_endtag(self, tag):
        self._open = self._open and tag != "script"

    def handle_data(self, data):
        if self._open:
            self.found[-1] = (self.found[-1][0], self.found[-1][1] + data)


def _points(**changes):
    row = {"panel": "p", "side": "understanding", "model": "viclip", "id": "t/0/episode0", "task": "t"}
    row |= {"instruction": "go", "partition": "test", "success": 1, "fitted": False, "x": 0.5, "y": 1.0}
    return row | changes


def _payload(run):
    problems: list[str] = []
    found = explorer(run, problems)
    assert not problems, problems
    return json.loads(found.payload)


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "run")


def test_points_episodes_and_neighbors_are_those_of_the_table(run, write_pair, many_instructions):
    pair = load_pair(*write_pair(run.path, many_instructions[:3], each=4, step=9))
    draw_tsne([TsneInput(pair=pair)], stem=run.figures / "tsne", table=run.results("tsne"), config=QUICK)
    data = _payload(run)
    table = pd.read_csv(run.results("tsne"))
    view = data["views"][0]
    assert [data["episodes"][place][0] for place in view["episode"]] == table["id"].tolist()
    assert view["x"] == pytest.approx(table["x"].tolist(), abs=6e-4)
    assert view["side"] == [0] * 12 + [1] * 12
    assert [data["models"][place] for place in view["model"]] == table["model"].tolist()
    assert (view["shared"], view["step"], view["slides"]) == (True, 9, False)
    assert "trustworthiness" in view["quality"]
    for near, row in zip(view["near"], table.to_dict("records"), strict=True):
        assert near[:2] == pytest.approx([row["own_cosine"], row["own_rank"]], abs=6e-4)
        assert [data["episodes"][place][0] for place in near[2::2]] == [row[f"neighbour_{k}"] for k in (1, 2, 3)]
        assert near[3::2] == pytest.approx([row[f"cosine_{k}"] for k in (1, 2, 3)], abs=6e-4)
    colors = data["colours"]["instruction"]
    assert set(colors) == {f"{task}\n{instruction}" for task, instruction in many_instructions[:3]}


def test_checkpoints_of_one_thing_follow_each_other_on_a_slider(run):
    titles = ["baseline, step 0", "baseline, step 100", "joint, step 100"]
    rows = [_points(panel=title, side=side) for title in titles for side in ("understanding", "execution")]
    write_table(pd.DataFrame(rows), run.results("tsne-training"))
    write_table(pd.DataFrame([_points(panel="u before the heads")]), run.results("tsne-raw"))
    views = _payload(run)["views"]
    assert [view["title"] for view in views] == [*titles, "u before the heads"]
    assert [view["slides"] for view in views] == [True, True, False, False]
    assert [view["step"] for view in views] == [0, 100, 100, None]
    assert views[0]["group"] == views[1]["group"] != views[2]["group"]
    assert not views[3]["shared"]


def test_played_episodes_of_two_policies_are_not_one_episode(run):
    rows = [
        _points(panel=model, side="execution", model=model, source="rollouts", step=7, success=outcome)
        for model, outcome in (("arp-baseline", 0), ("arp-joint", 1))
    ]
    write_table(pd.DataFrame(rows), run.results("tsne"))
    data = _payload(run)
    assert [one[4] for one in data["episodes"]] == [0, 1]


def test_damaged_tables_are_told_and_an_old_one_says_how_to_get_neighbors(run):
    write_table(pd.DataFrame([_points()]), run.results("tsne"))
    write_table(pd.DataFrame([_points(x="left")]), run.results("tsne-bad"))
    write_table(pd.DataFrame({"a": [1]}), run.results("tsne-none"))
    data = gather(run)
    assert f"mnprobe tsne --run {run.path}" in " ".join(data.explorer.notes)
    told = " ".join(data.problems)
    assert "results/tsne-bad.csv cannot be explored: column x has cells that are no number" in told
    assert "results/tsne-none.csv cannot be explored: it lacks the columns panel, side" in told


def test_strings_of_the_data_cannot_leave_the_script_element(run):
    names = {"panel": EVIL, "model": EVIL, "id": EVIL, "task": EVIL, "instruction": EVIL, "partition": EVIL}
    write_table(pd.DataFrame([_points(**names)]), run.results("tsne"))
    scripts = _Scripts(write_report(run).path.read_text(encoding="utf-8"))
    assert [attributes.get("type") for attributes, _ in scripts.found] == [None, "text/plain", "text/plain", None]
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", scripts.found[1][1])
    raw = gzip.decompress(base64.b64decode(scripts.found[1][1])).decode("ascii")
    assert not set("<>&\u2028") & set(raw)
    data = json.loads(raw)
    assert data["episodes"][0][:4] == [EVIL, EVIL, EVIL, EVIL]
    assert data["models"] == [EVIL]
    assert as_json(EVIL) in raw


def test_only_the_scripts_whose_hashes_the_policy_names_may_run(run):
    write_table(pd.DataFrame([_points()]), run.results("tsne"))
    scripts = _Scripts(write_report(run).path.read_text(encoding="utf-8"))
    page, ours = (scripts.found[place][1].encode() for place in (0, 3))
    library = gzip.decompress(base64.b64decode(scripts.found[2][1]))
    allowed = re.findall(r"'sha256-([^']+)'", scripts.policy)
    assert allowed == [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (page, ours, library)]
    assert b"plotly.js " + plotly_library().version.encode() in library[:100]
    assert "'unsafe-inline'" not in scripts.policy.partition("script-src")[2]


def test_thumbnails_are_a_middle_frame_beside_the_last_one(run, write_demo):
    for number, task in enumerate(("close_jar", "open_drawer")):
        write_demo(run.demos, task, 0, "test", number, f"do {task}", 5)
    origin = Origin("demos")
    wanted = [
        (origin, f"{task}/0/test-episode{n}", f"do {task}") for n, task in enumerate(("close_jar", "open_drawer"))
    ]
    wanted += [(origin, "close_jar/0/test-episode9", "do close_jar"), (origin, "nothing/0/episode0", "do")]
    sheet = draw_thumbnails(run, wanted)
    assert set(sheet.places) == {(origin, name) for _, name, _ in wanted[:2]}
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.image))).convert("RGB"), dtype=float)
    assert drawn.shape[1::-1] == sheet.size
    for (_, name, _), folder in zip(
        wanted[:2], sorted(run.demos.glob("test/*/all_variations/episodes/*")), strict=True
    ):
        place = sheet.places[origin, name]
        top, left = place // sheet.columns * sheet.height, place % sheet.columns * sheet.width
        cell = drawn[top : top + sheet.height, left : left + sheet.width]
        edge = sheet.width // 2
        for half, frame in ((cell[:, :edge], 2), (cell[:, edge:], 4)):
            with Image.open(folder / "front_rgb" / f"{frame}.png") as image:
                meant = np.asarray(image.convert("RGB").resize((edge, edge), Image.Resampling.BOX), dtype=float)
            assert np.corrcoef(half.ravel(), meant.ravel())[0, 1] > 0.8


def test_an_episode_whose_data_changed_has_no_thumbnail(run, write_demo):
    write_demo(run.demos, "close_jar", 0, "test", 0, "close the red jar", 4)
    asked = [(Origin("demos"), "close_jar/0/test-episode0", "close the blue jar")]
    assert not draw_thumbnails(run, asked).places
    assert not draw_thumbnails(RunDir(run.path.with_name("gone")), []).places


def test_played_episodes_lie_with_their_policy_and_demonstrations_where_run_toml_says(run, tmp_path):
    for name in ("arp-joint", "arp-baseline", "arp-joint-blank"):
        (run.rollouts / name / "step_00000007").mkdir(parents=True)
    assert find_data(run, Origin("rollouts", "arp-joint", 7)) == [run.rollouts / "arp-joint" / "step_00000007"]
    assert find_data(run, Origin("rollouts", "viclip-joint", 7)) == [run.rollouts / "arp-joint" / "step_00000007"]
    assert find_data(run, Origin("rollouts", "arp-joint", 8)) == []
    (tmp_path / "mine").mkdir()
    run.record("extract", {"data": [str(tmp_path / "mine"), str(tmp_path / "not there")]})
    assert find_data(run, Origin("demos")) == [tmp_path / "mine"]


def test_columns_of_the_user_become_filters_and_those_of_too_many_values_are_told(run):
    rows = [
        _points(
            id=f"t/0/e{number}",
            side=side,
            scene=f"scene {number % 3}",
            attempt=str(number),
            own_cosine=0.5,
            neighbour_1="x",
        )
        for number in range(70)
        for side in ("understanding", "execution")
    ]
    write_table(pd.DataFrame(rows), run.results("tsne"))
    data = _payload(run)
    (column,) = data["columns"]
    assert column["name"] == "scene"
    assert column["values"] == [f"scene {number % 3}" for number in range(70)]
    assert set(column["colours"]) == {"scene 0", "scene 1", "scene 2"}
    assert len(set(column["colours"].values())) == 3
    assert "No filter by attempt: 8 columns of at most 60 values have one." in " ".join(gather(run).explorer.notes)


def test_thumbnails_of_a_lerobot_dataset_that_run_toml_names(run, golden):
    folder = golden / "lerobot" / "v30-images"
    for written in (folder, f"lerobot:{folder}"):
        run.record("extract", {"data": [str(written)]})
        origin = Origin("demos")
        wanted = [
            (origin, "v30-images/0/episode2", "pick the red cube"),
            (origin, "v30-images/1/episode3", "close the drawer"),
        ]
        sheet = draw_thumbnails(run, wanted)
        assert set(sheet.places) == {(origin, "v30-images/0/episode2")}
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.image))).convert("RGB"), dtype=float)
        edge = sheet.width // 2
        episode = open_dataset(folder)[2]
        for half, frame in ((drawn[:edge, :edge], 9), (drawn[:edge, edge:], 18)):
            image = Image.fromarray(episode.image("front", frame)).resize((edge, edge), Image.Resampling.BOX)
            assert np.corrcoef(half.ravel(), np.asarray(image, dtype=float).ravel())[0, 1] > 0.8
