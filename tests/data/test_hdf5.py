"""HDF5 files of LIBERO and robomimic against golden values, and files that no one should trust."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import describe, open_dataset

GOLDEN = Path(__file__).parents[1] / "golden" / "hdf5"
REFERENCE = json.loads((GOLDEN / "reference.json").read_text())
CAN = "robomimic/can_image.hdf5"
BOWL = "libero/put_the_bowl_on_the_plate_demo.hdf5"


@pytest.mark.parametrize("name", ["libero", "robomimic"])
def test_everything_is_as_the_files_say(name):
    dataset = open_dataset(GOLDEN / name)
    assert {episode.id for episode in dataset} == {key for key in REFERENCE if key.startswith(name)}
    for episode in dataset:
        facts = REFERENCE[episode.id]
        assert len(episode) == facts["frames"] == len(episode.action.values) == len(episode.state.values)
        assert episode.success == facts["success"]
        first = episode.image("agentview", 0)
        assert first[2, 4].tolist() == facts["upright_pixel_row2"]
        assert np.allclose(episode.times, np.arange(len(episode)) / 20)
        if name == "libero":
            assert int(first.sum()) == facts["agentview_first_frame_sum"]
            assert episode.instructions == (facts["instruction"], facts["paraphrase"])
            assert (episode.task, episode.partition) == (episode.id.split("/")[1], "")
        else:
            assert (episode.task, episode.partition) == (facts["env_name"], facts["partition"])
            with pytest.raises(
                DataError, match=r"can_image\.hdf5, demo_\d+: the episode has no instruction\. Give .*Can"
            ):
                episode.instruction  # noqa: B018


def test_demonstrations_are_in_the_order_of_their_numbers():
    numbers = [episode.id.rpartition("_")[2] for episode in open_dataset(GOLDEN / CAN)]
    assert numbers == ["0", "1", "2", "3", "10"]
    assert [episode.id for episode in open_dataset(GOLDEN / CAN)] == [
        episode.id for episode in open_dataset(GOLDEN / "robomimic")
    ]


def test_the_instruction_of_robomimic_is_the_users():
    dataset = open_dataset(GOLDEN / CAN, instructions={"PickPlaceCan/0": "put the can into the bin"})
    assert {episode.instruction for episode in dataset} == {"put the can into the bin"}
    assert describe(dataset)["instructions"] == ["put the can into the bin"]


def test_images_are_turned_as_the_file_says_or_the_user():
    stored = {}
    for name in (CAN, BOWL):
        with h5py.File(GOLDEN / name) as file:
            obs = file["data/demo_1/obs"]
            camera = next(key for key in obs if key.startswith("agentview"))
            stored[name] = camera, obs[camera][()]
    turned = {
        "none": lambda images: images,
        "vertical": lambda images: images[:, ::-1],
        "rotate180": lambda images: images[:, ::-1, ::-1],
    }
    for name, (camera, images) in stored.items():
        for flip, turn in turned.items():
            dataset = open_dataset(GOLDEN / name, flip=flip)
            episode = next(one for one in dataset if one.id.endswith("demo_1"))
            assert np.array_equal(episode.images(camera, [3, 0]), turn(images)[[3, 0]])
            assert dataset.facts["flip"] == flip
    prints = {open_dataset(GOLDEN / BOWL, flip=flip).fingerprint() for flip in (*turned, "auto")}
    assert len(prints) == 3
    assert open_dataset(GOLDEN / BOWL).facts == {"format": "HDF5 (LIBERO)", "flip": "vertical"}
    assert open_dataset(GOLDEN / CAN).facts == {"format": "HDF5 (robomimic)", "flip": "none"}
    with pytest.raises(ConfigError, match="flip"):
        open_dataset(GOLDEN / BOWL, flip="upside")


@pytest.fixture
def copy(tmp_path):
    """A golden file that a test may change; gives the path and a way to change it."""

    def make(name):
        path = tmp_path / "copies" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GOLDEN / name, path)
        return path

    return make


def change(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)


def put(group, name, values):
    del group[name]
    group[name] = values


def test_a_room_before_the_instruction_is_the_scene(copy, tmp_path):
    path = tmp_path / "KITCHEN_SCENE10_turn_on_the_stove_demo.hdf5"
    copy(BOWL).rename(path)
    episode = open_dataset(path)[0]
    assert episode.instruction == "turn on the stove"
    assert episode.task == "KITCHEN_SCENE10_turn_on_the_stove"


def test_libero_files_that_say_nothing_about_their_images_are_named(copy):
    path = copy(BOWL)

    def forget(file):
        for name in list(file["data"].attrs):
            del file["data"].attrs[name]

    change(path, forget)
    dataset = open_dataset(path)
    assert dataset.facts["flip"] == "none"
    assert {episode.success for episode in dataset} == {-1}
    assert any("does not say how its images are stored" in note and "--flip vertical" in note for note in dataset.notes)


def test_rewards_that_are_one_number_tell_nothing(copy):
    path = copy(CAN)

    def flatten(file):
        for demo in file["data"].values():
            put(demo, "rewards", np.zeros(len(demo["actions"])))

    change(path, flatten)
    assert {episode.success for episode in open_dataset(path)} == {-1}
    assert {episode.success for episode in open_dataset(path, outcomes="successful")} == {1}
    change(path, lambda file: [demo.__delitem__("rewards") for demo in file["data"].values()])
    assert {episode.success for episode in open_dataset(path)} == {-1}


def test_masks_are_partitions_where_they_cover_everything(copy):
    path = copy(CAN)
    change(path, lambda file: put(file["mask"], "valid", np.array([b"demo_10"])))
    dataset = open_dataset(path)
    assert {episode.partition for episode in dataset} == {""}
    assert any("mask names no partition for 1 episodes" in note for note in dataset.notes)

    def three(file):
        put(file["mask"], "valid", np.array([b"demo_10"]))
        file["mask"]["test"] = np.array([b"demo_3"])
        file["mask"]["20_percent"] = np.array([b"demo_3"])

    change(path, three)
    assert [episode.partition for episode in open_dataset(path)] == ["train", "train", "train", "test", "val"]


def test_texts_of_single_demonstrations_are_variations(copy):
    path = copy(CAN)

    def tell(file):
        for number, demo in enumerate(file["data"].values()):
            demo.attrs["ep_meta"] = json.dumps({"lang": f"pick the {('can', 'cup')[number % 2]}"})

    change(path, tell)
    dataset = open_dataset(path)
    assert {(episode.variation, episode.instruction) for episode in dataset} == {
        (0, "pick the can"),
        (1, "pick the cup"),
    }
    change(
        path,
        lambda file: file["data"].attrs.__setitem__("env_args", json.dumps({"env_lang": "do it", "env_name": "X"})),
    )
    change(path, lambda file: [demo.attrs.__delitem__("ep_meta") for demo in file["data"].values()])
    assert {(one.task, one.instruction) for one in open_dataset(path)} == {("X", "do it")}


def test_the_control_frequency_gives_the_times(copy):
    path = copy(CAN)
    args = {"env_name": "X", "env_kwargs": {"control_freq": 10}}
    change(path, lambda file: file["data"].attrs.__setitem__("env_args", json.dumps(args)))
    assert open_dataset(path)[0].times[3] == pytest.approx(0.3)


def test_fingerprints_follow_pictures_and_actions(copy):
    path = copy(BOWL)
    same = open_dataset(path).fingerprint()
    assert same == open_dataset(copy(BOWL)).fingerprint()

    def brighten(file):
        file["data/demo_0/obs/agentview_rgb"][2] += 1

    change(path, brighten)
    assert open_dataset(path).fingerprint() != same


# ---- broken files ----------------------------------------------------------------------------------------------------


def link_to(file, name, link):
    del file[name]
    file[name] = link


def external(file):
    del file["data/demo_1/obs/agentview_image"]
    shape, place = (7, 32, 40, 3), [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    file["data/demo_1/obs"].create_dataset("agentview_image", shape, np.uint8, external=place)


def without_demos(file):
    for name in list(file["data"]):
        del file["data"][name]


BROKEN = {  # name -> damage, message
    "no data": (lambda f: f.__delitem__("data"), r": /data: is missing"),
    "data an array": (lambda f: put(f, "data", np.zeros(3)), r": /data: must be a group"),
    "no demonstrations": (without_demos, r"data holds no demo_<N>, but nothing"),
    "states only": (
        lambda f: [demo.__delitem__("obs") for demo in f["data"].values()],
        r"states only, no obs\. .*dataset_states_to_obs\.py",
    ),
    "one without obs": (lambda f: f["data/demo_3"].__delitem__("obs"), r"demo_3: it holds states only"),
    "no actions": (lambda f: f["data/demo_1"].__delitem__("actions"), r"/data/demo_1/actions: is missing"),
    "fewer actions": (
        lambda f: put(f["data/demo_1"], "actions", np.zeros((3, 7))),
        r"demo_1: its frames are not as many everywhere: actions 3, obs/agentview_image 7",
    ),
    "another num_samples": (lambda f: f["data/demo_1"].attrs.__setitem__("num_samples", 9), r"num_samples 9"),
    "no frames": (lambda f: put(f["data/demo_1"], "actions", np.zeros((0, 7))), r"demo_1: its frames are not as many"),
    "images of another type": (
        lambda f: put(f["data/demo_1/obs"], "agentview_image", np.zeros((7, 32, 40, 3), np.float32)),
        r"demo_1: obs/agentview_image has shape \(7, 32, 40, 3\), type float32",
    ),
    "a soft link": (
        lambda f: link_to(f, "data/demo_1/obs/agentview_image", h5py.SoftLink("/data/demo_0/obs/agentview_image")),
        r"agentview_image: is a link to another place",
    ),
    "a link to another file": (
        lambda f: link_to(f, "data/demo_1/actions", h5py.ExternalLink("/etc/hostname", "/x")),
        r"actions: is a link to another place",
    ),
    "data in another file": (external, r"agentview_image: its data lie outside this file"),
    "env_args not JSON": (
        lambda f: f["data"].attrs.__setitem__("env_args", "{"),
        r"attribute env_args: not readable as JSON",
    ),
    "env_args a list": (lambda f: f["data"].attrs.__setitem__("env_args", "[1]"), r"attribute env_args: holds a list"),
    "in two partitions": (
        lambda f: put(f["mask"], "valid", np.array([b"demo_10", b"demo_3", b"demo_0"])),
        r"mask puts demo_0 into train and val",
    ),
}


def read_all(path):
    for episode in open_dataset(path):
        assert len(episode.times) == len(episode.action.values) == len(episode.state.values)
        assert episode.success in (0, 1)
        for camera in episode.cameras:
            assert len(episode.images(camera, range(len(episode)))) == len(episode)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_message_that_names_it(copy, case):
    path = copy(CAN)
    damage, message = BROKEN[case]
    change(path, damage)
    with pytest.raises(DataError, match=message) as raised:
        read_all(path)
    assert str(path) in str(raised.value)


def test_a_cut_file_is_named_and_can_be_left_out(copy):
    bad, good = copy(CAN), copy("libero/put_the_bowl_on_the_plate_demo.hdf5")
    bad.write_bytes(bad.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"can_image\.hdf5: cannot be read as HDF5 .*--skip-broken"):
        open_dataset(bad.parents[1])
    dataset = open_dataset(bad.parents[1], skip_broken=True)
    assert len(dataset) == 5
    assert list(dataset.broken) == [str(bad)]
    assert {str(episode.folder) for episode in dataset} == {str(good.parent)}
    with pytest.raises(DataError, match=r"no episode can be read: .*can_image"):
        open_dataset(bad, skip_broken=True)


def test_stores_of_features_beside_the_files_are_no_demonstrations(copy):
    path = copy(CAN)
    with h5py.File(path.parent / "u.h5", "w") as file:
        file.create_group("layers")
        file.create_group("episodes")
    assert len(open_dataset(path.parent)) == 5
