import json

import numpy as np
import pytest

from mnprobe.cli.main import main
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
