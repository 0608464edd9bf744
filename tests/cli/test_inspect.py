import json

import numpy as np
import pytest

from mnprobe.cli.main import main
from mnprobe.core.rundir import RunDir
from mnprobe.features import write_features


@pytest.fixture
def store(tmp_path):
    episodes = {
        "id": ["a/0/0", "a/1/0", "b/0/0"],
        "task": ["a", "a", "b"],
        "instruction": ["open it", "shut it", "reach"],
        "partition": ["train", "val", "val"],
        "success": [1, 0, -1],
        "prediction": ["open it", "open it", "reach"],
    }
    return write_features(
        tmp_path / "u.h5",
        model="mine",
        side="understanding",
        step=40,
        trained=False,
        episodes=episodes,
        layers={"u": np.ones((3, 4)), "blocks.1": [np.ones((2, 3)), np.ones((5, 3)), np.ones((1, 3))]},
        provenance={"counts": {"episodes_with_repeated_frames": 2}},
    )


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["inspect", *map(str, arguments)])
    shown = capsys.readouterr()
    return end.value.code or 0, shown.out, shown.err


def test_it_says_what_is_inside(store, capsys):
    code, out, err = run(capsys, store)
    assert (code, err) == (0, "")
    for text in (
        f"{store}: sound",
        "mine, understanding side, step 40, not trained",
        "no checkpoint file",
        "u: 3 x 4 float32, 1 tokens per episode",
        "blocks.1: 8 x 3 float32, 1 to 5 tokens per episode",
        "by task: a: 2; b: 1",
        "by partition: train: 1; val: 2",
        "by success: failure: 1; not known: 1; success: 1",
        "by instruction: open it: 1; reach: 1; shut it: 1",
        "instruction recognised: 2 of 3",
        "episodes with repeated frames: 2",
    ):
        assert text in out


def test_json_holds_the_same(store, capsys):
    code, out, err = run(capsys, store, "--json")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)
    assert found["sound"] is True
    assert found["layers"]["blocks.1"] == {
        "shape": [8, 3],
        "dtype": "float32",
        "tokens_per_episode": [1, 5],
        "keyframes": False,
    }
    assert found["episodes_by"]["task"] == {"a": 2, "b": 1}
    assert (found["recognised"], found["step"], found["trained"]) == (2, 40, False)


def test_one_unsound_file_of_several_is_reported_and_the_others_too(store, tmp_path, capsys):
    damaged = tmp_path / "damaged.h5"
    data = bytearray(store.read_bytes())
    data[data.index(b"shut it") + 2] ^= 1
    damaged.write_bytes(data)
    foreign = tmp_path / "model.safetensors"
    foreign.write_bytes(b"\x10\0\0\0\0\0\0\0{}" + b" " * 20)
    code, out, err = run(capsys, damaged, store, foreign, tmp_path / "absent.h5")
    assert code == 2
    assert "3 of 4 files not sound" in err
    assert f"{damaged}: NOT SOUND" in out
    assert "do not match their digest" in out
    assert f"{store}: sound" in out
    assert "not an HDF5 file" in out
    assert "there is no such file" in out
    code, out, _ = run(capsys, damaged, store, "--json")
    assert code == 2
    assert [entry["sound"] for entry in json.loads(out)] == [False, True]


def test_many_instructions_are_cut_short_for_people(tmp_path, capsys):
    path = write_features(
        tmp_path / "x.h5",
        model="m",
        side="execution",
        episodes={"id": [str(i) for i in range(30)], "instruction": [f"do {i}" for i in range(30)]},
        layers={"e": np.zeros((30, 2))},
    )
    code, out, _ = run(capsys, path)
    assert code == 0
    assert "and 18 more" in out


def test_class_and_place_of_layers_are_told(tmp_path, capsys):
    places = {
        "0": {"class": "torch.nn.modules.linear.Linear", "module": "0"},
        "output.pooled": {"class": "their.Model", "module": "", "member": "[pooled]"},
    }
    path = write_features(
        tmp_path / "x.h5",
        model="m",
        side="execution",
        episodes={"id": ["a", "b"]},
        layers={"0": np.zeros((2, 2)), "output.pooled": np.zeros((2, 2)), "other": np.zeros((2, 2))},
        provenance={"layers": places, "remarks": ["rows are fine"]},
    )
    _, out, _ = run(capsys, path)
    assert "0: 2 x 2 float32, 1 tokens per episode, torch.nn.modules.linear.Linear at 0\n" in out
    assert "output.pooled: 2 x 2 float32, 1 tokens per episode, their.Model at [pooled]\n" in out
    assert "other: 2 x 2 float32, 1 tokens per episode\n" in out
    assert "  remark     rows are fine" in out
    (found,) = json.loads(run(capsys, path, "--json")[1])
    assert found["layers"]["0"]["module"] == "0"
    assert "class" not in found["layers"]["other"]


def test_a_dataset_is_described_with_what_it_allows_and_the_next_command(golden, capsys):
    folder = golden / "lerobot" / "v30-av1"
    code, out, err = run(capsys, folder)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for text in (
        f"{folder}: LeRobot v3.0",
        "episodes 5 of 17 to 21 frames, ids v30-av1/0/episode0 to v30-av1/0/episode4",
        "texts 2: 'open the drawer' (2); 'pick the red cube' (3)",
        "cameras observation.images.front: 128 x 96, 10 frames a second",
        "success 4 successes, 1 failures",
        "partitions none",
        "held-out tasks: nothing but the instruction names the task",
        "decomposition by task: nothing but the instruction names the task",
        "ARP and its training: read from a LeRobot dataset are colour images, states and actions",
        f"next mnprobe extract --run runs/v30-av1 --data {folder} --model pixels",
    ):
        assert text in lines
    assert any(line.startswith("possible recall by instruction: 2 texts") for line in lines)


def test_datasets_and_stores_together_as_json(golden, store, capsys):
    code, out, _ = run(capsys, f"robomimic:{golden / 'hdf5' / 'robomimic'}", store, "--json")
    assert code == 0
    dataset, features = json.loads(out)
    assert (dataset["kind"], dataset["episodes"], dataset["sound"]) == ("hdf5", 5, True)
    assert dataset["partitions"] == {"train": 3, "test": 2}
    assert next(one for one in dataset["feasible"] if one["what"] == "recall by instruction")["possible"] is False
    assert features["model"] == "mine"


def test_one_text_names_the_pairing_that_can_be_measured(golden, tmp_path, capsys):
    words = tmp_path / "words.csv"
    words.write_text("task,variation,instruction\nPickPlaceCan,0,put the can away\n")
    code, out, _ = run(capsys, golden / "hdf5" / "robomimic" / "can_image.hdf5", "--instructions", words)
    assert code == 0
    assert "recall by instruction: all 5 episodes have one text, 'put the can away'" in out
    assert "mnprobe align --run runs/can_image --pairing episode" in out


def test_the_episodes_of_a_dataset_as_a_table(golden, tmp_path, capsys):
    table = tmp_path / "episodes.csv"
    code, out, _ = run(capsys, golden / "hdf5" / "libero", "--table", table)
    assert (code, out.splitlines()[-1]) == (0, f"wrote {table}")
    head, first, *rest = table.read_text().splitlines()
    assert head == "id,instruction,task,variation,partition,success"
    assert first == (
        "libero/open_the_middle_drawer_of_the_cabinet/demo_0,open the middle drawer of the cabinet,"
        "open_the_middle_drawer_of_the_cabinet,0,,-1"
    )
    assert len(rest) == 9
    code, _, err = run(capsys, golden / "hdf5" / "libero", golden / "hdf5" / "robomimic", "--table", table)
    assert (code, "name this one only" in err) == (2, True)


def test_broken_episodes_are_listed_and_a_dataset_without_any_other_is_not_sound(golden, tmp_path, capsys):
    root = tmp_path / "libero"
    root.mkdir()
    whole = (golden / "hdf5" / "libero" / "put_the_bowl_on_the_plate_demo.hdf5").read_bytes()
    (root / "bad_demo.hdf5").write_bytes(whole[:9000])
    code, out, err = run(capsys, root)
    assert (code, "1 of 1 datasets not sound" in err) == (2, True)
    assert f"{root}: NOT SOUND" in out
    (root / "put_the_bowl_on_the_plate_demo.hdf5").write_bytes(whole)
    code, out, _ = run(capsys, root)
    assert code == 0
    assert f"broken     {root / 'bad_demo.hdf5'}: " in out
    assert "--skip-broken" in out


def test_demonstrations_of_rlbench_serve_policies_of_key_poses(write_demo, tmp_path, capsys):
    root = tmp_path / "demos"
    for number, part in enumerate(["train", "train", "test", "test"]):
        for variation, text in enumerate(["open the top drawer", "open the bottom drawer"]):
            write_demo(root, "open_drawer", variation, part, 2 * number + variation, text, 4)
    code, out, _ = run(capsys, root, "--outcomes", "successful")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f"{root}: RLBench" in lines
    assert "partitions train 4, test 4" in lines
    assert "success 8 successes, 0 failures" in lines
    assert "ARP and its training: depth, camera matrices and key poses are there" in lines
    assert "held-out episodes: about 4 to train and 4 to test, by the dataset's partitions" in lines
    assert any(line.startswith("decomposition by task: there is one task only") for line in lines)


def test_a_folder_without_demonstrations_is_not_sound_and_a_run_names_its_stores(store, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, out, _ = run(capsys, tmp_path / "empty")
    assert (code, "NOT SOUND" in out) == (2, True)
    made = RunDir.create(tmp_path / "run")
    target = made.features("mine", "demos", 40)
    target.parent.mkdir(parents=True)
    target.write_bytes(store.read_bytes())
    code, out, _ = run(capsys, made.path)
    assert (code, out.splitlines()[0]) == (0, f"{target}: sound")
