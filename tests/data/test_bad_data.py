"""Bad data on disk: one clear error each, with file and field."""

import os
import re
import shutil

import numpy as np
import pytest

from mnprobe.core.errors import DataError
from mnprobe.data import open_dataset
from mnprobe.data.images import write_png
from mnprobe.data.pickling import dumps
from mnprobe.data.records import Global, Record


def _demo(*attributes, **more):
    return Record(Global.DEMO, {"_observations": [Record(Global.OBSERVATION, item) for item in attributes], **more})


def _numbers(**changes):
    good = {
        "gripper_open": 1.0,
        "gripper_pose": np.array([0, 0, 1, 0, 0, 0, 1.0]),
        "joint_velocities": np.full(7, 0.5),
        "gripper_joint_positions": np.zeros(2),
        "ignore_collisions": np.array(0.0),
        "misc": {
            "front_camera_intrinsics": np.diag([-5.0, -5, 1]) + np.array([[0, 0, 3], [0, 0, 2], [0, 0, 0.0]]),
            "front_camera_extrinsics": np.eye(4),
            "front_camera_near": 0.1,
            "front_camera_far": 4.0,
        },
    }
    return {key: value for key, value in (good | changes).items() if value is not ...}


@pytest.fixture
def with_demo(write, tmp_path):
    """An episode whose low_dim_obs.pkl holds something else."""

    def make(value):
        path = write() / "low_dim_obs.pkl"
        path.write_bytes(value if isinstance(value, bytes) else dumps(value))
        return open_dataset(tmp_path)[0], path

    return make


LOW_DIM = {
    "no demo": (["text"], "holds a list instead of a Demo"),
    "an observation": (Record(Global.OBSERVATION, {}), "holds an Observation instead of a Demo"),
    "no list": (
        Record(Global.DEMO, {"_observations": 3}),
        "field _observations of the Demo is a int instead of a list",
    ),
    "no observations": (Record(Global.DEMO, {}), "field _observations of the Demo is None"),
    "a demo in a demo": (
        Record(Global.DEMO, {"_observations": [Record(Global.DEMO), 1]}),
        "field _observations, frame 0: a Demo instead of an Observation",
    ),
    "one frame": (_demo(_numbers()), "field _observations holds one frame; a demonstration needs at least two"),
    "empty": (_demo(), "field _observations holds no frame"),
    "cut": (dumps(_demo(_numbers(), _numbers()))[:-40], "not a readable pickle at byte .* truncated"),
    "empty file": (b"", "not a readable pickle at byte 0"),
}


@pytest.mark.parametrize("case", LOW_DIM)
def test_a_damaged_low_dim_file_names_itself_and_the_field(with_demo, case):
    value, text = LOW_DIM[case]
    episode, path = with_demo(value)
    for ask in (lambda: len(episode), lambda: episode.keyframes, lambda: episode.frame(0), lambda: episode.steps()):
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: {text}"):
            ask()


READERS = [  # who reads what
    (lambda episode: episode.keyframes, {"gripper_open", "joint_velocities"}),
    (lambda episode: episode.steps(), {"gripper_open", "joint_velocities", "gripper_pose", "ignore_collisions"}),
    (lambda episode: episode.frame(0).state(), {"gripper_open", "gripper_joint_positions"}),
    (lambda episode: episode.joint_positions, {"joint_positions"}),
    (lambda episode: episode.frame(0).points("front"), {"misc"}),
    (lambda episode: episode.random_seed, {"random_seed"}),
]
FIELDS = {
    "one gap": (
        "gripper_pose",
        _demo(_numbers(), _numbers(gripper_pose=None), _numbers()),
        r" is missing \(or None\) in 1 of 3 frames, first in frame 1; expected numbers of shape \(7,\) in every frame",
    ),
    "wrong shape": (
        "gripper_pose",
        _demo(_numbers(), _numbers(gripper_pose=np.zeros(6))),
        r" of frame 1: has shape \(6,\), expected \(7,\)",
    ),
    "changing joints": (
        "joint_velocities",
        _demo(_numbers(joint_velocities=np.zeros(6)), _numbers(joint_velocities=np.zeros(7))),
        r" of frame 1: has shape \(7,\), expected \(6,\) as in frame 0",
    ),
    "no joints": (
        "joint_velocities",
        _demo(_numbers(joint_velocities=np.zeros(0)), _numbers()),
        r" of frame 0: has shape \(0,\), expected \(n,\)",
    ),
    "joints without end": (
        "joint_positions",
        _demo(*[_numbers(joint_positions=np.zeros(100_000))] * 3),
        r" of frame 0: has shape \(100000,\), expected \(n,\)",
    ),
    "velocities in a square": (
        "joint_velocities",
        _demo(*[_numbers(joint_velocities=np.zeros((2, 7)))] * 2),
        r" of frame 0: has shape \(2, 7\), expected \(n,\)",
    ),
    "one finger": (
        "gripper_joint_positions",
        _demo(*[_numbers(gripper_joint_positions=np.zeros(1))] * 2),
        r" of frame 0 has shape \(1,\), expected \(2,\): ARP's state is",
    ),
    "text": (
        "gripper_open",
        _demo(_numbers(), _numbers(gripper_open="open")),
        r" of frame 1: is a str, expected numbers of shape \(\)",
    ),
    "not finite": (
        "gripper_open",
        _demo(_numbers(), _numbers(gripper_open=float("nan"))),
        " of frame 1 holds a number that is not finite; expected finite numbers, found nan",
    ),
    "fewer joints at the end": (
        "joint_velocities",
        _demo(_numbers(), _numbers(), _numbers(joint_velocities=np.zeros(3))),
        r" of frame 2: has shape \(3,\), expected \(7,\) as in frame 0",
    ),
    "flag": (
        "ignore_collisions",
        _demo(_numbers(), _numbers(ignore_collisions=np.array([0.0, 1.0]))),
        r" of frame 1: has shape \(2,\), expected \(\)",
    ),
    "misc": ("misc", _demo(_numbers(misc=[1]), _numbers()), " of frame 0 is a list instead of a dictionary"),
    "seed": ("random_seed", _demo(_numbers(), _numbers(), random_seed=(1, 2)), " is not a state"),
    "short seed": (
        "random_seed",
        _demo(_numbers(), _numbers(), random_seed=("MT19937", np.zeros(3, np.uint32), 0, 0, 0.0)),
        " is not a state",
    ),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_damaged_field_is_named_by_its_readers_and_refused_by_no_other(with_demo, tmp_path, case):
    field, value, text = FIELDS[case]
    episode, path = with_demo(value)
    assert len(episode) == len(value.attributes["_observations"])
    assert episode.frame(0).rgb["front"].shape == (4, 6, 3)
    assert episode.instruction == "open the middle drawer"
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: field {field}{text}"):
        next(read for read, fields in READERS if field in fields)(episode)
    for read, fields in READERS:
        if field not in fields and fields != {"joint_positions"}:
            read(episode)
    if field not in ("misc", "gripper_joint_positions"):
        with pytest.raises(DataError, match=f"field {field}"):
            open_dataset(tmp_path, strict=True)


@pytest.mark.parametrize("joints", [1, 6, 8])
@pytest.mark.parametrize("fingers", [1, 2, 3])
def test_arms_of_any_joints_and_fingers_are_read(with_demo, joints, fingers):
    changes = {
        "joint_velocities": np.full(joints, 0.5),
        "joint_positions": np.arange(joints) / 10,
        "gripper_joint_positions": np.arange(fingers) / 100,
        "gripper_matrix": np.eye(4)[:3],
        "task_low_dim_state": None,
    }
    episode, _ = with_demo(_demo(*[_numbers(**changes)] * 6))
    assert episode.keyframes == (5,)
    assert [step.index for step in episode.steps()] == [5]
    assert episode.joint_positions.tolist() == [changes["joint_positions"].tolist()] * 6
    assert episode.frame(2).gripper_joint_positions.tolist() == changes["gripper_joint_positions"].tolist()
    with pytest.raises(DataError, match=r"field gripper_matrix of frame 0: has shape \(3, 4\), expected \(4, 4\)"):
        episode._low_dim.field("gripper_matrix")


def test_a_demo_without_velocities_has_no_keyframes_but_all_the_rest(with_demo):
    episode, path = with_demo(_demo(*[_numbers(joint_velocities=None)] * 3))
    assert episode.frame(1).gripper_open == 1.0
    with pytest.raises(
        DataError, match=f"{path}: field joint_velocities is missing .* it has gripper_open, gripper_pose"
    ):
        _ = episode.keyframes


@pytest.mark.parametrize(
    "state", [..., None, 3.0, "text", np.zeros((2, 7)), np.zeros(0), np.array([0.0, np.nan])], ids=str
)
def test_object_poses_that_are_none_are_absent(with_demo, state):
    episode, _ = with_demo(_demo(_numbers(task_low_dim_state=state), _numbers()))
    assert episode.task_low_dim_state is None
    assert len(episode) == 2


def test_object_poses_are_those_of_the_first_frame(with_demo):
    states = [np.arange(8.0), np.arange(9.0)]
    episode, _ = with_demo(_demo(*[_numbers(task_low_dim_state=state) for state in states]))
    assert episode.task_low_dim_state.tolist() == states[0].tolist()
    assert not episode.task_low_dim_state.flags.writeable


CAMERAS = {
    "absent camera": ({}, "field misc has no camera 'front'; cameras in it: none"),
    "absent part": (
        {"front_camera_near": 0.1},
        "field misc has no 'front_camera_intrinsics', though it has other parts",
    ),
    "wrong shape": (
        _numbers()["misc"] | {"front_camera_extrinsics": np.eye(3)},
        r"field misc\['front_camera_extrinsics'\] of frame 0: has shape \(3, 3\), expected \(4, 4\)",
    ),
    "near beyond far": (
        _numbers()["misc"] | {"front_camera_far": 0.05},
        "field misc of frame 0: camera 'front': needs 0 <= near",
    ),
    "no principal point": (
        _numbers()["misc"] | {"front_camera_intrinsics": np.diag([-5.0, -5, 1])},
        "field misc of frame 0: camera 'front': intrinsics without a principal point",
    ),
}


@pytest.mark.parametrize("case", CAMERAS)
def test_a_damaged_camera_is_named_when_it_is_asked_for(with_demo, case):
    misc, text = CAMERAS[case]
    episode, path = with_demo(_demo(*[_numbers(misc=misc)] * 6))
    assert len(episode.keyframes) == 1
    for ask in (lambda frame: frame.points("front"), lambda frame: frame.camera("front")):
        with pytest.raises(DataError, match=f"{path}: {text}"):
            ask(episode.frame(0))
    assert episode.frame(0).rgb["front"].shape == (4, 6, 3)


def test_a_missing_low_dim_file_is_named(write, tmp_path):
    path = write() / "low_dim_obs.pkl"
    path.unlink()
    dataset = open_dataset(tmp_path)
    for ask in (lambda: len(dataset[0]), dataset.fingerprint):
        with pytest.raises(DataError, match=f"{path}: there is no such file"):
            ask()


def test_a_missing_camera_or_frame_says_what_there_is(write, tmp_path):
    folder = write()
    (folder / "front_rgb" / "2.png").unlink()
    shutil.rmtree(folder / "wrist_depth")
    episode = open_dataset(tmp_path)[0]
    with pytest.raises(DataError, match=f"{folder}: no images of camera 'overhead'; cameras here: front, wrist"):
        _ = episode.frame(0).rgb["overhead"]
    with pytest.raises(DataError, match=f"{folder}: no images of camera 'overhead'"):
        episode.frames_on_disk("overhead")
    with pytest.raises(DataError, match=f"{folder}/front_rgb: no rgb image of frame 2; there are 5: 0, 1, 3, 4, 5"):
        _ = episode.frame(2).rgb["front"]
    with pytest.raises(
        DataError, match=f"{folder}/wrist_depth: no depth image of frame 1, the folder is missing; .* has rgb here"
    ):
        episode.frame(1).points("wrist")
    with pytest.raises(DataError, match=f"{folder}/front_mask: no mask image of frame 0, the folder is missing"):
        _ = episode.frame(0).mask["front"]
    with pytest.raises(DataError, match=f"{folder}: no frame 6; the episode has frames 0 to 5"):
        episode.frame(6)
    with pytest.raises(DataError, match="field misc has no camera 'overhead'; cameras in it: front, wrist"):
        episode.frame(0).camera("overhead")
    assert episode.frame(0).rgb.get("overhead") is None
    with pytest.raises(DataError, match=f"{folder}/front_rgb: 5 images for 6 frames .* frame 2 is missing"):
        open_dataset(tmp_path, strict=True)


def test_a_truncated_image_is_named(write, tmp_path):
    path = write() / "front_depth" / "3.png"
    path.write_bytes(path.read_bytes()[:-20])
    frame = open_dataset(tmp_path)[0].frame(3)
    assert frame.rgb["front"].shape == (4, 6, 3)
    for ask in (lambda: frame.depth["front"], lambda: frame.points("front")):
        with pytest.raises(DataError, match=f"{path}: truncated PNG"):
            ask()


def test_images_of_different_size_in_one_episode_are_refused(write, tmp_path):
    folder = write()
    write_png(folder / "front_rgb" / "4.png", np.zeros((8, 12, 3), np.uint8))
    episode = open_dataset(tmp_path)[0]
    assert episode.frame(3).rgb["front"].shape == (4, 6, 3)
    text = f"{folder}/front_rgb/4.png: 12 x 8 pixels, but {folder}/front_rgb/0.png has 6 x 4; .* 'front'"
    with pytest.raises(DataError, match=text):
        _ = episode.frame(4).rgb["front"]
    with pytest.raises(DataError, match=text):
        open_dataset(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("open the drawer", "holds a str instead of a list of str"),
        ({"a": 1}, "holds a dict instead of a list of str"),
        (["open", 3], "entry 1 of the list is a int, not a str"),
        ([], "holds an empty list"),
        ([""], "entry 0 of the list is empty"),
        (["open\x1b[2J"], "entry 0 of the list is empty or holds control characters"),
        (b"\x80\x04]\x8c\x07open\xed\xa0\x80a.", "entry 0 of the list is empty or holds"),  # half a surrogate pair
        (Record(Global.OBSERVATION, {}), "holds an Observation .* instead of a list of str"),
        (Record(Global.DEMO, {}), "holds a Demo .* instead of a list of str"),
        (np.zeros(3), "the pickle names 'numpy.core.multiarray' '_reconstruct'"),
        (b"\x80\x04cposix\nsystem\n\x8c\x02ls\x85R.", "the pickle names 'posix' 'system'"),
    ],
)
def test_descriptions_that_are_none_are_named_and_can_be_replaced(write, tmp_path, value, text):
    path = write() / "variation_descriptions.pkl"
    path.write_bytes(value if isinstance(value, bytes) else dumps(value))
    with pytest.raises(DataError, match=f"{path}: .*{text}"):
        _ = open_dataset(tmp_path)[0].instructions
    assert open_dataset(tmp_path, instructions={"open_drawer/1": "pull"})[0].instruction == "pull"


def test_missing_descriptions_name_both_places(write, tmp_path):
    path = write() / "variation_descriptions.pkl"
    path.unlink()
    with pytest.raises(DataError, match=f"{path} is missing .* CSV file with the columns task,variation,instruction"):
        _ = open_dataset(tmp_path)[0].instruction


@pytest.mark.parametrize("value", ["one", -1, 1.0, True, None, [1]])
def test_a_variation_number_that_is_none_is_named(write, tmp_path, value):
    path = write() / "variation_number.pkl"
    path.write_bytes(dumps(value))
    with pytest.raises(DataError, match=f"{path}: holds .* instead of the number of a variation"):
        _ = open_dataset(tmp_path)[0].variation


def test_a_missing_variation_number_is_named(write, tmp_path):
    path = write() / "variation_number.pkl"
    path.unlink()
    with pytest.raises(DataError, match=f"{path} is missing, and all_variations does not tell the variation"):
        _ = open_dataset(tmp_path)[0].id


def test_folders_that_are_no_dataset_say_what_was_expected(tmp_path):
    missing, empty, other, file = (tmp_path / name for name in ("missing", "empty", "other", "file"))
    empty.mkdir()
    (other / "deep" / "down").mkdir(parents=True)
    (other / "photo.png").write_bytes(b"")
    file.write_bytes(b"")
    for path, text in (
        (missing, "does not exist"),
        (empty, "is an empty folder. Expected <task>/all_variations/episodes/episode<N>"),
        (other, "is no dataset: no episode was found. Expected"),
        (file, "is a file; give the folder"),
    ):
        with pytest.raises(DataError, match=f"dataset {path} {text}"):
            open_dataset(path)


def test_folders_that_almost_are_a_dataset(write, tmp_path):
    (tmp_path / "a" / "open_drawer" / "all_variations" / "episodes" / "videos").mkdir(parents=True)
    with pytest.raises(DataError, match="episodes has no folder episode<N> in it"):
        open_dataset(tmp_path / "a")
    (tmp_path / "b" / "episodes" / "episode0").mkdir(parents=True)
    with pytest.raises(DataError, match=r"its parent is 'b'\. Expected"):
        open_dataset(tmp_path / "b" / "episodes")
    folder = write()
    with pytest.raises(DataError, match=f"is one episode; give the folder {folder.parent}"):
        open_dataset(folder)


def test_the_search_is_bounded_in_depth_and_survives_loops(write, tmp_path):
    folder = write()
    (folder.parents[2] / "loop").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(open_dataset(tmp_path)) == 1
    deep = tmp_path / "x" / "1" / "2" / "3" / "4" / "5" / "6" / "7"
    deep.mkdir(parents=True)
    shutil.move(tmp_path / "train", deep)
    with pytest.raises(DataError, match="no episode was found"):
        open_dataset(tmp_path / "x")


@pytest.fixture
def outside(tmp_path_factory):
    return tmp_path_factory.mktemp("outside")


def test_links_never_lead_out_of_the_dataset(write, tmp_path, outside):
    folder = write()
    for name in ("low_dim_obs.pkl", "variation_number.pkl", "variation_descriptions.pkl", "front_rgb/1.png"):
        path = folder / name
        target = outside / path.name
        shutil.move(path, target)
        path.symlink_to(target)
        ask = {
            "low_dim_obs.pkl": lambda e: len(e),
            "variation_number.pkl": lambda e: e.variation,
            "variation_descriptions.pkl": lambda e: e.instructions,
            "front_rgb/1.png": lambda e: e.frame(1).rgb["front"],
        }[name]
        with pytest.raises(DataError, match=f"{path} is a link that leaves the dataset folder {tmp_path}"):
            ask(open_dataset(tmp_path)[0])
        path.unlink()
        shutil.move(target, path)
    assert len(open_dataset(tmp_path, strict=True)) == 1


@pytest.mark.parametrize("level", ["front_rgb", "episode0", "episodes", "all_variations", "open_drawer"])
def test_linked_folders_never_lead_out_of_the_dataset(write, tmp_path, outside, level):
    folder = write()
    path = next(p for p in (folder / "front_rgb", *folder.parents, folder) if p.name == level)
    shutil.move(path, outside / level)
    path.symlink_to(outside / level)
    with pytest.raises(DataError, match=f"{path} is a link that leaves the dataset folder {tmp_path}"):
        open_dataset(tmp_path)[0].frame(0).rgb["front"]


def test_links_within_the_dataset_and_a_linked_dataset_are_fine(write, tmp_path, outside):
    folder = write()
    (folder / "front_rgb" / "5.png").unlink()
    (folder / "front_rgb" / "5.png").symlink_to(folder / "front_rgb" / "0.png")
    (tmp_path / "somewhere_else").symlink_to(outside)  # no task there: passed over
    (outside / "dataset").symlink_to(tmp_path)
    episode = open_dataset(outside / "dataset")[0]
    assert np.array_equal(episode.frame(5).rgb["front"], episode.frame(0).rgb["front"])
    assert open_dataset(outside / "dataset" / "train" / "open_drawer")[0].id == "open_drawer/1/train-episode0"


def test_what_is_no_regular_file_is_not_opened(write, tmp_path):
    folder = write()
    (folder / "front_rgb" / "0.png").unlink()
    os.mkfifo(folder / "front_rgb" / "0.png")
    with pytest.raises(DataError, match=r"front_rgb/0\.png: there is no such image file"):
        _ = open_dataset(tmp_path)[0].frame(1).rgb["front"]
    (folder / "low_dim_obs.pkl").unlink()
    os.mkfifo(folder / "low_dim_obs.pkl")
    with pytest.raises(DataError, match=r"low_dim_obs\.pkl: is no regular file"):
        len(open_dataset(tmp_path)[0])


def test_unknown_files_in_an_episode_are_ignored(write, tmp_path):
    folder = write()
    (folder / "lang_emb.pkl").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    (folder / "front_rgb" / "notes.txt").write_text("x")
    for name in (".DS_Store", "._3.png", "Thumbs.db", "README", "3.png.tmp", "kfs.json"):
        (folder / "front_rgb" / name).write_bytes(b"x")
    (folder / "front_video").mkdir()
    episode = open_dataset(tmp_path, strict=True)[0]
    assert episode.frames_on_disk("front") == tuple(range(6))


def test_a_keyframe_list_must_fit_when_strict(write, tmp_path):
    path = write() / "kfs.json"
    for wrong, text in (
        ("[4, 5]", r"does not list the keyframes of low_dim_obs.pkl, \[5\]"),
        ("[5", "not readable as JSON"),
    ):
        path.write_text(wrong)
        with pytest.raises(DataError, match=f"{path}: {text}"):
            open_dataset(tmp_path, strict=True)
    assert open_dataset(tmp_path)[0].keyframes == (5,)
    path.write_text("[5]")
    assert open_dataset(tmp_path, strict=True)[0].keyframes == (5,)


def test_a_demonstration_of_two_arms_is_refused_by_name(write, tmp_path):
    path = write() / "low_dim_obs.pkl"
    path.write_bytes(b"\x80\x04crlbench.backend.observation\nBimanualObservation\n)\x81.")
    message = (
        r"names 'rlbench.backend.observation' 'BimanualObservation', .* two arms, .* mnprobe.features.write_features"
    )
    with pytest.raises(DataError, match=f"{path}: refused .*{message}"):
        len(open_dataset(tmp_path)[0])


@pytest.mark.parametrize("name", ["open_drawer+0/ep0.dat", "data/chunk-000/episode_000000.parquet", "demo.hdf5"])
def test_data_of_other_projects_are_named(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    message = (
        rf"is no dataset: no episode was found. .* There is {re.escape(name)}, data of another format: .*write_features"
    )
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)
