"""Laws that episodes of every format keep, recognizing formats, and choosing episodes and cameras."""

import json
import pickle
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import Dataset, Episode, RLBenchEpisode, describe, find_camera, open_dataset, require
from mnprobe.data.dataset import path_of
from mnprobe.data.episode import evenly_spaced
from mnprobe.features.inputs import choose_frames, read_clip

GOLDEN = Path(__file__).parents[1] / "golden"
VIDEOS = "id,video,instruction\nx,a.mp4,open it\ny,b.mp4,close it\n"
KINDS = ["rlbench", "lerobot", "lerobot-images", "hdf5", "videos"]


@pytest.fixture
def path(request, write, write_videos, tmp_path):
    """A small dataset of the format that the test asks for."""
    folders = {"lerobot": "lerobot/v30-h264", "lerobot-images": "lerobot/v30-images", "hdf5": "hdf5/libero"}
    if request.param in folders:
        return GOLDEN / folders[request.param]
    if request.param == "videos":
        return write_videos(tmp_path, VIDEOS)
    for number in range(3):
        write(episode=number)
    return tmp_path


every_format = pytest.mark.parametrize("path", KINDS, indirect=True)


@every_format
def test_every_episode_has_what_the_protocol_promises(path):
    dataset = open_dataset(path)
    assert len({episode.id for episode in dataset}) == len(dataset) > 1
    for episode in dataset:
        assert isinstance(episode, Episode)
        assert isinstance(episode, RLBenchEpisode) == (dataset.kind == "rlbench")
        assert episode.task
        assert isinstance(episode.variation, int)
        assert episode.instruction == episode.instructions[0]
        assert episode.partition in ("", "train", "val", "test")
        assert episode.success in (-1, 0, 1)
        assert episode.folder.exists()
        assert str(path) in episode.where
        assert len(episode) > 1
        assert episode.times.shape == (len(episode),)
        assert episode.times[0] == pytest.approx(0, abs=1e-6)
        assert (np.diff(episode.times) > 0).all()
        assert len(episode.fingerprint()) == 64
        for signals in (episode.state, episode.action):
            assert signals is None or signals.values.shape == (len(episode), len(signals.names))
        decisions = episode.decisions
        assert list(decisions) == sorted(set(decisions))
        assert all(0 <= index < len(episode) for index in decisions)


@every_format
def test_images_are_the_same_one_by_one_and_together(path):
    for episode in list(open_dataset(path))[:2]:
        assert episode.cameras
        for camera in episode.cameras:
            frames = episode.frames_on_disk(camera)
            assert frames == tuple(range(len(episode)))
            wanted = [frames[-1], 0, frames[len(frames) // 2], 0]
            together = episode.images(camera, wanted)
            assert together.dtype == np.uint8
            assert together.ndim == 4
            assert together.shape[-1] == 3
            assert all(
                np.array_equal(episode.image(camera, index), image)
                for index, image in zip(wanted, together, strict=True)
            )
            assert np.array_equal(episode.image(camera, -1), together[0])
        with pytest.raises(DataError, match=r"camera 'no such camera'.*(wrist|eye_in_hand_rgb|video)"):
            episode.frames_on_disk("no such camera")
        with pytest.raises(DataError, match="no such camera"):
            episode.image("no such camera", 0)


@every_format
def test_episodes_are_the_same_after_pickling_and_opening_again(path):
    dataset = open_dataset(path)
    first, again = dataset[0], open_dataset(path)[0]
    camera = first.cameras[0]
    first.image(camera, 0)
    for other in (pickle.loads(pickle.dumps(first)), again):
        assert (other.id, other.instruction, len(other)) == (first.id, first.instruction, len(first))
        assert np.array_equal(other.image(camera, 1), first.image(camera, 1))
        assert other.fingerprint() == first.fingerprint()
    assert open_dataset(path).fingerprint() == dataset.fingerprint()
    assert dataset[1:].fingerprint() != dataset.fingerprint()


@every_format
def test_a_clip_of_every_format_can_be_read(path):
    for episode in open_dataset(path):
        clip = read_clip(episode, episode.cameras[0], 4, "middle")
        assert clip.frames.shape[0] == 4
        frames = choose_frames(episode.frames_on_disk(episode.cameras[0]), len(episode), 4)
        assert np.array_equal(clip.frames, episode.images(episode.cameras[0], frames))


@every_format
def test_a_complete_dataset_passes_the_strict_check(path):
    assert len(open_dataset(path, strict=True)) > 1


@every_format
def test_facts_can_be_written_as_json(path):
    dataset = open_dataset(path)
    facts = json.loads(json.dumps(describe(dataset)))
    assert facts["episodes"] == len(dataset)
    assert facts["frames"] == sum(map(len, dataset))
    assert [camera["name"] for camera in facts["cameras"]] == list(dataset[0].cameras)
    for camera in facts["cameras"]:
        assert (camera["height"], camera["width"]) == dataset[0].image(camera["name"], 0).shape[:2]
    assert facts["cameras"][0]["fps"] == pytest.approx(10 if dataset.kind in ("lerobot", "videos") else 20)
    assert facts["problems"] == []
    assert facts["task_is_instruction"] == (dataset.kind in ("lerobot", "videos"))
    assert ("depth" in facts["missing"]) == (dataset.kind != "rlbench")
    assert ("partitions" in facts["missing"]) == (dataset.kind != "rlbench")


@every_format
def test_what_a_policy_of_key_poses_needs_is_missing_by_name(path):
    episode = open_dataset(path)[0]
    if isinstance(episode, RLBenchEpisode):
        assert require(episode, "depth", "key poses", who="ARP") is episode
        return
    message = r"ARP needs depth and key poses; .* has no depth or key poses: .*RLBench's demonstrations have them"
    with pytest.raises(DataError, match=message):
        require(episode, "depth", "key poses", who="ARP")
    assert require(episode, who="pixels") is episode


@pytest.mark.parametrize("path", ["lerobot", "hdf5", "videos"], indirect=True)
def test_decisions_are_evenly_spaced_and_as_many_as_asked(path):
    for count in (1, 4, 1000):
        for episode in open_dataset(path, decisions=count):
            assert episode.decisions == evenly_spaced(len(episode), count)
            assert len(episode.decisions) == min(count, len(episode))
            assert episode.decisions[0] == 0
    for wrong in (0, -1, 1.5, "many", True):
        with pytest.raises(ConfigError, match="--decisions"):
            open_dataset(path, decisions=wrong)


@every_format
def test_the_kind_may_be_told(path):
    dataset = open_dataset(path)
    told = open_dataset(f"{dataset.kind}:{path}")
    assert [episode.id for episode in told] == [episode.id for episode in dataset]
    assert told.paths == dataset.paths == (path,)
    assert path_of(f"{dataset.kind}:{path}") == path_of(str(path)) == path
    for other in {"rlbench", "lerobot", "hdf5", "videos"} - {dataset.kind}:
        with pytest.raises(DataError, match=re.escape(str(path))):
            open_dataset(f"{other}:{path}")


def test_kinds_that_are_not_known_or_do_not_fit_are_named(tmp_path, write):
    write()
    with pytest.raises(ConfigError, match=r"kind of dataset 'lerobots'.*lerobot"):
        open_dataset(f"lerobots:{tmp_path}")
    with pytest.raises(ConfigError, match="after lerobot: comes the path"):
        open_dataset("lerobot:")
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        open_dataset("lerobot:nowhere")
    with pytest.raises(ConfigError, match=r"several kinds .*\(rlbench\), .*\(lerobot\)"):
        open_dataset([tmp_path, GOLDEN / "lerobot" / "v30-av1"])
    with pytest.raises(ConfigError, match="turns images of HDF5 files"):
        open_dataset(tmp_path, flip="vertical")


def test_an_unknown_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    message = r"is no dataset: .*all_variations/episodes.*meta/info\.json \(LeRobot\).*data/demo_<N>.*episodes\.csv"
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"notes\.txt is a file; .*\.hdf5.*\.csv"):
        open_dataset(tmp_path / "notes.txt")


def test_stores_of_features_do_not_hide_the_demonstrations_beside_them(write, tmp_path):
    write()
    with h5py.File(tmp_path / "u.h5", "w") as file:
        file.create_group("layers")
    assert open_dataset(tmp_path).kind == "rlbench"


def test_a_folder_of_or_in_a_lerobot_dataset_names_the_dataset():
    with pytest.raises(DataError, match=r"holds LeRobot datasets .*v21-h264"):
        open_dataset(GOLDEN / "lerobot")
    with pytest.raises(DataError, match=r"is a part of a LeRobot dataset; give the folder .*v30-av1$"):
        open_dataset(GOLDEN / "lerobot" / "v30-av1" / "data")
    with pytest.raises(DataError, match=r"give the folder .*v30-av1$"):
        open_dataset(GOLDEN / "lerobot" / "v30-av1" / "meta" / "info.json")


def test_several_datasets_of_one_kind_are_joined(tmp_path):
    dataset = open_dataset([GOLDEN / "lerobot" / "v30-av1", GOLDEN / "lerobot" / "v21-h264"])
    assert len(dataset) == 10
    assert dataset.format == "LeRobot v3.0 and LeRobot v2.1"
    shutil.copytree(GOLDEN / "lerobot" / "v30-av1", tmp_path / "v30-av1")
    with pytest.raises(DataError, match=r"two episodes have one id 'v30-av1/0/episode0'"):
        open_dataset([GOLDEN / "lerobot" / "v30-av1", tmp_path / "v30-av1"])
    mixed = open_dataset([GOLDEN / "hdf5" / "libero", GOLDEN / "hdf5" / "robomimic"])
    assert {episode.partition for episode in mixed} == {""}
    assert mixed.facts["flip"] == "vertical, none"
    assert any("held-out episodes are drawn by seed" in note for note in mixed.notes)


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ("0:2", [0, 1]),
        ("3:", [3, 4]),
        (":-3", [0, 1]),
        ("4", [4]),
        ("episode2", [2]),
        ("v30-h264/1/episode3", [3]),
        (["episode4", "0:2"], [0, 1, 4]),
        ([3, 1], [1, 3]),
    ],
)
def test_episodes_are_chosen_by_position_or_name(asked, numbers):
    dataset = open_dataset(GOLDEN / "lerobot" / "v30-h264", episodes=asked)
    assert [episode.number for episode in dataset] == numbers


@pytest.mark.parametrize("asked", ["7:9", "episode9", "x", "17", ["0:2", "no"]])
def test_episodes_that_are_not_there_are_named(asked):
    with pytest.raises(DataError, match=r"v30-h264: episodes? .* (is none|are none) of its 5 episodes"):
        open_dataset(GOLDEN / "lerobot" / "v30-h264", episodes=asked)


def test_rlbench_episodes_are_chosen_too(write, tmp_path):
    for number in range(4):
        write(episode=number)
    dataset = open_dataset(tmp_path, episodes=["train-episode2", "0:1"])
    assert [episode.number for episode in dataset] == [0, 2]
    assert [episode.decisions for episode in dataset] == [episode.keyframes for episode in dataset]


@pytest.mark.parametrize(
    ("cameras", "asked", "found"),
    [
        (("front", "wrist"), "front", "front"),
        (("observation.images.front", "observation.images.wrist"), "front", "observation.images.front"),
        (("observation.images.front", "observation.images.wrist"), "images.wrist", "observation.images.wrist"),
        (("a.front", "front"), "front", "front"),
        (("agentview_rgb", "eye_in_hand_rgb"), "agentview", "agentview_rgb"),
        (("agentview_image", "robot0_eye_in_hand_image"), "hand", "robot0_eye_in_hand_image"),
        (("top/cam_high", "top/cam_low"), "high", "top/cam_high"),
    ],
)
def test_a_camera_is_found_by_its_unique_ending(cameras, asked, found):
    assert find_camera(cameras, asked) == found


@pytest.mark.parametrize(
    ("cameras", "asked", "message"),
    [
        (("left_front", "right_front"), "front", "camera 'front' may be 'left_front', 'right_front'; write more"),
        (("upfront",), "front", "no colour images of camera 'front'; choose another with --camera: 'upfront'"),
        (("wrist",), "", "no colour images of camera ''"),
        ((), "front", "no colour images of any camera"),
    ],
)
def test_a_camera_that_cannot_be_found_is_told_with_those_there_are(cameras, asked, message):
    with pytest.raises(DataError, match=message):
        find_camera(cameras, asked, "here")


def test_the_only_camera_is_the_default(write_videos, tmp_path):
    videos = open_dataset(write_videos(tmp_path, VIDEOS))
    assert videos.camera(None) == "video"
    with pytest.raises(DataError, match="no colour images of camera 'front'"):
        videos.camera("front")
    lerobot = open_dataset(GOLDEN / "lerobot" / "v30-av1")
    assert lerobot.camera(None) == "observation.images.front"
    assert lerobot.camera("wrist") == "observation.images.wrist"
    libero = open_dataset(GOLDEN / "hdf5" / "libero")
    with pytest.raises(DataError, match=r"camera 'front'; choose another with --camera: 'agentview_rgb', 'eye_in_hand"):
        libero.camera(None)


def test_parts_of_a_dataset_keep_its_facts():
    dataset = open_dataset(GOLDEN / "hdf5" / "libero")
    part = dataset[2:4]
    assert isinstance(part, Dataset)
    assert (part.kind, part.format, part.facts, len(part)) == (dataset.kind, dataset.format, dataset.facts, 2)
