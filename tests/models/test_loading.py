"""Weights files: what is read, and the one clear error that each bad file gets."""

import argparse
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mnprobe.core.errors import CheckpointError
from mnprobe.models.loading import (
    check_finite,
    check_strict,
    detect_model,
    read_config,
    read_metadata,
    read_state_dict,
    read_step,
    save_checkpoint,
)

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(0.5)}


class Hostile:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "ran")


def same(found, expected=WEIGHTS) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("nest", [None, "model", "module", "model_state", "state_dict"])
def test_weights_are_found_where_published_code_puts_them(tmp_path, nest, legacy):
    others = {"optimizer": {"state": [torch.ones(2)]}, "scheduler": {"lr": 0.1}, "config": {"a": "b"}, "epoch": 3}
    content = WEIGHTS if nest is None else {nest: WEIGHTS, **others, "global_step": 70, "scaler": None}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert same(read_state_dict(tmp_path / "w.pth"))
    assert read_metadata(tmp_path / "w.pth") == {}


def test_a_leading_module_is_stripped(tmp_path):
    torch.save({"model": {f"module.{name}": value for name, value in WEIGHTS.items()}}, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"))


def test_safetensors_are_known_by_content_not_by_name(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.pth", metadata={"note": "x"})
    assert same(read_state_dict(tmp_path / "w.pth"))
    assert read_metadata(tmp_path / "w.pth") == {"note": "x"}
    assert read_config(tmp_path / "w.pth", model="viclip") is None


def test_a_checkpoint_returns_all_that_was_saved(tmp_path):
    path = tmp_path / "deep" / "step_00000007.safetensors"
    save_checkpoint(
        path,
        WEIGHTS,
        model="viclip",
        config={"width": 64},
        step=7,
        metrics={"loss": 0.5},
        extra={"seed": "3", "step": "x"},
    )
    assert same(read_state_dict(path))
    assert read_config(path, model="viclip") == {"width": 64}
    metadata = read_metadata(path)
    assert metadata["format"] == "mnprobe.checkpoint/1"
    assert (metadata["model"], metadata["step"], metadata["trained"], metadata["seed"]) == ("viclip", "7", "true", "3")
    assert json.loads(metadata["metrics"]) == {"loss": 0.5}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("step", "trained", "written"), [(0, None, "false"), (5, None, "true"), (5, False, "false")])
def test_trained_follows_the_step_unless_said(tmp_path, step, trained, written):
    save_checkpoint(tmp_path / "c", WEIGHTS, model="arp", config={}, step=step, trained=trained)
    assert read_metadata(tmp_path / "c")["trained"] == written


def test_equal_checkpoints_have_equal_bytes_in_any_process(tmp_path):
    code = (
        "import sys, torch; from mnprobe.models.loading import save_checkpoint\n"
        "save_checkpoint(sys.argv[1], {'a': torch.ones(3)}, model='arp', config={'x': 1}, step=0, extra={'k': 'é'})"
    )
    files = [tmp_path / "one", tmp_path / "two"]
    save_checkpoint(files[0], {"a": torch.ones(3)}, model="arp", config={"x": 1}, step=0, extra={"k": "é"})
    subprocess.run([sys.executable, "-c", code, files[1]], check=True)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_metadata(files[0])["k"] == "é"


def test_models_are_made_and_loaded_and_heads_fitted_without_torchs_compiler(tmp_path):
    """Its import takes a second of every command that reads weights or aligns."""
    code = (
        "import sys; from pathlib import Path\n"
        "from mnprobe.models.arp import load_arp; from mnprobe.models.viclip import load_viclip\n"
        "from mnprobe.models.untrained import write_untrained\n"
        "for model, load in (('arp', load_arp), ('viclip', load_viclip)):\n"
        "    write_untrained(Path(sys.argv[1]) / model, model, 'tiny', 0)\n"
        "    load(Path(sys.argv[1]) / model)\n"
        "import torch; from mnprobe.probe import FitConfig, fit_heads\n"
        "for form in ('direct', 'gram'):\n"
        "    fit_heads(torch.eye(4), torch.eye(4), list('aabb'), config=FitConfig(dim=2, steps=1), form=form)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_tensors_that_share_memory_or_are_views_can_be_saved(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "tied": base, "view": base.T}
    save_checkpoint(tmp_path / "c", state, model="arp", config={}, step=0)
    assert same(read_state_dict(tmp_path / "c"), state)


def test_a_checkpoint_of_the_other_model_is_named(tmp_path):
    save_checkpoint(tmp_path / "c", WEIGHTS, model="arp", config={}, step=0)
    with pytest.raises(CheckpointError, match="asked for ViCLIP weights, found a checkpoint of ARP"):
        read_config(tmp_path / "c", model="viclip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "mnprobe.checkpoint/9"}, "format 'mnprobe.checkpoint/9', this version reads"),
        ({"config": "{"}, "'config' is missing or no JSON"),
        ({"config": "[1]"}, "must be a JSON object, got \\[1\\]"),
    ],
)
def test_bad_metadata_is_refused(tmp_path, change, message):
    save_file(
        WEIGHTS, tmp_path / "c", metadata={"format": "mnprobe.checkpoint/1", "model": "arp", "config": "{}"} | change
    )
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path / "c", model="arp")


def test_a_hostile_pickle_does_not_run(tmp_path):
    for name, dump in (
        ("zip.pth", torch.save),
        ("bare.pth", lambda value, path: path.write_bytes(pickle.dumps(value))),
    ):
        dump({"model": WEIGHTS, "config": Hostile(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(CheckpointError, match="can run any code"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_objects_beside_weights_are_named_and_the_way_out_works(tmp_path):
    path = tmp_path / "train.pth"
    torch.save({"model": WEIGHTS, "config": argparse.Namespace(lr=1)}, path)
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace") as caught:
        read_state_dict(path)
    line = next(line for line in str(caught.value).splitlines() if line.strip().startswith("python -c"))
    subprocess.run(line.strip().replace("python", sys.executable, 1), shell=True, check=True)
    assert same(read_state_dict(tmp_path / "train-weights.pth"))


def test_a_torchscript_archive_is_told_apart_and_the_way_out_is_said(tmp_path):
    # The layout of torch.jit.save; the real writer is deprecated and warns.
    with zipfile.ZipFile(tmp_path / "RN50.pt", "w") as archive:
        for name in ("RN50/data.pkl", "RN50/constants.pkl", "RN50/code/__torch__.py", "RN50/version"):
            archive.writestr(name, b"")
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*(?s:.*)torch\.jit\.load.*RN50-state\.pth"):
        read_state_dict(tmp_path / "RN50.pt")


def foreign_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """One file of each wrong kind, with a piece of the message it deserves."""
    files = {
        name: folder / name
        for name in ("text", "lfs", "arrays.npz", "image.png", "empty", "zeros", "list", "mixed", "sparse", "shapes")
    }
    files["text"].write_text("these are no weights at all")
    files["lfs"].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    np.savez(files["arrays.npz"], a=np.ones(2))
    files["image.png"].write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    files["empty"].write_bytes(b"")
    files["zeros"].write_bytes(bytes(100))
    torch.save([torch.ones(2)], files["list"])
    torch.save({"a": torch.ones(2), "lr": 0.1}, files["mixed"])
    torch.save({"a": torch.eye(2).to_sparse_coo()}, files["sparse"])
    torch.save({"a": torch.empty(2, device="meta")}, files["shapes"])
    messages = {
        "text": "not a weights file",
        "lfs": "Git LFS pointer",
        "arrays.npz": "zip archive with a.npy",
        "image.png": "not a weights file",
        "empty": "no weights file or a damaged one",
        "zeros": "no weights file or a damaged one",
        "list": "holds list, expected names with tensors",
        "mixed": "other things than plain tensors: lr",
        "sparse": "other things than plain tensors: a",
        "shapes": "other things than plain tensors: a",
    }
    return {name: (files[name], messages[name]) for name in files}


@pytest.mark.parametrize(
    "kind", ["text", "lfs", "arrays.npz", "image.png", "empty", "zeros", "list", "mixed", "sparse", "shapes"]
)
def test_a_foreign_file_is_called_so(tmp_path, kind):
    path, message = foreign_files(tmp_path)[kind]
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_state_dict(tmp_path)


def written(folder: Path) -> list[Path]:
    torch.save({"model": WEIGHTS, "epoch": 1}, folder / "zip")
    torch.save({"model": WEIGHTS, "epoch": 1}, folder / "legacy", _use_new_zipfile_serialization=False)
    save_file(WEIGHTS, folder / "safetensors", metadata={"a": "b"})
    return [folder / "zip", folder / "legacy", folder / "safetensors"]


def test_a_file_cut_short_anywhere_is_one_clear_error(tmp_path):
    for whole in written(tmp_path):
        content = whole.read_bytes()
        for share in range(20):
            cut = tmp_path / "cut"
            cut.write_bytes(content[: len(content) * share // 20])
            with pytest.raises(CheckpointError, match=r"cut:.*(damaged|weights file)"):
                read_state_dict(cut)


def test_flipped_bytes_never_give_anything_but_weights_or_one_clear_error(tmp_path):
    chance, refused = random.Random(0), 0
    for whole in written(tmp_path):
        content = whole.read_bytes()
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(chance.choice([1, 2, 10])):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                found = read_state_dict(tmp_path / "damaged")
            except CheckpointError:
                refused += 1
            else:
                assert all(isinstance(value, torch.Tensor) for value in found.values())
    assert refused > 200


def test_models_are_known_by_their_names():
    assert detect_model(["temp", "vision_encoder.proj"]) == "viclip"
    assert detect_model(["mvt1.pos_encoding", "policy.final_ln.weight"]) == "arp"
    assert detect_model(["token_embedding.weight", "ln_final.weight", "visual.proj"]) == "clip"
    assert detect_model([]) is None


def test_strict_passes_what_fits():
    check_strict({"a.weight": (2, 3), "b": ()}, WEIGHTS, path="f", model="viclip")


def test_strict_lists_what_is_missing_extra_and_misshapen_with_counts():
    expected = {f"lost.{i}": (1,) for i in range(9)} | {"a.weight": (3, 2)}
    with pytest.raises(CheckpointError) as caught:
        check_strict(expected, WEIGHTS, path="f.pth", model="viclip")
    message = str(caught.value)
    assert "f.pth: does not fit ViCLIP" in message
    assert "missing (9): lost.0, lost.1, lost.2, lost.3, lost.4 and 4 more" in message
    assert "unexpected (1): b" in message
    assert "wrong shape (1): a.weight [2, 3] instead of [3, 2]" in message


def test_strict_names_the_other_model_and_the_foreign_file():
    with pytest.raises(CheckpointError, match="asked for ViCLIP weights, found those of ARP"):
        check_strict({"temp": ()}, {"policy.x": torch.ones(1)}, path="f", model="viclip")
    with pytest.raises(CheckpointError, match="no ViCLIP weights: not one of the 1 expected names"):
        check_strict({"temp": ()}, WEIGHTS, path="f", model="viclip")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_weights_that_are_not_finite_are_refused(value, dtype):
    bad = {"fine": torch.ones(2), "a.weight": torch.tensor([1.0, value], dtype=dtype), "n": torch.tensor([1])}
    with pytest.raises(CheckpointError, match=r"NaN or infinite in 1 of 3 entries: a\.weight"):
        check_finite(bad, path="f")


class Commands:
    """Pickles as a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_file_that_runs_commands_is_refused_without_a_way_out(tmp_path):
    torch.save({"model": Commands(f"touch {tmp_path / 'ran'}")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"refused: the file names posix\.system, which runs commands") as caught:
        read_state_dict(tmp_path / "evil.pth")
    assert "weights_only=False" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "step"),
    [
        ({"step": 80000, "model_state": WEIGHTS}, 80000),
        ({"model": WEIGHTS}, None),
        ({"step": True, "model": WEIGHTS}, None),
        ({"step": -1, "model": WEIGHTS}, None),
        ({"step": torch.tensor(3), "model": WEIGHTS}, None),
    ],
)
def test_the_step_beside_published_weights(tmp_path, content, step):
    torch.save(content, tmp_path / "f.pth")
    assert read_step(tmp_path / "f.pth") == step
    save_file(WEIGHTS, tmp_path / "f.safetensors")
    assert read_step(tmp_path / "f.safetensors") is None
