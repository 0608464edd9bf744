import pickle
import re
import shutil

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import Dataset, Episode, open_dataset
from mnprobe.data.pickling import dumps


def _native(write, tmp_path, variation=3, **changes):
    """Move a written episode into RLBench's own layout."""
    folder = write(variation=variation, **changes)
    episodes = tmp_path / "native" / "open_drawer" / f"variation{variation}" / "episodes"
    episodes.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, episodes / folder.name)
    shutil.rmtree(tmp_path / "train")
    return episodes / folder.name


def test_episodes_come_in_natural_order(write, tmp_path):
    for number in (10, 2, 0, 11):
        write(episode=number)
    write(episode=1, partition="test")
    write(episode=3, partition="val", task="close_jar")
    dataset = open_dataset(tmp_path)
    assert [(e.task, e.partition, e.number) for e in dataset] == [
        ("close_jar", "val", 3),
        ("open_drawer", "train", 0),
        ("open_drawer", "train", 2),
        ("open_drawer", "train", 10),
        ("open_drawer", "train", 11),
        ("open_drawer", "test", 1),
    ]
    assert dataset.tasks == ("close_jar", "open_drawer")
    assert dataset.partitions == ("train", "val", "test")
    assert dataset.paths == (tmp_path,)


def test_a_dataset_is_a_sequence(write, tmp_path):
    for number in range(3):
        write(episode=number)
    dataset = open_dataset(str(tmp_path))
    assert len(dataset) == 3
    assert isinstance(dataset[0], Episode)
    assert isinstance(dataset[1:], Dataset)
    assert [episode.number for episode in dataset[1:]] == [1, 2]
    assert [episode.number for episode in reversed(dataset)] == [2, 1, 0]
    assert repr(dataset) == f"Dataset(3 episodes of 1 tasks in {tmp_path})"


def test_any_folder_from_far_above_to_the_episodes_will_do(write, tmp_path):
    write(episode=4)
    (tmp_path / "runs" / "one" / "demos").mkdir(parents=True)
    shutil.move(tmp_path / "train", tmp_path / "runs" / "one" / "demos" / "train")
    folder = tmp_path / "runs/one/demos/train/open_drawer/all_variations/episodes/episode4"
    (tmp_path / "notes").mkdir()
    (tmp_path / ".hidden" / "t" / "all_variations" / "episodes" / "episode0").mkdir(parents=True)
    for above in (*folder.parents[:7], tmp_path):
        assert [episode.id for episode in open_dataset(above)] == ["open_drawer/1/train-episode4"], above


def test_relative_paths_keep_the_names_above(write, tmp_path, monkeypatch):
    folder = write()
    monkeypatch.chdir(folder.parent)
    assert open_dataset(".")[0].id == "open_drawer/1/train-episode0"


def test_partitions_and_tasks_are_kept_as_asked(write, tmp_path):
    write(partition="train")
    write(partition="val")
    write(partition="val", task="close_jar")
    assert [e.task for e in open_dataset(tmp_path, partitions=["val"])] == ["close_jar", "open_drawer"]
    assert [e.partition for e in open_dataset(tmp_path, tasks=["open_drawer"])] == ["train", "val"]
    with pytest.raises(DataError, match=r"no episode of partition 'test'; there are: train, val"):
        open_dataset(tmp_path, partitions=["test"])
    with pytest.raises(ConfigError, match=r"unknown partition 'vla'\. Did you mean 'val'"):
        open_dataset(tmp_path, partitions=["vla"])
    with pytest.raises(DataError, match=r"no episode of task 'open_door'; there are: close_jar, open_drawer"):
        open_dataset(tmp_path, tasks=["open_door"])
    with pytest.raises(DataError, match=r"no episode of tasks .* in partitions"):
        open_dataset(tmp_path, tasks=["close_jar"], partitions=["train"])


@pytest.mark.parametrize("name", ["validation", "valid", "dev", "Val", "VALIDATION "])
def test_a_folder_that_means_a_partition_is_read_only_when_that_is_asked_for(write, tmp_path, name):
    write(partition="test")
    write(partition="val")
    (tmp_path / "val").rename(tmp_path / name)
    for path in (tmp_path, [tmp_path / name, tmp_path / "test"], tmp_path / name):
        with pytest.raises(
            DataError, match=f"folder '{name}' seems to be partition 'val'. Partitions are called train"
        ):
            open_dataset(path)
    with pytest.warns(UserWarning, match=f"folder '{name}' is read as partition 'val'"):
        found = open_dataset(tmp_path, partitions=["test", "val"])
    assert [episode.id for episode in found] == ["open_drawer/1/val-episode0", "open_drawer/1/test-episode0"]
    assert open_dataset(tmp_path, partitions=["test"]).partitions == ("test",)


@pytest.mark.parametrize("name", ["train_split", "holdout", "val2"])
def test_a_folder_of_no_known_name_beside_a_partition_is_refused(write, tmp_path, name):
    write(partition="test")
    write(partition="train")
    (tmp_path / "train").rename(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is no partition that is known, while .*test is 'test'"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, partitions=["test"]).partitions == ("test",)
    assert open_dataset(tmp_path / name).partitions == ("",)


def test_two_folders_of_one_partition_are_not_mixed(write, tmp_path):
    write(partition="val")
    write(partition="test", episode=1)
    (tmp_path / "test").rename(tmp_path / "validation")
    for partitions in (None, ["val"]):
        with pytest.raises(DataError, match=r"validation.* both stand for the partition 'val'. Open them apart"):
            open_dataset(tmp_path, partitions=partitions)


@pytest.mark.parametrize("name", ["training", "dev", "Test", "real"])
def test_a_dataset_without_partitions_may_lie_in_any_folder(write, tmp_path, name):
    write(partition="")
    root = tmp_path / "data" / name
    root.mkdir(parents=True)
    (tmp_path / "open_drawer").rename(root / "open_drawer")
    for path in (root, root / "open_drawer"):
        assert [episode.id for episode in open_dataset(path)] == ["open_drawer/1/episode0"]


def test_partitions_are_asked_for_by_any_of_their_names(write, tmp_path):
    write(partition="val")
    with pytest.warns(UserWarning, match="partition 'Validation' is read as 'val'"):
        assert len(open_dataset(tmp_path, partitions=["Validation"])) == 1
    with pytest.warns(UserWarning, match="partition 'testing' is read as 'test'"):
        assert write(partition="testing").parents[3] == tmp_path / "test"
    with pytest.raises(ConfigError, match="unknown partition 'holdout'"):
        open_dataset(tmp_path, partitions="holdout")
    assert len(open_dataset(tmp_path, partitions="val")) == 1


def test_a_link_to_a_sibling_is_one_dataset_not_two(write, tmp_path):
    folder = write()
    (tmp_path / "aaa").symlink_to(tmp_path / "train")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "close_jar").symlink_to(tmp_path / "train" / "open_drawer")
    found = open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, partitions=["train"])) == 2
    assert [e.id for e in found if e.folder == folder] == ["open_drawer/1/train-episode0"]


def test_several_folders_are_joined_once(write, tmp_path, make_frames):
    write(partition="train")
    write(partition="test")
    joined = open_dataset([tmp_path / "test", tmp_path / "train", tmp_path])
    assert [episode.partition for episode in joined] == ["train", "test"]
    with pytest.raises(ConfigError, match="at least one folder"):
        open_dataset([])


def test_two_folders_with_one_id_are_refused_by_both_names(write, tmp_path):
    folder = write()
    other = tmp_path / "copy" / "train" / "open_drawer" / "all_variations" / "episodes" / "episode0"
    shutil.copytree(folder, other)
    with pytest.raises(DataError, match="one episode id 'open_drawer/1/train-episode0': ") as caught:
        open_dataset(tmp_path)
    assert str(folder) in str(caught.value)
    assert str(other) in str(caught.value)
    (other / "variation_number.pkl").write_bytes(dumps(2))
    assert [e.variation for e in open_dataset(tmp_path)] == [2, 1]


def test_rlbenchs_own_layout_tells_variation_and_description_by_folder(write, tmp_path):
    folder = _native(write, tmp_path)
    (folder / "variation_number.pkl").unlink()
    (folder / "variation_descriptions.pkl").rename(folder.parent.parent / "variation_descriptions.pkl")
    (episode,) = open_dataset(tmp_path)
    assert (episode.id, episode.instruction) == ("open_drawer/3/episode0", "open the middle drawer")
    (folder / "variation_descriptions.pkl").write_bytes(dumps(["nearer"]))
    assert open_dataset(tmp_path)[0].instruction == "nearer"


def test_a_variation_that_contradicts_its_folder_is_refused(write, tmp_path):
    folder = _native(write, tmp_path)
    (folder / "variation_number.pkl").write_bytes(dumps(4))
    with pytest.raises(DataError, match=r"variation_number\.pkl: says variation 4, but lies in variation3"):
        _ = open_dataset(tmp_path)[0].id


def test_numpy_numbers_are_variations_too(write, tmp_path):
    folder = write()
    (folder / "variation_number.pkl").write_bytes(pickle.dumps(np.int64(2)))
    assert open_dataset(tmp_path)[0].variation == 2


def test_the_fingerprint_follows_what_features_are_made_from(write, tmp_path, make_frames):
    folder = write(episode=0)
    write(episode=1)
    first = open_dataset(tmp_path).fingerprint()
    assert len(first) == 64
    shutil.copytree(tmp_path / "train", tmp_path / "elsewhere" / "train")
    assert open_dataset(tmp_path / "elsewhere").fingerprint() == first
    assert open_dataset(tmp_path / "train", outcomes="successful").fingerprint() == first
    assert open_dataset(tmp_path / "train")[:1].fingerprint() != first
    assert open_dataset(tmp_path / "train", instructions={"open_drawer/1": "x"}).fingerprint() != first
    for change in (
        lambda: (folder / "front_rgb" / "3.png").unlink(),
        lambda: (folder / "front_depth" / "3.png").write_bytes(b"other"),
        lambda: (folder / "low_dim_obs.pkl").write_bytes((folder / "low_dim_obs.pkl").read_bytes() + b"N"),
        lambda: (folder / "variation_descriptions.pkl").write_bytes(dumps(["other"])),
    ):
        change()
        second = open_dataset(tmp_path / "train").fingerprint()
        assert second != first
        first = second


def test_intrinsics_follow_images_of_another_size(write, make_frames, tmp_path):
    small, large = make_frames(size=(4, 6)), make_frames(size=(8, 12))
    write(frames=[_seen(frame, bigger) for frame, bigger in zip(small, large, strict=True)])
    (episode,) = open_dataset(tmp_path)
    frame = episode.frame(0)
    np.testing.assert_allclose(frame.camera("front").intrinsics, large[0].cameras["front"].intrinsics)
    np.testing.assert_array_equal(frame.intrinsics["front"], small[0].cameras["front"].intrinsics)
    view = large[0].cameras["front"]
    d = frame.depth64("front")[7, 11]
    local = [d * (11 - 6) / view.intrinsics[0, 0], d * (7 - 4) / view.intrinsics[1, 1], d]
    expected = view.extrinsics[:3, :3] @ local + view.extrinsics[:3, 3]
    np.testing.assert_allclose(frame.points("front")[7, 11], expected, atol=1e-6)


def _seen(frame, bigger):
    import dataclasses

    return dataclasses.replace(frame, rgb=bigger.rgb, depth=bigger.depth)


def test_instructions_can_be_given_as_csv(write, tmp_path):
    write(variation=1, episode=0)
    write(variation=2, episode=1)
    file = tmp_path / "texts.csv"
    file.write_text(
        'variation,task,instruction,by\n1,open_drawer,"pull, gently",me\n1,open_drawer,pull,me\n9,other,x,me\n'
    )
    dataset = open_dataset(tmp_path, instructions=file)
    assert dataset[0].instructions == ("pull, gently", "pull")
    assert dataset[1].instructions == ("open the middle drawer",)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("task,variation\nopen_drawer,1\n", "column 'instruction' is missing; .* found task, variation"),
        ("", "column 'task' is missing; .* found nothing"),
        ("task,variation,instruction\n", "no instruction in it"),
        (
            "task,variation,instruction\nopen_drawer,one,x\n",
            "line 2: variation must be a whole number from 0, got 'one'",
        ),
        ("task,variation,instruction\nopen_drawer,1,x\nopen_drawer,-1,x\n", "line 3: variation .* got '-1'"),
        ("task,variation,instruction\nopen_drawer,1,\n", "line 2: instruction must be a text, got ''"),
        ("task,variation,instruction\nopen_drawer\n", "line 2: variation must be .* got None"),
        ("task,variation,instruction\n,1,x\n", "line 2: the task is empty"),
    ],
)
def test_instructions_that_cannot_be_understood_give_file_and_line(write, tmp_path, text, error):
    write()
    file = tmp_path / "texts.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=f"{file}.*{error}"):
        open_dataset(tmp_path, instructions=file)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"open_drawer": "x"}, r"instructions\['open_drawer'\]: the key must be 'task/variation'"),
        ({"open_drawer/x": "x"}, "variation must be a whole number from 0, got 'x'"),
        ({"open_drawer/1": []}, "no instruction given"),
        ({"open_drawer/1": ["x", ""]}, "instruction must be a text, got ''"),
    ],
)
def test_instructions_given_wrongly_name_the_key(write, tmp_path, given, error):
    write()
    with pytest.raises(DataError, match=error):
        open_dataset(tmp_path, instructions=given)


def test_outcomes_lie_beside_the_data_or_are_given(write, tmp_path):
    for number in range(4):
        write(episode=number)
    ids = [episode.id for episode in open_dataset(tmp_path)]
    assert [e.success for e in open_dataset(tmp_path)] == [-1] * 4
    assert [e.success for e in open_dataset(tmp_path, outcomes="successful")] == [1] * 4
    (tmp_path / "outcomes.csv").write_text(f"id,steps,success\n{ids[0]},3,1\n{ids[1]},4,False\n{ids[3]},4,-1\n")
    assert [e.success for e in open_dataset(tmp_path)] == [1, 0, -1, -1]
    other = tmp_path / "other.csv"
    other.write_text(f"success,id\n0,{ids[0]}\n")
    assert [e.success for e in open_dataset(tmp_path, outcomes=other)] == [0, -1, -1, -1]
    write(episode=9, partition="test")
    assert [e.success for e in open_dataset(tmp_path, partitions=["test"])] == [-1]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name,success\n", "column 'id' is missing; outcomes need id, success, found name, success"),
        ("id\n", "column 'success' is missing"),
        ("", "found nothing"),
        ("id,success\nopen_drawer/1/train-episode0,2\n", "line 2: success of open_drawer/1/train-episode0 .* got '2'"),
        ("id,success\nopen_drawer/1/train-episode0,1\n,1\n", "line 3: the id is empty"),
        (
            "id,success\nopen_drawer/1/train-episode0,1\nopen_drawer/1/train-episode0,1\n",
            "line 3: open_drawer/1/train-episode0 has an outcome already",
        ),
        (
            "id,success\nopen_drawer/1/train-episode0,1\na/0/episode1,1\nb/0/episode1,0\n",
            "2 of 3 ids are of no episode in .*: a/0/episode1, b/0/episode1.*look like 'open_drawer/1/train-episode0'",
        ),
        ("id,success\n" + "".join(f"a/0/episode{i},1\n" for i in range(9)), "9 of 9 ids .* and 4 more"),
    ],
)
def test_outcomes_that_cannot_be_understood_give_file_and_line(write, tmp_path, text, error):
    write()
    (tmp_path / "outcomes.csv").write_text(text)
    with pytest.raises(DataError, match=f"{tmp_path / 'outcomes.csv'}.*{error}"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("value", "outcome"), [("1", 1), ("1.0", 1), ("TRUE", 1), ("0", 0), ("False", 0), ("-1", -1), ("", -1), ("nan", -1)]
)
def test_outcomes_of_a_table_are_read_by_the_common_rule(write, tmp_path, value, outcome):
    write()
    (tmp_path / "outcomes.csv").write_text(f"id,success\nopen_drawer/1/train-episode0,{value}\n", encoding="utf-8")
    assert open_dataset(tmp_path)[0].success == outcome


def test_given_outcomes_must_exist(write, tmp_path):
    write()
    with pytest.raises(DataError, match=r"cannot read the outcomes .*nothing\.csv"):
        open_dataset(tmp_path, outcomes=tmp_path / "nothing.csv")


def test_opening_reads_no_demonstration_and_a_frame_only_what_is_asked_for(write, tmp_path, run_python):
    for number in range(3):
        write(episode=number)
    opened = run_python(
        """
from mnprobe.data import open_dataset
files = []
sys.addaudithook(lambda event, arguments: files.append(str(arguments[0])) if event == "open" else None)
def since():
    names = sorted("/".join(name.split("/")[-2:]) for name in files if sys.argv[1] in name)
    files.clear()
    return names
steps = {}
dataset = open_dataset(sys.argv[1])
repr(dataset), dataset.tasks, dataset.partitions, dataset[1].success
dataset[0].cameras, dataset[0].frames_on_disk("front")
steps["open"] = since()
dataset[0].id; steps["id"] = since()
dataset[0].instruction; steps["instruction"] = since()
dataset[0].keyframes; steps["keyframes"] = since()
frame = dataset[0].frame(3)
frame.gripper_pose; "front" in frame.rgb; frame.extrinsics["front"]; steps["frame"] = since()
frame.rgb["front"]; steps["rgb"] = since()
frame.rgb["front"]; steps["again"] = since()
frame.points("wrist"); steps["points"] = since()
print(json.dumps(steps))
""",
        tmp_path,
    )
    assert opened == {
        "open": [],
        "id": ["episode0/variation_number.pkl"],
        "instruction": ["episode0/variation_descriptions.pkl"],
        "keyframes": ["episode0/low_dim_obs.pkl"],
        "frame": [],
        "rgb": ["front_rgb/0.png", "front_rgb/3.png"],
        "again": [],
        "points": ["wrist_depth/3.png", "wrist_rgb/0.png"],
    }


def test_nothing_of_torch_is_loaded(run_python):
    loaded = run_python("import mnprobe.data; print(json.dumps([name for name in sys.modules if '.' not in name]))")
    assert not {"torch", "pandas", "matplotlib", "scipy", "sklearn", "h5py"} & set(loaded)


def test_episodes_and_frames_can_be_sent_to_other_processes(write, tmp_path):
    write()
    episode = pickle.loads(pickle.dumps(open_dataset(tmp_path)[0]))
    frame = pickle.loads(pickle.dumps(episode.frame(2)))
    assert frame.rgb["front"].shape == (4, 6, 3)


def test_a_variation_has_one_instruction_whatever_the_order_of_its_descriptions(write, tmp_path):
    six = [f"way {i} to open it" for i in range(6)]
    for number, (variation, texts) in enumerate([(0, six), (1, ["shut it"]), (0, six[::-1]), (0, six[2:] + six[:2])]):
        write(episode=number, variation=variation, instructions=texts)
    write(episode=0, variation=0, partition="test", instructions=six[::-1])
    dataset = open_dataset(tmp_path)
    assert [episode.instruction for episode in dataset] == [six[0], "shut it", six[0], six[0], six[0]]
    assert all(episode.instructions == tuple(six) for episode in dataset if episode.variation == 0)
    (note,) = dataset.instruction_notes()
    assert note.startswith(
        "1 variations list their instructions in several orders, the first is open_drawer variation 0"
    )
    assert note.endswith("used for all: 'way 0 to open it'")
    only = open_dataset(tmp_path, partitions=["test"])
    assert pickle.loads(pickle.dumps(only[0])).instruction == six[0]
    assert only.fingerprint() == dataset[-1:].fingerprint()
    given = open_dataset(tmp_path, instructions={"open_drawer/0": "open it"})
    assert {episode.instruction for episode in given} == {"open it", "shut it"}
    assert given.instruction_notes() == ()


def test_different_instructions_of_one_variation_are_told(write, tmp_path):
    for number, text in enumerate(["open it", "open it", "pull it", "Open  it"]):
        write(episode=number, variation=0, instructions=[text, f"way {number}"])
    dataset = open_dataset(tmp_path)
    assert [episode.instruction for episode in dataset] == ["open it", "open it", "pull it", "Open  it"]
    (note,) = dataset.instruction_notes()
    assert "1 variations have episodes of different instructions" in note
    assert "open_drawer variation 0: 'open it', 'pull it'" in note


def test_an_episode_does_not_fail_for_what_another_lacks(write, tmp_path):
    for number in range(3):
        write(episode=number, variation=0, instructions=["open it"])
    folder = tmp_path / "train" / "open_drawer" / "all_variations" / "episodes"
    (folder / "episode0" / "variation_number.pkl").write_bytes(b"broken")
    (folder / "episode1" / "variation_descriptions.pkl").unlink()
    assert open_dataset(tmp_path)[2].instruction == "open it"


def test_instructions_that_fit_no_episode_are_refused(write, tmp_path):
    write()
    file = tmp_path / "given.csv"
    file.write_text("task,variation,instruction\nopen_drawr,1,pull\n")
    with pytest.raises(
        DataError, match=r"given\.csv: no episode is of .*open_drawr variation 1; there are open_drawer variation 1"
    ):
        open_dataset(tmp_path, instructions=file)
    file.write_text("task,variation,instruction\nopen_drawer,1,pull\nother,0,push\n")
    assert open_dataset(tmp_path, instructions=file)[0].instruction == "pull"


@pytest.mark.parametrize("text", ["two\nlines", "a\0b", "\x1b[31mred"])
def test_instructions_with_control_characters_are_refused(write, tmp_path, text):
    write()
    with pytest.raises(DataError, match="holds a line break or another control character"):
        open_dataset(tmp_path, instructions={"open_drawer/1": text})


def test_tables_must_be_utf8(write, tmp_path):
    write()
    file = tmp_path / "given.csv"
    file.write_bytes("task,variation,instruction\nopen_drawer,1,schließe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"given\.csv: is not UTF-8 \(byte 47\); save the instructions as UTF-8"):
        open_dataset(tmp_path, instructions=file)
    with pytest.raises(DataError, match=r"given\.csv: is not UTF-8 \(byte 47\); save the outcomes as UTF-8"):
        open_dataset(tmp_path, outcomes=file)


def test_a_given_table_without_outcomes_is_refused(write, tmp_path):
    write()
    (tmp_path / "o.csv").write_text("id,success\n")
    with pytest.raises(DataError, match=r"o\.csv: no outcome in it, only a header"):
        open_dataset(tmp_path, outcomes=tmp_path / "o.csv")


def _rename(folder, rule):
    for path in list(folder.iterdir()):
        path.rename(path.with_name(rule(int(path.stem))))


@pytest.mark.parametrize(
    "rule",
    [
        lambda number: f"{number:04d}.png",
        lambda number: f"{number:02d}.png" if number < 4 else f"{number}.png",
        lambda number: f"{number}.PNG",
        lambda number: f"{number:03d}.Png" if number % 2 else f"{number}.png",
    ],
    ids=["four digits", "some padded", "capitals", "mixed"],
)
def test_images_of_any_padding_are_read_by_their_number(write, tmp_path, rule):
    folder = write()
    whole = open_dataset(tmp_path, strict=True)
    before = [whole[0].frame(i).rgb["front"] for i in range(6)], [whole[0].frame(i).depth["wrist"] for i in range(6)]
    fingerprint = whole.fingerprint()
    for name in ("front_rgb", "wrist_depth"):
        _rename(folder / name, rule)
    dataset = open_dataset(tmp_path, strict=True)
    (episode,) = dataset
    assert episode.frames_on_disk("front") == episode.frames_on_disk("wrist", "depth") == tuple(range(6))
    for index in range(6):
        np.testing.assert_array_equal(episode.frame(index).rgb["front"], before[0][index])
        np.testing.assert_array_equal(episode.frame(index).depth["wrist"], before[1][index])
    assert dataset.fingerprint() == fingerprint  # the features are the same


@pytest.mark.parametrize("kind", ["front_rgb", "front_depth", "front_mask"])
@pytest.mark.parametrize(
    "name", ["frame_3.png", "3.jpg", "3.JPEG", "img0003.png", "3_0.png", "-3.png", "3 (1).png", "0003.webp", "3.npy"]
)
def test_an_image_of_another_name_is_told_to_its_reader(write, make_frames, tmp_path, kind, name):
    folder = write(frames=make_frames(mask=True))
    (folder / kind / "3.png").rename(folder / kind / name)
    dataset = open_dataset(tmp_path)
    (episode,) = dataset
    message = (
        rf"{kind}: {re.escape(name)} is not read: images are PNGs named by the frame's number .* 0\.png or 0000\.png"
    )
    with pytest.raises(DataError, match=message):
        episode.frames_on_disk("front", kind[6:])
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, strict=True)
    assert episode.frames_on_disk("wrist") == tuple(range(6))
    first = dataset.fingerprint()  # whoever needs other images only is not held up
    (folder / kind / name).write_bytes(b"longer or shorter")
    assert open_dataset(tmp_path).fingerprint() != first


@pytest.mark.parametrize("other", ["03.png", "3.PNG", "0003.png"])
def test_two_images_of_one_frame_are_refused(write, tmp_path, other):
    folder = write()
    (folder / "front_rgb" / other).write_bytes(b"x")
    with pytest.raises(DataError, match=r"front_rgb: .*3\.(png|PNG) and .*3\.(png|PNG) are both frame 3; remove one"):
        open_dataset(tmp_path)[0].frame(3).rgb["front"]


def test_folders_of_any_padding_are_read_by_their_number(write, tmp_path):
    for number in (0, 7, 10):
        folder = write(episode=number)
        if number < 10:
            folder.rename(folder.with_name(f"episode{number:03d}"))
    dataset = open_dataset(tmp_path)
    assert [episode.id for episode in dataset] == [f"open_drawer/1/train-episode{number}" for number in (0, 7, 10)]
    with pytest.raises(DataError, match=r"is one episode; give the folder"):
        open_dataset(dataset[0].folder)
    write(episode=7)
    with pytest.raises(DataError, match=r"one episode id 'open_drawer/1/train-episode7': .*episode007 and .*episode7"):
        open_dataset(tmp_path)


def test_variations_of_any_padding_are_read_by_their_number(write, tmp_path):
    folder = _native(write, tmp_path)
    folder.parents[1].rename(folder.parents[1].with_name("variation03"))
    assert open_dataset(tmp_path)[0].id == "open_drawer/3/episode0"


@pytest.mark.parametrize(
    "name", ["episode_1", "episode-1", "episode 1", "ep1", "ep_01", "1", "001", "demo_1", "Episode1"]
)
def test_a_folder_that_is_meant_as_an_episode_is_never_passed_over(write, tmp_path, name):
    write(episode=0)
    folder = write(episode=1)
    folder.rename(folder.with_name(name))
    with pytest.raises(
        DataError, match=rf"{name}: an episode's folder is named episode<N>, such as episode1 or episode001"
    ):
        open_dataset(tmp_path)


def test_an_episode_under_any_other_name_is_told_by_what_it_holds(write, tmp_path):
    write(episode=0)
    folder = write(episode=1)
    moved = folder.rename(folder.with_name("episode1_old"))
    with pytest.raises(DataError, match=r"named episode<N>, such as episode1 or .*, not 'episode1_old'. .* or move it"):
        open_dataset(tmp_path)
    (moved / "low_dim_obs.pkl").unlink()  # what holds no episode may be called anything
    for name in ("episode3.tmp", "episode4.part", "notes", ".episode5"):
        (folder.parent / name).mkdir()
    for name in (".DS_Store", "Thumbs.db", "README", "episode6.zip"):
        (folder.parent / name).touch()
    assert [episode.number for episode in open_dataset(tmp_path)] == [0]


@pytest.mark.parametrize("name", ["variation_0", "variation-0", "Variation0", "var0", "all_variation", "allvariations"])
def test_a_folder_that_is_meant_as_a_variation_is_never_passed_over(write, tmp_path, name):
    folder = write(episode=0)
    shutil.copytree(folder.parents[1], folder.parents[2] / name)
    with pytest.raises(DataError, match=rf"{name}: a variation's folder is named variation<K> or all_variations"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("open_drawer/episodes/episode3", r"episodes: its parent is 'open_drawer'\. Expected <task>"),
        ("open_drawer/episode3", r"episode3: is an episode, but its parent is 'open_drawer'\. Expected <task>"),
        ("open_drawer/all_variations/episode3", r"episode3: lies right in all_variations, without a folder episodes"),
        ("open_drawer/all_variations/demo", r"demo: lies right in all_variations, without a folder episodes"),
    ],
)
def test_episodes_beside_the_usual_places_are_told(write, tmp_path, place, text):
    shutil.copytree(write(), tmp_path / "other" / place)
    with pytest.raises(DataError, match=text):
        open_dataset(tmp_path)


def test_variations_without_episodes_are_noted(write, tmp_path):
    folder = write()
    assert open_dataset(tmp_path).notes == ()
    (tmp_path / "train" / "close_jar" / "all_variations" / "episodes").mkdir(parents=True)
    (tmp_path / "train" / "turn_tap" / "variation3").mkdir(parents=True)
    dataset = open_dataset([tmp_path, tmp_path / "train"])
    assert [episode.folder for episode in dataset] == [folder]
    assert sorted(dataset[:1].notes) == [
        f"{tmp_path}/train/close_jar/all_variations/episodes: no folder episode<N> in it, so there is nothing of this "
        "variation in the dataset",
        f"{tmp_path}/train/turn_tap/variation3: no folder episodes in it, so there is nothing of this variation in the "
        "dataset",
    ]


@pytest.mark.parametrize(
    "text", ["open\u00a0it", "開\u3000く", "क्\u200dष", "\u0645\u06cc\u200c\u062e", "draw\u00ader", "ouvrir\u202f!"]
)
@pytest.mark.parametrize("around", ["", "\n", "\r\n", " \t"])
def test_texts_of_all_languages_are_instructions(write, tmp_path, text, around):
    folder = write(instructions=[around + text + around])
    assert open_dataset(tmp_path)[0].instructions == (text,)
    (folder / "variation_descriptions.pkl").write_bytes(pickle.dumps([text + around, around + "pull"], protocol=2))
    assert open_dataset(tmp_path)[0].instructions == (text, "pull")
    file = tmp_path / "given.csv"
    file.write_text(f'task,variation,instruction\nopen_drawer,1,"{text}{around}"\n', encoding="utf-8", newline="")
    assert open_dataset(tmp_path, instructions=file)[0].instructions == (text,)
    assert open_dataset(tmp_path, instructions={"open_drawer/1": text + around})[0].instructions == (text,)


@pytest.mark.parametrize("text", ["open\nit", "a\0b", "\x1b[31mred", "open\u2028it", "a\x7fb", "\ud800", " \n"])
def test_control_characters_are_no_text(write, tmp_path, text):
    with pytest.raises(ConfigError, match="an instruction must be a printable text"):
        write(instructions=[text])
    folder = write()
    raw = text.encode("utf-8", "surrogatepass")
    content = b"\x80\x04]X" + len(raw).to_bytes(4, "little") + raw + b"a."
    (folder / "variation_descriptions.pkl").write_bytes(content)
    with pytest.raises(DataError, match="entry 0 of the list is empty or holds control characters"):
        _ = open_dataset(tmp_path)[0].instruction
    with pytest.raises(DataError, match=r"instruction (holds a line break or another control|must be a text)"):
        open_dataset(tmp_path, instructions={"open_drawer/1": text})
