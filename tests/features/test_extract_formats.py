"""Extraction from LeRobot folders, HDF5 files and tables of videos: values, records, and broken episodes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import open_dataset
from mnprobe.features import extract, open_features
from mnprobe.features.extractors.pixels import area_average
from mnprobe.features.inputs import choose_frames

GOLDEN = Path(__file__).parents[1] / "golden"
LEROBOT = GOLDEN / "lerobot"


def expected(dataset, camera):
    """The pixel features of a dataset, by images one by one."""
    rows = []
    for episode in dataset:
        chosen = choose_frames(tuple(range(len(episode))), len(episode), 8)
        frames = np.stack([episode.image(camera, index) for index in chosen])
        rows.append((area_average(frames, 8) / 255).reshape(-1).astype(np.float32))
    return np.stack(rows)


def store(done):
    """Values, table of episodes, and the recorded configuration of the only store."""
    (one,) = done
    with open_features(one.path) as file:
        return file.layer("u").pooled("mean"), file.episodes, file.attrs


@pytest.mark.parametrize(
    ("path", "asked", "camera", "facts"),
    [
        ("lerobot/v30-av1", None, "observation.images.front", {"format": "LeRobot v3.0"}),
        ("lerobot/v21-h264", "wrist", "observation.images.wrist", {"format": "LeRobot v2.1"}),
        ("lerobot/v30-images", "images.wrist", "observation.images.wrist", {"format": "LeRobot v3.0"}),
        ("hdf5/libero", "agentview", "agentview_rgb", {"format": "HDF5 (LIBERO)", "flip": "vertical"}),
    ],
)
def test_pixels_of_every_format_are_those_of_its_images(tmp_path, path, asked, camera, facts):
    dataset = open_dataset(GOLDEN / path)
    done = extract(GOLDEN / path, out=tmp_path, models=["pixels"], options={"camera": asked}, decisions=4)
    values, episodes, attrs = store(done)
    assert np.array_equal(values, expected(dataset, camera))
    assert list(episodes["id"]) == [episode.id for episode in dataset]
    assert list(episodes["success"]) == [episode.success for episode in dataset]
    assert attrs["data_fingerprint"] == dataset.fingerprint()
    recorded = attrs["provenance"]["asked"]
    assert recorded["options"]["camera"] == camera
    assert recorded["dataset"] == facts | {"decisions": 4}
    again = extract(GOLDEN / path, out=tmp_path, models=["pixels"], options={"camera": asked}, decisions=4)
    assert again[0].status == "kept"


def test_a_video_model_reads_a_dataset_and_recognises_its_texts(tmp_path):
    _, episodes, attrs = store(extract(LEROBOT / "v30-h264", out=tmp_path, models=["viclip"]))
    assert set(episodes["instruction"]) == {"pick the red cube", "open the drawer"}
    assert attrs["provenance"]["asked"]["options"]["camera"] == "observation.images.front"


def test_another_flip_is_another_store(tmp_path):
    settings = {"out": tmp_path, "models": ["pixels"], "options": {"camera": "agentview"}}
    values, _, _ = store(extract(GOLDEN / "hdf5" / "libero", **settings))
    turned, _, attrs = store(extract(GOLDEN / "hdf5" / "libero", flip="rotate180", overwrite=True, **settings))
    assert attrs["provenance"]["asked"]["dataset"]["flip"] == "rotate180"
    pictures = values.reshape(-1, 8, 8, 8, 3), turned.reshape(-1, 8, 8, 8, 3)
    assert np.allclose(pictures[0][:, :, :, ::-1], pictures[1], atol=1e-6)


def test_partitions_and_chosen_episodes_reach_the_store(tmp_path):
    _, episodes, _ = store(
        extract(
            f"robomimic:{GOLDEN / 'hdf5' / 'robomimic'}",
            out=tmp_path,
            models=["pixels"],
            options={"camera": "agentview"},
            instructions={"PickPlaceCan/0": "put the can away"},
            episodes=["0:3", "demo_10"],
        )
    )
    assert list(episodes["partition"]) == ["train", "train", "train", "test"]
    assert list(episodes["success"]) == [1, 0, 1, 1]


def test_broken_episodes_stop_the_extraction_or_are_listed_with_their_reason(tmp_path):
    root = shutil.copytree(LEROBOT / "v21-h264", tmp_path / "v21-h264")
    (root / "videos/chunk-000/observation.images.front/episode_000002.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"episode_000002\.mp4: the file is empty"):
        extract(root, out=tmp_path / "a", models=["pixels"])
    notes = []
    done = extract(root, out=tmp_path / "b", models=["pixels"], skip_broken=True, note=notes.append)
    _, episodes, attrs = store(done)
    assert (len(episodes), done[0].skipped) == (4, 1)
    (left_out,) = attrs["provenance"]["skipped"]
    assert left_out["id"] == "v21-h264/0/episode2"
    assert "the file is empty" in left_out["reason"]
    assert any("v21-h264/0/episode2" in note and "the file is empty" in note for note in notes)


def test_files_that_cannot_be_opened_are_listed_with_their_reason(tmp_path):
    root = shutil.copytree(GOLDEN / "hdf5" / "libero", tmp_path / "libero")
    bad = root / "close_it_demo.hdf5"
    bad.write_bytes((root / "put_the_bowl_on_the_plate_demo.hdf5").read_bytes()[:9000])
    settings = {"models": ["pixels"], "options": {"camera": "agentview"}}
    with pytest.raises(DataError, match=r"close_it_demo\.hdf5: cannot be read"):
        extract(root, out=tmp_path / "a", **settings)
    _, episodes, attrs = store(extract(root, out=tmp_path / "b", skip_broken=True, **settings))
    assert len(episodes) == 10
    assert [entry["id"] for entry in attrs["provenance"]["skipped"]] == [str(bad)]


def test_a_table_of_videos_needs_no_camera(write_videos, tmp_path):
    write_videos(tmp_path, "id,video,instruction,success\nx,a.mp4,open it,1\ny,b.mp4,close it,0\n")
    values, episodes, attrs = store(extract(tmp_path, out=tmp_path / "out", models=["pixels"]))
    assert np.array_equal(values, expected(open_dataset(tmp_path), "video"))
    assert list(episodes["success"]) == [1, 0]
    assert attrs["provenance"]["asked"]["options"]["camera"] == "video"


def test_further_columns_of_a_table_of_videos_reach_the_store(write_videos, tmp_path):
    rows = "x,a.mp4,open it,4,anna,no\ny,b.mp4,close it,,ben,\n"
    write_videos(tmp_path, f"id,video,instruction,scene,operator,instructions\n{rows}")
    said = []
    (one,) = extract(tmp_path, out=tmp_path / "out", models=["pixels"], note=said.append)
    with open_features(one.path) as file:
        assert file.extra_columns == ("operator", "scene")
        assert list(file.episodes["operator"]) == ["anna", "ben"]
        assert file.episodes["scene"][0] == 4
        assert np.isnan(file.episodes["scene"][1])
    assert sum("column 'instructions' is left out of the features" in text for text in said) == 1
    (part,) = extract(tmp_path, out=tmp_path / "part", models=["pixels"], episodes=["y"])
    assert store([part])[1]["operator"].tolist() == ["ben"]


def test_a_camera_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"camera 'front'; choose another with --camera: 'agentview_rgb'"):
        extract(GOLDEN / "hdf5" / "libero", out=tmp_path / "out", models=["pixels"])
    with pytest.raises(DataError, match=r"camera 'images' |camera 'top'; choose"):
        extract(LEROBOT / "v30-av1", out=tmp_path / "out", models=["pixels"], options={"camera": "top"})
    assert not (tmp_path / "out").exists()


def test_a_policy_of_key_poses_says_what_the_dataset_lacks(tmp_path):
    with pytest.raises(DataError, match=r"ARP needs key poses, depth and camera matrices; .*v30-av1, episode 0 has no"):
        extract(LEROBOT / "v30-av1", out=tmp_path, models=["arp"])


def test_settings_of_reading_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="decisions"):
        extract(LEROBOT / "v30-av1", out=tmp_path, models=["pixels"], decisions=0)
    with pytest.raises(ConfigError, match="flip"):
        extract(LEROBOT / "v30-av1", out=tmp_path, models=["pixels"], flip="upside")
