"""A video model that learnt two classes of real video files, and the same model with its weights destroyed."""

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.proportions import mcnemar, mean_paired_interval, paired_interval, wilson_interval
from mnprobe.data.videos import find_videos, read_video
from mnprobe.features.recognition.evaluate import check_forgetting
from mnprobe.features.recognition.tables import (
    ALL_CLASSES,
    ALL_VIDEOS,
    FORGETTING,
    VIDEO_PREDICTIONS,
    forgetting_rows,
    format_forgetting,
)
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import Tokenizer, ViCLIP, ViCLIPConfig, contrastive_loss, preprocess

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mnprobe[data]'")

SMALL = ViCLIPConfig(
    image_size=16, patch_size=8, frames=2, width=32, layers=1, heads=1, embed_dim=16, text_width=32, text_layers=1,
    text_heads=1,
)  # fmt: skip
ENDINGS = {"mp4": ("libx264", "yuv420p"), "avi": ("mpeg4", "yuv420p"), "gif": ("gif", "rgb8")}
CLASSES = {"red_light": (210, 60, 50), "green_light": (50, 190, 70)}


def write(path, level, seed, frames=10):
    codec, pixels = ENDINGS[path.suffix[1:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
        for i in range(frames):
            image = np.array(CLASSES[level]) * (0.6 + 0.4 * i / frames) + draw.integers(-30, 31, (32, 48, 3))
            noisy = np.clip(image, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode(None))


def save(path, model, step, trained=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    save_checkpoint(path, model.state_dict(), model="viclip", config=config, step=step, trained=trained)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Twelve videos of two classes in three formats."""
    root = tmp_path_factory.mktemp("videos") / "light"
    for level in CLASSES:
        for number in range(6):
            ending = list(ENDINGS)[number % 3]
            write(root / level / f"{number}.{ending}", level, number)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory, videos):
    """Checkpoints: a model fitted to the videos at step 0, and its weights drawn anew at step 50."""
    torch.manual_seed(0)
    model = ViCLIP(SMALL, generator=torch.Generator().manual_seed(0))
    found = find_videos(videos)
    clips = torch.stack([preprocess(read_video(v.path, lambda n: (n // 4, 3 * n // 4)), size=16) for v in found])
    labels = sorted({video.label for video in found})
    own = torch.tensor([labels.index(video.label) for video in found])
    ids = Tokenizer(32).tokenize([f"a video of {label}" for label in labels])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(40):
        optimiser.zero_grad()
        loss = contrastive_loss(model.encode_video(clips), model.encode_text(ids)[own], 0.05, ids=own)
        loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("weights")
    fitted = save(folder / "step_00000000.safetensors", model.eval(), 0)
    with torch.no_grad():
        model.vision_encoder.proj.zero_()  # every video looks alike
        model.vision_encoder.proj[0] = 1.0
    return [fitted, save(folder / "step_00000050.safetensors", model, 50)]


@pytest.fixture(scope="module")
def checked(tmp_path_factory, videos, weights):
    """The check of both checkpoints."""
    out = tmp_path_factory.mktemp("out")
    return check_forgetting(videos, out=out, checkpoints=weights)


def test_what_was_learnt_is_recognised_and_what_was_destroyed_is_forgotten(checked):
    rows = checked.rows.set_index(["step", "label"])
    assert rows.loc[(0, ALL_VIDEOS), "correct"] == 12
    assert rows.loc[(0, ALL_CLASSES), "top1"] == 1
    after = rows.loc[(50, ALL_VIDEOS)]
    assert after["correct"] == 6  # one class for all
    assert (after["difference"], after["lost"], after["gained"]) == (-0.5, 6, 0)
    assert after["difference_high"] < 0
    assert after["p_mcnemar"] == mcnemar(6, 0) == 2 / 2**6
    assert (after["difference_low"], after["difference_high"]) == paired_interval(6, 6, 0, 0)
    assert sorted(rows.loc[50].loc[["green light", "red light"], "top1"]) == [0, 1]
    assert set(checked.rows["reference_step"]) == {0}
    assert set(checked.rows["chance"]) == {0.5}
    assert rows.loc[(0, ALL_VIDEOS), "difference"] == 0
    assert np.isnan(rows.loc[(0, ALL_VIDEOS), "difference_low"])
    assert set(rows.loc[0, "zero_shot"]) == {True}
    assert set(rows.loc[50, "zero_shot"]) == {False}
    text = format_forgetting(checked.rows)
    assert "step 50 less step 0: -50.0 points" in text
    assert "lost 6, gained 0, p = 0.0312 (exact McNemar): forgot" in text
    assert "step 0 (zero-shot)" in text


def test_one_row_per_video_says_what_it_was_taken_for(checked):
    table = VIDEO_PREDICTIONS.read(checked.predictions_table)
    assert len(table) == 24
    first = table[table["step"] == 0]
    assert sorted(first["name"])[:3] == ["green_light/0.mp4", "green_light/1.avi", "green_light/2.gif"]
    assert (first["prediction"] == first["label"]).all()
    assert (first["rank"] == 1).all()
    assert (first["margin"] > 0).all()
    assert FORGETTING.read(checked.table).equals(checked.rows)
    assert not (checked.table.parent / ".forgetting").exists()


def test_finished_checkpoints_are_kept_and_the_first_step_may_come_later(tmp_path, videos, weights, checked):
    later = check_forgetting(videos, out=tmp_path, checkpoints=weights[1:])
    assert set(later.rows["reference_step"]) == {50}
    assert later.rows["difference_low"].isna().all()
    both = check_forgetting(videos, out=tmp_path, checkpoints=weights)
    assert both.status == {("viclip", 0): "computed", ("viclip", 50): "kept"}
    same = [name for name in FORGETTING.columns if name != "created"]
    assert both.rows[same].equals(checked.rows[same])
    assert set(check_forgetting(videos, out=tmp_path, checkpoints=weights).status.values()) == {"kept"}
    remarks = []
    other = check_forgetting(
        videos, out=tmp_path, checkpoints=weights[:1], template="{} light", note=remarks.append, batch_size=5
    )
    assert other.status == {("viclip", 0): "computed"}
    assert set(other.rows["template"]) == {"{} light"}
    assert any("8 rows made from other videos or settings are replaced" in remark for remark in remarks)


def test_broken_files_stop_or_are_counted(tmp_path, videos, weights):
    root = tmp_path / "videos"
    root.mkdir()
    for group in videos.iterdir():
        (root / group.name).mkdir()
        for path in sorted(group.iterdir())[:2]:
            (root / group.name / path.name).write_bytes(path.read_bytes())
    (root / "green_light" / "broken.mp4").write_text("no video")
    (root / "red_light" / "away.mp4").symlink_to(videos / "red_light" / "0.mp4")
    with pytest.raises(DataError, match=r"away\.mp4: leads out of .*--skip-broken"):
        check_forgetting(root, out=tmp_path / "out", checkpoints=weights)
    (root / "red_light" / "away.mp4").unlink()
    with pytest.raises(DataError, match=r"broken\.mp4: cannot be decoded .*--skip-broken"):
        check_forgetting(root, out=tmp_path / "out", checkpoints=weights)
    (root / "red_light" / "away.mp4").symlink_to(videos / "red_light" / "0.mp4")
    remarks = []
    done = check_forgetting(root, out=tmp_path / "out", checkpoints=weights, skip_broken=True, note=remarks.append)
    assert len(remarks) == len(done.broken) == 2  # said once, not for every checkpoint
    assert set(done.rows["broken"]) == {2}
    assert set(done.rows["n"][done.rows["label"] == ALL_VIDEOS]) == {4}


def test_a_video_shorter_than_a_clip_is_seen(tmp_path, weights):
    for level in CLASSES:
        write(tmp_path / "v" / level / "one.avi", level, 0, frames=2)
        write(tmp_path / "v" / level / "two.gif", level, 1, frames=3)
    assert len(check_forgetting(tmp_path / "v", out=tmp_path, checkpoints=weights).rows) == 8


def test_rows_compare_class_by_class():
    head = {"step": 9, "reference_step": 0}
    labels = ["a", "b", "a", "b", "b"]
    now, then = [1, 0, 0, 1, 0], [1, 1, 1, 0, 0]
    rows = {row["label"]: row for row in forgetting_rows(head, labels, now, then, candidates=4)}
    assert list(rows) == ["a", "b", ALL_CLASSES, ALL_VIDEOS]
    assert [(row["n"], row["correct"], row["lost"], row["gained"]) for row in rows.values()] == [
        (2, 1, 1, 0), (3, 1, 1, 1), (5, 2, 2, 1), (5, 2, 2, 1)
    ]  # fmt: skip
    assert rows["a"]["difference"] == -0.5
    assert (rows["a"]["ci_low"], rows["a"]["ci_high"]) == wilson_interval(1, 2)
    assert rows[ALL_CLASSES]["difference"] == -0.25
    limits = mean_paired_interval([(1, 1, 0, 0), (0, 1, 1, 1)])
    assert (rows[ALL_CLASSES]["difference_low"], rows[ALL_CLASSES]["difference_high"]) == limits
    assert rows[ALL_VIDEOS]["difference"] == pytest.approx(-0.2)
    assert rows[ALL_VIDEOS]["p_mcnemar"] == 1
    assert {row["chance"] for row in rows.values()} == {0.25}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"template": "a video"}, r"must hold \{\} once"),
        ({"template": "{} and {}"}, r"must hold \{\} once"),
        ({"batch_size": 0}, "batch size must be >= 1"),
        ({"frames_rule": "all"}, "unknown value for option 'frames_rule'"),
        ({"out": None}, "needs a run"),
        ({"camera": "front"}, "--camera: is about episodes"),
        ({"source": "demos"}, "--source: is about episodes"),
        ({"partitions": ["test"]}, "--partition: is about episodes"),
        ({"candidates": ["a", "b"]}, "--candidates: is about episodes"),
        ({"instructions": {"a/0": "b"}}, "--instructions: is about episodes"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, videos, weights, asked, message):
    with pytest.raises(ConfigError, match=message):
        check_forgetting(videos, **{"out": tmp_path, "checkpoints": weights} | asked)


def test_it_runs_in_one_process(tmp_path, videos, weights, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        check_forgetting(videos, out=tmp_path, checkpoints=weights)
