"""Recognition by one rule: ranks against slow loops, planted models, tables, stores that are reused, what is kept."""

import shutil

import numpy as np
import pytest
import torch

from mnprobe.core.errors import CheckpointError, ConfigError, DataError, FeatureError
from mnprobe.core.proportions import mean_interval, wilson_interval
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import TableSchema
from mnprobe.data import open_dataset
from mnprobe.features import ExtractorSpec, extract, open_features, write_features
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.features.recognition.config import RecognitionConfig
from mnprobe.features.recognition.episodes import Episodes, read_candidates
from mnprobe.features.recognition.evaluate import recognize
from mnprobe.features.recognition.tables import PREDICTIONS, RECOGNITION, format_recognition, recognition_rows
from mnprobe.features.recognition.videos import Features
from mnprobe.features.text_ranking import (
    ALL_EPISODES,
    ALL_TASKS,
    COLUMNS,
    PREDICTION_COLUMNS,
    Ranking,
    alike_texts,
    best_texts,
    distinct_texts,
    encode_texts,
    rank_texts,
    same_tokens,
    told_texts,
)
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, zero_shot
from mnprobe.probe import load_pair

EPISODES = [  # task, variation, partition, number, instruction, frames
    ("open_drawer", 0, "train", 0, "open the bottom drawer", 9),
    ("open_drawer", 1, "test", 1, "open the middle drawer", 9),
    ("open_drawer", 0, "test", 0, "open the bottom drawer", 10),
    ("reach_target", 3, "train", 0, "reach the red target", 9),
    ("reach_target", 4, "test", 0, "reach the blue target", 8),
    ("reach_target", 3, "test", 1, "reach the red target", 8),
]
SMALL = ViCLIPConfig(
    image_size=16, patch_size=8, frames=2, width=32, layers=1, heads=1, embed_dim=16, text_width=32, text_layers=1,
    text_heads=1,
)  # fmt: skip


def save(path, *, seed=0, step=0, trained=None, training=None, config=SMALL):
    model = ViCLIP(config, generator=torch.Generator().manual_seed(seed))
    extra = {} if training is None else {"training": training}
    save_checkpoint(
        path, model.state_dict(), model="viclip", config=config.to_dict(), step=step, trained=trained, extra=extra
    )
    return path


@pytest.fixture(scope="module")
def played(tmp_path_factory, write_demo):
    """Six episodes of two tasks, two for training and four for testing."""
    root = tmp_path_factory.mktemp("played") / "demos"
    for episode in EPISODES:
        write_demo(root, *episode)
    return root


@pytest.fixture
def run(tmp_path, played):
    """A run with these demonstrations and one video model at two steps."""
    home = RunDir.create(tmp_path / "run")
    home.demos.symlink_to(played)
    for step in (0, 100):
        save(home.checkpoint("viclip-joint", step), seed=step, step=step, training="joint")
    return home


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, played):
    """A run with features of these demonstrations at step 100, to be left as it is."""
    home = RunDir.create(tmp_path_factory.mktemp("extracted") / "run")
    home.demos.symlink_to(played)
    save(home.checkpoint("viclip-joint", 100), seed=100, step=100, training="joint")
    extract(run=home)
    return home


# One rule


def test_ranks_equal_a_slow_loop():
    draw = np.random.default_rng(0)
    u, texts = draw.normal(size=(7, 5)), draw.normal(size=(9, 5))
    texts[4] = 3 * texts[2]  # equally good: the first wins
    own = np.array([2, 4, 0, 8, 4, 2, 1])
    ranking = rank_texts(u, texts, own)
    for i in range(7):
        cosine = [u[i] @ text / np.linalg.norm(u[i]) / np.linalg.norm(text) for text in texts]
        order = sorted(range(9), key=lambda k: (-round(cosine[k], 9), k))
        assert ranking.best[i] == order[0]
        assert ranking.rank[i] == order.index(own[i]) + 1
        best_other = max(value for k, value in enumerate(cosine) if k != own[i])
        assert ranking.margin[i] == pytest.approx(cosine[own[i]] - best_other, abs=2e-9)
        assert ranking.correct[i] == (order[0] == own[i])


def test_the_best_text_is_that_of_the_models_own_rule():
    draw = torch.Generator().manual_seed(3)
    u, texts = torch.randn(50, 8, generator=draw), torch.randn(12, 8, generator=draw)
    expected = zero_shot(u, texts).argmax(dim=1)
    np.testing.assert_array_equal(best_texts(u.numpy(), texts.numpy()), expected)
    ranking = rank_texts(u.numpy(), texts.numpy(), expected.numpy())
    assert ranking.correct.all()
    assert (ranking.margin > 0).all()


def test_batches_do_not_decide_between_equal_texts():
    draw = np.random.default_rng(1)
    u, texts = draw.normal(size=(40, 33)).astype(np.float32), draw.normal(size=(65, 33)).astype(np.float32)
    texts[17::16] = texts[1]
    whole = best_texts(u, texts)
    assert whole.tolist() == [int(best_texts(row[None], texts)[0]) for row in u]
    assert not np.isin(whole, range(17, 65, 16)).any()


def test_a_clip_without_length_and_a_single_text_are_ranked():
    ranking = rank_texts(np.zeros((1, 3)), np.eye(3), np.array([1]))
    assert (ranking.best[0], ranking.rank[0], ranking.margin[0]) == (0, 2, 0.0)
    assert np.isnan(rank_texts(np.ones((1, 3)), np.ones((1, 3)), np.array([0])).margin[0])


def test_texts_are_those_of_the_text_encoder(played):
    model = ViCLIP(SMALL, generator=torch.Generator().manual_seed(0)).eval()
    texts = [f"push button {number}" for number in range(70)]  # more than go through at once
    found = encode_texts(model, texts)
    assert found.shape == (70, 16)
    np.testing.assert_allclose(found[69:], encode_texts(model, texts[69:]), atol=1e-6)
    with pytest.raises(ConfigError, match="at least one candidate"):
        encode_texts(model, [])
    with pytest.raises(ConfigError, match="must differ"):
        encode_texts(model, ["a", "a"])


def test_texts_that_a_model_cannot_tell_apart_are_found():
    long = "push the red button and then " * 8
    assert same_tokens([f"{long}stop", f"{long}go", "go"], 32) == [(f"{long}stop", f"{long}go")]
    assert distinct_texts(["B", "a", " b"]) == (" b", "a")
    assert distinct_texts(["open  it", "Open\u00a0it", "caf\u00e9", "cafe\u0301"]) == ("Open\u00a0it", "cafe\u0301")
    assert alike_texts([f"{long}stop", "go", f"{long}go", "GO"], 32) == [0, 1, 0, 1]
    assert told_texts(["go", f"{long}stop", f"{long}go"], 32) == [
        f"{f'{long}stop'!r} and {f'{long}go'!r} are one text to this model, which reads only the beginning"
    ]


def test_an_episode_told_as_another_is_not_counted_as_not_recognised(write_demo, tmp_path):
    long = "push the red button and then " * 20
    told = [f"{long}stop", f"{long}go", "close the jar", "close the jar"]
    for number, text in enumerate(told):
        write_demo(tmp_path / "d", "push_button", number, "train", number, text, 8)
    candidates = distinct_texts(told)
    said = []
    seen = {"camera": "front", "frames_rule": "middle"}
    spec = ExtractorSpec(config=SMALL.to_dict(), layers=("u",), options=seen, candidates=candidates, say=said.append)
    extractor = ViCLIPExtractor.build(spec)
    assert said == told_texts(candidates, SMALL.text_context)
    assert len(said) == 1
    jar, go, stop = range(3)
    assert candidates == ("close the jar", f"{long}go", f"{long}stop")
    for winner, own, prediction in [
        (go, stop, ""),
        (go, go, ""),
        (go, jar, candidates[go]),
        (jar, jar, candidates[jar]),
        (jar, stop, candidates[jar]),
        (go, None, candidates[go]),
    ]:
        assert extractor._prediction(winner, own) == prediction
    path = tmp_path / "u.h5"
    notes = []
    extract(tmp_path / "d", models=["viclip"], out=path, note=notes.append)
    found = open_features(path)
    assert sum("one text to this model" in note for note in notes) == 1
    unknown = (found.columns["prediction"] == "").tolist()
    count = found.attrs["provenance"]["counts"].get("episodes_whose_instruction_is_one_text_with_another", 0)
    assert sum(unknown) == count
    assert not any(unknown[2:])
    recognised = load_pair(found, open_features(_execution(path, found))).items.success_u
    assert [value == -1 for value in recognised] == unknown
    found.close()


def _execution(path, found):
    table = found.episodes.drop(columns=["prediction"])
    return write_features(path.with_name("e.h5"), model="e", side="execution", episodes=table, layers={"e": np.eye(4)})


def test_the_extractor_predicts_by_this_rule(played):
    dataset = open_dataset(played)
    texts = distinct_texts([episode.instruction for episode in dataset])
    seen = {"camera": "front", "frames_rule": "middle"}
    spec = ExtractorSpec(config=SMALL.to_dict(), seed=4, layers=("u",), options=seen, candidates=texts)
    extractor = ViCLIPExtractor.build(spec)
    found = extractor.compute(extractor.prepare(dataset))
    u = np.concatenate([episode.layers["u"].values for episode in found])
    best = best_texts(u, encode_texts(extractor.model, texts))
    assert [episode.prediction for episode in found] == [texts[number] for number in best]


# Tables


def test_rows_count_by_task_with_the_intervals_of_their_counts():
    tasks = ["b", "a", "a", "b", "b", "a", "a"]
    rank = np.array([1, 1, 6, 2, 7, 1, 5])
    ranking = Ranking(best=np.zeros(7, int), rank=rank, margin=np.zeros(7))
    rows = {row["task"]: row for row in recognition_rows({"model": "m"}, tasks, ranking, 20)}
    assert list(rows) == ["a", "b", ALL_TASKS, ALL_EPISODES]
    assert [(rows[t]["n"], rows[t]["correct"], rows[t]["correct5"]) for t in rows] == [
        (4, 2, 3), (3, 1, 2), (7, 3, 5), (7, 3, 5)
    ]  # fmt: skip
    assert rows["a"]["top1"] == 0.5
    assert (rows["b"]["ci_low"], rows["b"]["ci_high"]) == wilson_interval(1, 3)
    assert (rows["b"]["top5_low"], rows["b"]["top5_high"]) == wilson_interval(2, 3)
    assert rows[ALL_TASKS]["top1"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert rows[ALL_TASKS]["top5"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert (rows[ALL_TASKS]["ci_low"], rows[ALL_TASKS]["ci_high"]) == mean_interval([2, 1], [4, 3])
    assert rows[ALL_EPISODES]["top1"] == 3 / 7
    assert (rows[ALL_EPISODES]["ci_low"], rows[ALL_EPISODES]["ci_high"]) == wilson_interval(3, 7)
    assert {(row["chance"], row["chance5"], row["candidates"]) for row in rows.values()} == {(1 / 20, 5 / 20, 20)}
    assert recognition_rows({}, tasks, ranking, 3)[0]["chance5"] == 1


def test_tables_are_read_back_exactly_and_rows_take_the_place_of_their_own(tmp_path):
    kind = TableSchema(
        name="x", columns=("m", "n", "x", "t"), key=("m", "n"), whole=("n",), real=("x",), truth=("t",),
        error=FeatureError,
    )  # fmt: skip
    first = kind.frame([{"m": "NA", "n": 2, "x": 1 / 3, "t": True}, {"m": 'a, "b"', "n": 1, "x": np.nan, "t": False}])
    kind.write(tmp_path / "x.csv", first)
    back = kind.read_or_empty(tmp_path / "x.csv")
    assert back.to_dict("list")["m"] == ["NA", 'a, "b"']
    assert back["x"][0] == 1 / 3
    assert np.isnan(back["x"][1])
    assert back.dtypes.tolist() == first.dtypes.tolist()
    new = kind.replace_rows(back, kind.frame([{"m": "NA", "n": 2, "x": 5.0, "t": False}]))
    assert new[["m", "x"]].to_dict("list")["m"] == ["NA", 'a, "b"']
    assert new["x"][0] == 5.0
    assert len(kind.read_or_empty(tmp_path / "absent.csv")) == 0
    for content, message in [("a,b\n1,2\n", "lacks m, n"), ("m,n,x,t\na,b,1,True\n", "cannot be read"),
                             ("m,n,x,t\na,1,1,yes\n", "neither True nor False")]:  # fmt: skip
        (tmp_path / "x.csv").write_text(content)
        with pytest.raises(FeatureError, match=message):
            kind.read_or_empty(tmp_path / "x.csv")


def test_the_table_for_people_has_a_line_per_model_and_step(run):
    rows = recognize(run=run).rows
    text = format_recognition(rows, width=70)
    assert "\n\n" not in format_recognition(rows, width=400)
    assert text.startswith("top-1 recognition on demos (test), % [95 % interval]")
    assert "viclip-joint 0 (untrained)" in text
    assert "viclip-joint 100 " in text
    for column in ("open_drawer n=2", "reach_target n=2", "all tasks n=4", "all episodes n=4", "25.0 (1 of 4)"):
        assert column in text
    assert max(map(len, text.splitlines())) <= 70


# The whole job


def test_every_checkpoint_gets_its_rows_in_the_published_columns(run):
    done = recognize(run=run)
    assert done.status == {("viclip-joint", 0): "computed", ("viclip-joint", 100): "computed"}
    assert tuple(done.rows.columns) == COLUMNS
    assert tuple(done.predictions.columns) == PREDICTION_COLUMNS
    for step in (0, 100):
        rows = done.rows[done.rows["step"] == step].set_index("task")
        assert sorted(rows.index) == sorted(["open_drawer", "reach_target", ALL_TASKS, ALL_EPISODES])
        assert set(rows["training"]) == {"joint"}
        assert set(rows["trained"]) == {step > 0}
        assert set(rows["zero_shot"]) == {False}
        assert set(rows["source"]) == {"demos"}
        assert set(rows["partition"]) == {"test"}
        assert set(rows["candidates"]) == {4}  # of the whole dataset, training included
        predicted = done.predictions[done.predictions["step"] == step]
        assert len(predicted) == rows.loc[ALL_EPISODES, "n"] == 4
        assert set(predicted["partition"]) == {"test"}
        assert rows.loc[ALL_EPISODES, "correct"] == predicted["correct"].sum() == (predicted["rank"] == 1).sum()
        assert (predicted["correct"] == (predicted["prediction"] == predicted["instruction"])).all()
        assert ((predicted["margin"] > 0) == (predicted["correct"] == 1)).all()
    assert not (run.path / "results" / ".recognition").exists()
    assert RECOGNITION.read(done.table).equals(done.rows)
    assert PREDICTIONS.read(done.predictions_table).equals(done.predictions)


def test_what_is_finished_is_kept_and_what_changed_is_measured_again(run):
    first = recognize(run=run)
    written = first.table.stat().st_mtime_ns
    again = recognize(run=run)
    assert set(again.status.values()) == {"kept"}
    assert again.table.stat().st_mtime_ns == written
    assert again.rows.equals(first.rows)
    save(run.checkpoint("viclip-joint", 100), seed=5, step=100, training="joint")  # trained anew
    remarks = []
    third = recognize(run=run, note=remarks.append)
    assert third.status == {("viclip-joint", 0): "kept", ("viclip-joint", 100): "computed"}
    assert any("step 100 on demos, made from other weights" in remark for remark in remarks)
    assert len(third.rows) == len(RECOGNITION.read(first.table)) == 8
    first.predictions_table.unlink()  # without predictions nothing is finished
    assert set(recognize(run=run).status.values()) == {"computed"}


def test_partitions_stand_side_by_side(run):
    recognize(run=run, step=100)
    whole = recognize(run=run, partitions=["all"], step=100)
    train = recognize(run=run, partitions=["train"], step=100)
    table = RECOGNITION.read(whole.table)
    sizes = table[table["task"] == ALL_EPISODES].set_index("partition")["n"].to_dict()
    assert sizes == {"all": 6, "test": 4, "train": 2}
    assert len(PREDICTIONS.read(whole.predictions_table)) == 6
    assert set(train.predictions["partition"]) == {"train"}
    assert set(recognize(run=run, step=100).status.values()) == {"kept"}
    with pytest.raises(ConfigError, match="leave out test"):
        recognize(run=run, partitions=["all", "test"])
    with pytest.raises(DataError, match="no episode of partition 'val'"):
        recognize(run=run, partitions=["val"])


def test_stores_of_the_run_are_read_rather_than_computed_again(run, monkeypatch):
    expected = recognize(run=run, out=run.path / "apart")
    extract(run=run)
    monkeypatch.setattr(ViCLIPExtractor, "compute", lambda *given: pytest.fail("computed again"))
    done = recognize(run=run)
    assert set(done.status.values()) == {"store"}
    same = [name for name in COLUMNS if name != "created"]
    assert done.rows[same].equals(expected.rows[same])
    assert done.predictions.drop(columns="margin").equals(expected.predictions.drop(columns="margin"))
    np.testing.assert_allclose(done.predictions["margin"], expected.predictions["margin"], atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"camera": "wrist"}, {"frames_rule": "strided"}, {"precision": "bf16"}, {"source": "elsewhere"}]
)
def test_stores_of_another_look_are_not_taken(extracted, change):
    assert set(recognize(run=extracted, out=extracted.path / "apart", step=100, **change).status.values()) == {
        "computed"
    }


def test_stores_of_other_weights_or_numbers_are_not_taken(run):
    extract(run=run, dtype="float16")  # rounded: near ties could fall otherwise
    save(run.checkpoint("viclip-joint", 100), seed=9, step=100)
    assert set(recognize(run=run).status.values()) == {"computed"}


def test_a_damaged_store_is_told_and_not_taken(run):
    path = extract(run=run)[0].path
    path.write_bytes(path.read_bytes()[:-100])
    remarks = []
    assert recognize(run=run, note=remarks.append).status[("viclip-joint", 0)] == "computed"
    assert any("computed anew" in remark for remark in remarks)


def test_labels_agree_with_what_align_reads(run):
    """The understanding side's success of `align --split success` is the column `correct`, episode by episode."""
    extract(run=run)
    done = recognize(run=run, partitions=["all"])
    for step in (0, 100):
        u = run.features("viclip-joint", "demos", step)
        with open_features(u) as file:
            e = extract(run=run, models=["arp"], out=run.path / "e.h5", overwrite=True)[0].path
            with open_features(e) as other:
                items = load_pair(file, other).items
        predicted = done.predictions[done.predictions["step"] == step].set_index("id")
        assert items.success_u.tolist() == [int(predicted.loc[name, "correct"]) for name in items.ids]
    fresh = recognize(run=run, partitions=["all"], out=run.path / "fresh")
    assert fresh.predictions["correct"].tolist() == done.predictions["correct"].tolist()


def test_a_store_whose_predictions_chose_among_fewer_is_remarked(extracted):
    texts = ["open the top drawer", *distinct_texts([episode[4] for episode in EPISODES])]
    remarks = []
    done = recognize(run=extracted, out=extracted.path / "more", candidates=texts, note=remarks.append)
    assert set(done.rows["candidates"]) == {5}
    assert set(done.status.values()) == {"store"}
    assert any("were made among other instructions (4); those counted here are among 5" in text for text in remarks)


def test_zero_shot_is_a_trained_model_at_its_first_step(run, tmp_path):
    save(run.checkpoint("viclip-ours", 0), seed=1, step=0, trained=True)
    published = tmp_path / "published.pth"
    torch.save({"model": ViCLIP(SMALL, generator=torch.Generator().manual_seed(2)).state_dict()}, published)
    done = recognize(run=run, models=["viclip-ours"])
    assert set(done.rows["zero_shot"]) == set(done.rows["trained"]) == {True}
    foreign = recognize(run=run, checkpoints=[published], name="official", model_config=SMALL.to_dict())
    assert set(foreign.rows["zero_shot"]) == {True}
    assert set(foreign.rows["model"]) == {"official"}
    random = recognize(run=run, preset="tiny", seed=1)
    assert set(random.rows["model"]) == {"viclip-untrained"}
    assert set(random.rows["zero_shot"]) == set(random.rows["trained"]) == {False}
    assert len(set(RECOGNITION.read(done.table)["model"])) == 3  # they stand in one table


def test_a_planted_model_is_right_wherever_it_is_planted(run, monkeypatch):
    """A text side that says of each instruction the very u of its training episode recognises it there."""
    texts = distinct_texts([episode[4] for episode in EPISODES])
    planted = np.eye(16)[: len(texts)]
    own = [texts.index(episode.instruction) for episode in open_dataset(run.demos, partitions=["test"])]
    own[0] = (own[0] + 1) % len(texts)  # one mistake
    ranking = rank_texts(planted[own], planted, np.array([*own]))
    assert ranking.correct.all()
    import mnprobe.features.recognition.evaluate as job

    features = Features(index=np.arange(len(own)), u=planted[own])
    monkeypatch.setattr(Episodes, "stored", lambda self, model: features)
    monkeypatch.setattr(job, "encode_texts", lambda *given, **more: planted)
    done = recognize(run=run, models=["viclip-joint"], step=100)
    rows = done.rows.set_index("task")
    assert rows.loc[ALL_EPISODES, "correct"] == 3
    assert rows.loc["open_drawer", "top1"] == 0.5
    assert rows.loc["reach_target", "top1"] == 1
    assert rows.loc[ALL_TASKS, "top1"] == 0.75


def test_rollouts_have_a_source_of_their_own(run, write_demo):
    folder = run.rollouts / "arp" / "step_00000010"
    for episode in EPISODES:
        write_demo(folder, *episode[:2], "", *episode[3:]) if episode[2] == "train" else None
    done = recognize([folder], run=run, step=100)
    assert set(done.rows["source"]) == {"rollouts"}
    assert set(done.rows["partition"]) == {"all"}  # no partitions there
    assert set(done.rows["n"][done.rows["task"] == ALL_EPISODES]) == {2}


def test_candidates_come_from_a_file(run, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text(
        "\ufeffreach the red target\n\n  reach the blue target \nopen the middle drawer\nOpen the bottom drawer\n"
    )
    assert len(read_candidates(path)) == 4
    assert set(recognize(run=run, candidates=path).rows["candidates"]) == {4}
    for content, message in [
        ("reach the red target\n", "at least two texts"),
        ("a\nA\n", "'A' is there twice"),
        ("a\nb\n", r"4 instructions of the episodes are not among them.*'open the bottom drawer'.* and 1 more"),
    ]:
        path.write_text(content)
        with pytest.raises(ConfigError, match=message):
            recognize(run=run, candidates=path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        recognize(run=run, candidates=path)
    with pytest.raises(ConfigError, match="cannot be read"):
        recognize(run=run, candidates=tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"models": ["viclip"]}, "no checkpoints of it; there are: arp, viclip-joint"),
        ({"models": ["arp"]}, "--model arp: its weights are of arp, not of a ViCLIP"),
        ({"step": 7}, "ViCLIP checkpoints at steps 0, 100"),
        ({"preset": "huge"}, "--preset huge: there are tiny, b16, l14"),
        ({"preset": "tiny", "models": ["viclip-joint"]}, "leave out --model and --checkpoint"),
        ({"frames_rule": "all"}, "unknown value for option 'frames_rule'"),
        ({"device": "cuda:99"}, "offers torch"),
        ({"batch_size": 0}, "batch size must be >= 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_message(run, asked, message):
    arp = run.checkpoint("arp", 0)  # nothing but a name that says so
    save_checkpoint(arp, {"w": torch.zeros(1)}, model="arp", config={}, step=0)
    with pytest.raises(ConfigError, match=message):
        recognize(run=run, **asked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames_rule": "all"}, "unknown value for option 'frames_rule': 'all'"),
        ({"batch_size": 0}, "batch size must be >= 1, got 0"),
        ({"precision": "int8"}, "precision must be 'float32' or 'bf16', got 'int8'"),
        ({"template": "a video"}, "--template 'a video': must hold {} once"),
        ({"seed": -1}, "--seed must be a whole number from 0"),
        ({"step": 0.5}, "step must be a whole number, got 0.5"),
        ({"models": 3}, "models must be a list of names, got 3"),
        ({"skip_broken": 1}, "skip_broken must be True or False, got 1"),
        ({"model_config": "x.json"}, "model_config must be a mapping of the fields of ViCLIP, got str"),
        ({"preset": "tiny", "model_config": {}}, "--preset tiny and --config both give the size"),
    ],
)
def test_a_configuration_refuses_what_cannot_be(settings, message):
    with pytest.raises(ConfigError) as error:
        RecognitionConfig(**settings)
    assert str(error.value).startswith(message)


def test_a_configuration_is_as_good_as_single_settings(extracted):
    config = RecognitionConfig(models="viclip-joint", step=100, partitions="all")
    first = recognize(config=config, run=extracted, out=extracted.path / "config")
    again = recognize(run=extracted, out=extracted.path / "config", models=["viclip-joint"], partitions=["all"])
    assert (set(first.status.values()), set(again.status.values())) == ({"store"}, {"kept"})
    assert again.rows.equals(first.rows)
    with pytest.raises(ConfigError, match="--template: belongs to the forgetting check"):
        recognize(config=config, run=extracted, template="{}")
    with pytest.raises(ConfigError, match=r"unknown setting of RecognitionConfig: 'partition'. Did you mean 'partitio"):
        recognize(config=config, run=extracted, partition="all")


# Broken episodes


def truncate(folder):
    for image in folder.rglob("front_rgb/*.png"):
        image.write_bytes(image.read_bytes()[:60])


@pytest.fixture
def damaged(tmp_path, played, run):
    """The run with a test episode whose images are truncated, and one whose labels cannot be read."""
    run.demos.unlink()
    shutil.copytree(played, run.demos)
    truncate(next(run.demos.rglob("test/reach_target/**/episode0")))
    return run


BROKEN = "reach_target/4/test-episode0"


def test_a_broken_episode_stops_the_recognition_with_its_reason(damaged):
    with pytest.raises(DataError, match="truncated PNG"):
        recognize(run=damaged, step=100)
    assert not damaged.results("recognition").exists()


def test_broken_episodes_are_left_out_on_request_and_listed(damaged, run, played, tmp_path):
    expected = recognize(played, run=run, out=tmp_path / "sound", step=100)
    remarks = []
    done = recognize(run=damaged, step=100, skip_broken=True, note=remarks.append)
    assert done.status == {("viclip-joint", 100): "computed"}
    (message,) = done.broken
    assert message.startswith(f"{BROKEN}: ")
    assert "truncated PNG" in message
    assert [text for text in remarks if text.startswith(f"left out {BROKEN}: ") and "truncated PNG" in text]
    left = expected.predictions[expected.predictions["id"] != BROKEN].reset_index(drop=True)
    assert len(left) == 3
    same = ["id", "instruction", "prediction", "correct", "rank"]
    assert done.predictions[same].equals(left[same])
    np.testing.assert_allclose(done.predictions["margin"], left["margin"], atol=1e-6)
    rows = done.rows.set_index("task")
    assert rows.loc[ALL_EPISODES, "n"] == 3
    assert rows.loc[ALL_EPISODES, "correct"] == left["correct"].sum()
    assert rows.loc["reach_target", "n"] == 1
    assert set(rows["candidates"]) == {4}  # its instruction can be read, and stays a candidate

    again = recognize(run=damaged, step=100, skip_broken=True)
    assert again.status == {("viclip-joint", 100): "kept"}
    assert again.rows.equals(done.rows)
    assert again.broken == (f"{BROKEN}: left out when these results were computed",)
    with pytest.raises(DataError, match="truncated PNG"):  # what skipped is not taken for a whole result
        recognize(run=damaged, step=100)


def test_episodes_with_broken_labels_are_left_out_too(damaged):
    next(damaged.demos.rglob("test/open_drawer/**/episode1/variation_descriptions.pkl")).write_bytes(b"no pickle")
    with pytest.raises(DataError, match="variation_descriptions"):
        recognize(run=damaged, step=100)
    done = recognize(run=damaged, step=100, skip_broken=True)
    assert sorted(message.partition(": ")[0] for message in done.broken) == ["open_drawer/1/test-episode1", BROKEN]
    assert done.predictions["id"].tolist() == ["open_drawer/0/test-episode0", "reach_target/3/test-episode1"]
    assert set(done.rows["candidates"]) == {3}  # nobody knows what its instruction was
    shutil.rmtree(next(damaged.demos.rglob("test/reach_target/**/episode1/front_rgb")))
    for folder in damaged.demos.rglob("test/open_drawer/**/episode*"):
        truncate(folder)
    with pytest.raises(DataError, match="all 4 episodes are broken"):
        recognize(run=damaged, step=100, skip_broken=True)


def test_a_store_that_left_out_the_same_episodes_is_read(damaged, monkeypatch):
    expected = recognize(run=damaged, step=100, skip_broken=True, out=damaged.path / "apart")
    extract(run=damaged, skip_broken=True)
    monkeypatch.setattr(ViCLIPExtractor, "compute", lambda *given: pytest.fail("computed again"))
    done = recognize(run=damaged, step=100, skip_broken=True)
    assert set(done.status.values()) == {"store"}
    assert done.broken == expected.broken
    same = [name for name in COLUMNS if name != "created"]
    assert done.rows[same].equals(expected.rows[same])


def test_a_model_that_cannot_read_recognises_nothing(tmp_path, played):
    config = ViCLIPConfig(**{**SMALL.to_dict(), "vocabulary": 100, "crop": SMALL.crop})
    path = save(tmp_path / "deaf.safetensors", config=config)
    with pytest.raises(CheckpointError, match="vocabulary of 100, which is not CLIP's"):
        recognize(played, out=tmp_path / "out", checkpoints=[path])


def test_one_instruction_is_nothing_to_choose_from(tmp_path, write_demo):
    write_demo(tmp_path / "demos", *EPISODES[0])
    with pytest.raises(DataError, match="needs two to choose from"):
        recognize(tmp_path / "demos", out=tmp_path / "out", preset="tiny")


def test_processes_share_the_work_and_write_the_same(run, in_two_processes):
    alone = recognize(run=run, out=run.path / "alone")
    out = run.path / "shared"
    command = ["-m", "mnprobe", "recognize", f"--run={run.path}", f"--out={out}", "--batch-size=2", "--quiet"]
    done = in_two_processes(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1 recognition") == 1
    shared = PREDICTIONS.read(out / "predictions.csv")
    assert shared.drop(columns="margin").equals(alone.predictions.drop(columns="margin"))
