"""Preparing what a training reads: once, for every setting of its own, with errors that say what to do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import open_dataset
from mnprobe.models.arp import ARPConfig
from mnprobe.models.viclip import ViCLIPConfig
from mnprobe.training.dataset import prepare_inputs
from mnprobe.training.sampler import BatchSampler

VICLIP = ViCLIPConfig(image_size=32, frames=4, width=24, heads=2)
ARP = ARPConfig(image_size=56, language_length=16, language_width=64)


def _prepare(dataset, cache, **changes):
    return prepare_inputs(dataset, **({"viclip": VICLIP, "arp": ARP, "cache": cache, "quiet": True} | changes))


def _folders(cache):
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def _files(cache):
    return {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*.npy")}


@pytest.fixture(scope="module")
def cache(micro_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    _prepare(micro_dataset, folder)
    return folder


def test_a_dataset_without_key_poses_is_refused_by_name(golden, tmp_path):
    dataset = open_dataset(golden / "lerobot" / "v30-images")
    with pytest.raises(DataError, match=r"training a policy needs key poses, depth and camera matrices; .*v30-images"):
        _prepare(dataset, tmp_path)


def test_rows_are_the_datasets(micro_dataset, cache):
    inputs = _prepare(micro_dataset, cache)
    assert inputs.ids.tolist() == [episode.id for episode in micro_dataset]
    assert inputs.tasks.tolist() == [episode.task for episode in micro_dataset]
    assert inputs.instructions.tolist() == [episode.instruction for episode in micro_dataset]
    assert inputs.transition_episode.dtype == np.int64
    assert np.array(inputs.texts)[inputs.instruction_of].tolist() == inputs.instructions.tolist()
    assert len(inputs.texts) == 4
    assert [len(set(inputs.groups(kind))) for kind in ("episode", "instruction", "task")] == [8, 4, 2]


def test_what_was_made_is_described(micro_dataset, cache):
    inputs = _prepare(micro_dataset, cache)
    told = inputs.describe()
    steps = len(inputs.transition_episode)
    assert told["dataset"] == micro_dataset.fingerprint()
    assert (told["episodes"], told["tasks"], told["instructions"], told["transitions"]) == (8, 2, 4, steps)
    assert told["clips"]["image_size"] == 32
    assert told["steps"] == {"cameras": list(ARP.cameras), "point_stride": 1}
    pixels = steps * 4 * 32 * 32 * (3 + 4)
    assert pixels + 8 * 4 * 32 * 32 * 3 < inputs.nbytes == told["bytes"] < 1.1 * pixels + 8 * 4 * 32 * 32 * 3 + 50_000
    on_disk = sum(len(content) for content in _files(cache).values())
    assert inputs.nbytes < on_disk < inputs.nbytes + 30 * 256


def test_a_second_training_opens_what_is_there(micro_demos, cache):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    again = _prepare(open_dataset(micro_demos), cache)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")} == before
    assert again.clips([0]).shape == (1, 4, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({}, []),
        ({"viclip": None}, []),
        ({"viclip": replace(VICLIP, width=48)}, []),  # not what is read, but what is done with it
        ({"arp": replace(ARP, image_size=28)}, []),
        ({"viclip": replace(VICLIP, frames=5)}, ["clips"]),
        ({"viclip": replace(VICLIP, image_size=48)}, ["clips"]),
        ({"viclip": replace(VICLIP, crop=(0.5, 0.0, 1.0, 1.0))}, ["clips"]),
        ({"camera": "wrist"}, ["clips"]),
        ({"frames_rule": "strided"}, ["clips"]),
        ({"arp": None}, ["steps"]),
        ({"arp": replace(ARP, cameras=("front",))}, ["steps"]),
        ({"point_stride": 2}, ["steps"]),
    ],
)
def test_only_what_a_setting_changes_is_made_anew(micro_dataset, cache, changes, made):
    before = _folders(cache)
    _prepare(micro_dataset, cache, **changes)
    assert [name.split("-")[0] for name in _folders(cache) if name not in before] == made


def test_other_data_are_made_anew(micro_dataset, micro_demos, cache):
    before = set(_folders(cache))
    fewer = _prepare(micro_dataset[:6], cache)
    assert len(fewer.ids) == 6
    assert len(set(_folders(cache)) - before) == 2
    told = open_dataset(micro_demos, instructions={"open_drawer/0": "pull it"})
    inputs = _prepare(told, cache)  # an instruction is no image, but the dataset is another one
    assert "pull it" in inputs.texts
    assert len(set(_folders(cache)) - before) == 4


def test_episodes_in_another_order_are_not_confused(micro_dataset, cache):
    backwards = micro_dataset[::-1]
    assert backwards.fingerprint() == micro_dataset.fingerprint()
    clips = _prepare(backwards, cache, arp=None).clips(np.arange(8))
    assert torch.equal(clips.flip(0), _prepare(micro_dataset, cache).clips(np.arange(8)))


def test_processes_that_help_give_the_same_bytes(micro_dataset, cache, tmp_path):
    changes = {"viclip": replace(VICLIP, frames=2), "point_stride": 3}
    for name, workers in (("one", 1), ("two", 2)):
        _prepare(micro_dataset, tmp_path / name, workers=workers, **changes)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_the_prepared_set_feeds_an_update(micro_dataset, cache):
    inputs = _prepare(micro_dataset, cache)
    draw = BatchSampler(inputs, batch=6, clips=8, pairing="instruction", seed=0).at(0, True)
    batch = inputs.policy_batch(draw.transitions, lambda texts: torch.zeros(len(texts), 16, 64))
    assert len(batch) == 6
    assert inputs.clips(draw.clips).shape == (8, 4, 3, 32, 32)


def test_reading_a_batch_copies_only_the_batch(micro_dataset, cache):
    inputs = _prepare(micro_dataset, cache)
    for array in [*inputs._steps.values(), *inputs._clips.values()]:
        assert isinstance(array, np.memmap)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"point_stride": 0}, "point_stride must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"arp": replace(ARP, state_width=18)}, "state of 18 numbers, demonstrations give 3.*Set state_width to 3"),
    ],
)
def test_impossible_settings_are_refused(micro_dataset, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        _prepare(micro_dataset, tmp_path, **changes)


def test_no_episodes_are_refused(micro_dataset, tmp_path):
    with pytest.raises(DataError, match="no episode to train on; choose other tasks or partitions"):
        _prepare(micro_dataset[:0], tmp_path)


def test_an_episode_without_instruction_is_named_with_the_way_out(write_demo, tmp_path):
    for number in range(2):
        write_demo(tmp_path / "demos", "open_drawer", number, "train", number, f"open it {number}", 6)
    (gone,) = tmp_path.glob("demos/*/*/*/*/episode1/variation_descriptions.pkl")
    gone.unlink()
    with pytest.raises(DataError, match=r"episode1.*has no instruction. Give the instructions as a CSV file"):
        _prepare(open_dataset(tmp_path / "demos"), tmp_path / "cache")


def test_images_of_two_sizes_are_refused(write_demo, tmp_path):
    for number, size in enumerate((16, 24)):
        write_demo(tmp_path / "demos", "open_drawer", 0, "train", number, "open it", 6, size=size)
    dataset = open_dataset(tmp_path / "demos")
    with pytest.raises(DataError, match=r"episode1: its rgb_0 .*open_drawer/0/train-episode0.*one image size"):
        _prepare(dataset, tmp_path / "cache")
    assert _prepare(dataset, tmp_path / "cache", arp=None).clips([0, 1]).shape[0] == 2  # clips are resized


def test_an_error_in_a_helping_process_is_the_same_error(write_demo, tmp_path):
    for number in range(4):
        write_demo(tmp_path / "demos", "open_drawer", 0, "train", number, "open it", 6)
    (gone,) = tmp_path.glob("demos/*/*/*/*/episode2/wrist_depth/0.png")
    gone.unlink()
    with pytest.raises(DataError, match="wrist_depth: no depth image of frame 0"):
        _prepare(open_dataset(tmp_path / "demos"), tmp_path / "cache", workers=2)
    assert not _folders(tmp_path / "cache")
