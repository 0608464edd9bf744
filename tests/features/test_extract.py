import hashlib
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
import torch

from mnprobe.core.errors import CheckpointError, ConfigError, DataError, FeatureError
from mnprobe.core.products import describe_products
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import join_team
from mnprobe.features import (
    EXTRACTORS,
    EpisodeFeatures,
    ExtractConfig,
    Tokens,
    extract,
    extraction,
    open_features,
    verify,
)
from mnprobe.features.extractors.pixels import PixelExtractor
from mnprobe.features.selection import inspect_checkpoint
from mnprobe.features.shards import Shard, ShardFolder
from mnprobe.models.arp import ARP, ARPConfig, save_arp
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig


@pytest.fixture(scope="module")
def viclip_checkpoint(tmp_path_factory):
    """A checkpoint of ours, "trained" for 500 steps."""
    model = ViCLIP(ViCLIPConfig.tiny(), generator=torch.Generator().manual_seed(7))
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_checkpoint(path, model.state_dict(), model="viclip", config=model.config.to_dict(), step=500)
    return path


def _values(path, layer="u"):
    with open_features(path) as file:
        return file.layer(layer).values[:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "--dtype must be float32 or float16, got 'int8'"),
        ({"precision": "int8"}, "precision must be 'float32' or 'bf16', got 'int8'"),
        ({"batch_size": 0}, "batch size must be >= 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
        ({"limit": 0}, "--limit must be at least 1, got 0"),
        ({"limit": True}, "limit must be a whole number, got True"),
        ({"step": "x"}, "step must be a whole number, got 'x'"),
        ({"seed": -1}, "--seed must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"seed": None}, "--seed must be a whole number"),
        ({"skip_broken": "yes"}, "skip_broken must be True or False, got 'yes'"),
        ({"models": None}, "models must be a list of names, got None"),
        ({"layers": [3]}, "layers must be a list of names, got "),
        ({"options": ["camera"]}, "options must be a mapping of names to values, got list"),
        ({"model_config": 3}, "model_config must be a mapping or a JSON file, got int"),
        ({"preset": "tiny", "model_config": {}}, "--preset tiny and --config both give the size; leave one out"),
    ],
)
def test_a_configuration_refuses_what_cannot_be(settings, message):
    with pytest.raises(ConfigError) as error:
        ExtractConfig(**settings)
    assert str(error.value).startswith(message)


def test_equal_settings_make_equal_configurations():
    ours = ExtractConfig(models=["pixels"], layers="u", batch_size=np.int64(4), seed=np.uint8(3), options=None)
    assert ours == ExtractConfig(models=("pixels",), layers=["u"], batch_size=4.0, seed=3, options={"camera": None})
    assert (ours.models, ours.layers, ours.options) == (("pixels",), ("u",), {})
    assert [type(value) for value in (ours.batch_size, ours.seed)] == [int, int]
    assert ExtractConfig(model_config="x.json") == ExtractConfig(model_config=Path("x.json"))


def test_a_configuration_and_single_settings_extract_the_same(demos, tmp_path):
    config = ExtractConfig(models=["pixels"], tasks=["reach_target"], options={"size": 4}, limit=1)
    (first,) = extract(demos, config, out=tmp_path / "x.h5")
    (again,) = extract(
        demos, out=tmp_path / "x.h5", models=["pixels"], tasks=["reach_target"], options={"size": 4}, limit=1
    )
    assert (first.status, again.status) == ("written", "kept")
    with pytest.raises(FeatureError, match="dtype was 'float32', now 'float16'"):
        extract(demos, config, out=tmp_path / "x.h5", dtype="float16")
    with pytest.raises(ConfigError, match=r"unknown setting of ExtractConfig: 'modles'. Did you mean 'models'\?"):
        extract(demos, out=tmp_path / "x.h5", modles=["pixels"])
    with pytest.raises(ConfigError, match="config must be of ExtractConfig, got dict"):
        extract(demos, config={"heads": 1}, out=tmp_path / "x.h5")


def test_what_is_recorded_of_the_configuration(demos, tmp_path):
    """The record decides whether a store is reused: other names or values would throw existing ones away."""
    config = ExtractConfig(models="pixels", options={"size": 4}, skip_broken=True, dtype="float16", limit=2, seed=5)
    (entry,) = extract(demos, config, out=tmp_path / "x.h5")
    with open_features(entry.path) as file:
        provenance = file.attrs["provenance"]
        fingerprint = file.attrs["data_fingerprint"]
    assert provenance["asked"] == {
        "extractor": "pixels",
        "revision": 2,
        "model": "pixels",
        "side": "understanding",
        "source": "demos",
        "step": 0,
        "trained": False,
        "checkpoint_sha256": "",
        "preset": None,
        "config": None,
        "seed": 5,
        "layers": ["u"],
        "options": {"camera": "front", "frames_rule": "middle", "frames": 8, "size": 4},
        "precision": "float32",
        "dtype": "float16",
        "data_fingerprint": fingerprint,
        "episodes": 2,
        "episodes_hash": provenance["asked"]["episodes_hash"],
        "skip_broken": True,
    }
    assert provenance["ran"]["batch_size"] == 8


def test_random_models_are_extracted_and_say_that_they_are_untrained(demos, tmp_path):
    remarks = []
    done = extract(demos, out=tmp_path, models=["viclip", "arp", "pixels"], note=remarks.append)
    assert [(entry.id.model, entry.id.side, entry.status) for entry in done] == [
        ("viclip", "understanding", "written"),
        ("arp", "execution", "written"),
        ("pixels", "understanding", "written"),
    ]
    assert [str(entry.path.relative_to(tmp_path)) for entry in done] == [
        f"{name}/demos/step_00000000.h5" for name in ("viclip", "arp", "pixels")
    ]
    assert remarks == [f"{m}: random weights of size 'tiny' from seed 0, not trained" for m in ("viclip", "arp")]
    for entry in done:
        verify(entry.path)
        assert not entry.id.trained
        assert entry.episodes == 5
        with open_features(entry.path) as file:
            assert not file.trained
            assert file.episodes["instruction"].tolist()[:2] == ["open the bottom drawer", "open the middle drawer"]
            assert file.episodes["partition"].tolist() == ["train", "train", "val", "train", "val"]
            assert file.episodes["variation"].tolist() == [0, 1, 0, 3, 4]
            assert file.episodes["success"].tolist() == [-1] * 5
            assert len(file.layer(entry.layers[0]).offsets) == 6
    with open_features(done[0].path) as file:
        assert set(file.columns["prediction"]) <= set(file.columns["instruction"])
        short = int(ViCLIPConfig.tiny().frames > 5)  # the last episode has five frames
        assert file.attrs["provenance"]["counts"] == {"episodes_with_repeated_frames": short}
        assert file.attrs["model_config"]["model"] == "viclip"
        assert file.attrs["provenance"]["ran"]["device"] == "cpu"
        assert file.attrs["provenance"]["ran"]["products"] == describe_products()
    with open_features(done[1].path) as file:
        assert "prediction" not in file.columns
        assert file.layer("e").dim == 64
    leftovers = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".h5"]
    assert not leftovers


def test_a_finished_store_is_kept_and_another_configuration_is_an_error(demos, tmp_path):
    first = extract(demos, out=tmp_path, models=["pixels"])[0]
    before, old = first.path.read_bytes(), _values(first.path)
    again = extract(demos, out=tmp_path, models=["pixels"], batch_size=2)[0]
    assert again.status == "kept"
    with pytest.raises(
        FeatureError, match=r"another configuration \(options.camera was 'front', now 'wrist'\).*--overwrite"
    ):
        extract(demos, out=tmp_path, models=["pixels"], options={"camera": "wrist"})
    with pytest.raises(FeatureError, match="episodes was 5, now 2; episodes_hash"):
        extract(demos, out=tmp_path, models=["pixels"], tasks=["reach_target"])
    assert first.path.read_bytes() == before
    replaced = extract(demos, out=tmp_path, models=["pixels"], options={"camera": "wrist"}, overwrite=True)[0]
    assert replaced.status == "written"
    assert not np.array_equal(_values(replaced.path), old)


def test_changed_demonstrations_are_noticed(tmp_path, write_demo):
    write_demo(tmp_path / "data", "t", 0, "", 0, "do it", 9)
    extract(tmp_path / "data", out=tmp_path / "out", models=["pixels"])
    image = next((tmp_path / "data").rglob("front_rgb/4.png"))
    image.write_bytes(next((tmp_path / "data").rglob("front_rgb/5.png")).read_bytes() + b"\0")
    with pytest.raises(FeatureError, match="data_fingerprint was"):
        extract(tmp_path / "data", out=tmp_path / "out", models=["pixels"])


def test_a_damaged_store_is_never_kept(demos, tmp_path):
    path = extract(demos, out=tmp_path, models=["pixels"])[0].path
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        data[file["layers/u/values"].id.get_chunk_info(0).byte_offset + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(FeatureError, match=r"damaged(.|\n)*To replace the file, add --overwrite"):
        extract(demos, out=tmp_path, models=["pixels"])
    assert extract(demos, out=tmp_path, models=["pixels"], overwrite=True)[0].status == "written"
    verify(path)


def test_a_run_is_filled_from_its_checkpoints_and_demos(tmp_path, write_demo):
    run = RunDir.create(tmp_path / "run")
    write_demo(run.demos, "t", 0, "train", 0, "do it", 9)
    for step in (0, 20):
        model = ViCLIP(ViCLIPConfig.tiny(), generator=torch.Generator().manual_seed(step))
        save_checkpoint(
            run.checkpoint("watcher", step),
            model.state_dict(),
            model="viclip",
            config=model.config.to_dict(),
            step=step,
        )
    policy = ARP(ARPConfig.tiny())
    policy.init_weights(torch.Generator().manual_seed(0))
    save_arp(run.checkpoint("arp", 0), policy, step=0)
    done = extract(run=run)
    assert [(entry.id.model, entry.kind, entry.id.step, entry.id.trained) for entry in done] == [
        ("arp", "arp", 0, False),
        ("watcher", "viclip", 0, False),
        ("watcher", "viclip", 20, True),
    ]
    assert [piece.path for piece in run.feature_files()] == [entry.path for entry in done]
    blank = extract(run=run, options={"blank_instruction": True})
    assert [(entry.id.model, entry.id.source_name) for entry in blank] == [("arp", "demos-blank")]
    assert extract(run=run, models=["watcher"])[1].status == "kept"
    assert len(RunDir(run.path).config["extract"]["asked"]) == 2
    assert extract(run=run, models=["arp"], source="elsewhere")[0].path == run.features("arp", "elsewhere", 0)


def test_the_step_of_a_file_is_found(demos, tmp_path, viclip_checkpoint):
    entry = extract(demos, out=tmp_path / "a", checkpoints=[viclip_checkpoint], limit=1)[0]
    assert (entry.id.step, entry.id.trained, entry.kind) == (500, True, "viclip")
    with open_features(entry.path) as file:
        assert file.attrs["checkpoint_sha256"] == hashlib.sha256(viclip_checkpoint.read_bytes()).hexdigest()
    state = ViCLIP(ViCLIPConfig.tiny()).state_dict()
    torch.save({"model": state, "step": 3000}, tmp_path / "x.pth")
    torch.save({"model": state}, tmp_path / "arp_model_80000.pth")
    torch.save({"model": state}, tmp_path / "plain.pth")
    assert inspect_checkpoint(tmp_path / "x.pth").step == 3000
    assert inspect_checkpoint(tmp_path / "arp_model_80000.pth").step == 80000
    assert inspect_checkpoint(tmp_path / "plain.pth").step == 0
    assert inspect_checkpoint(tmp_path / "x.pth", step=9).step == 9
    assert inspect_checkpoint(tmp_path / "plain.pth").kind == "viclip"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["viclp"]}, r"unknown model 'viclp'. Did you mean 'viclip'\?"),
        (
            {},
            "nothing to extract: there is no run. Give --checkpoint FILE, or --model arp/hf/hook/lerobot/pi0/pixels",
        ),
        ({"models": ["viclip"], "layers": ["e"]}, "--layer e: no chosen model has such a layer"),
        ({"models": ["viclip"], "layers": ["arp=e"]}, "unknown model in --layer arp=e: 'arp'"),
        ({"models": ["viclip"], "layers": ["blocks.7"]}, "unknown ViCLIP layer 'blocks.7'"),
        ({"models": ["viclip"], "preset": "b17"}, "unknown preset of viclip: 'b17'. Did you mean 'b16'"),
        ({"models": ["pixels"], "preset": "b16"}, "--preset b16: is the size of random weights"),
        ({"models": ["viclip"], "options": {"decoding": "teacher"}}, "unknown option for viclip: 'decoding'"),
        ({"models": ["viclip"], "device": "cuda:99"}, "--device cuda:99: this machine offers torch . CUDA devices"),
        ({"models": ["viclip"], "device": "tpu"}, "unknown device 'tpu'"),
        ({"models": ["viclip"], "device": "meta"}, "extraction runs on cpu or cuda"),
        ({"models": ["viclip"], "dtype": "int8"}, "--dtype must be float32 or float16, got 'int8'"),
        ({"models": ["viclip"], "precision": "int8"}, "precision must be"),
        ({"models": ["viclip"], "limit": 0}, "--limit must be at least 1, got 0"),
        ({"models": ["viclip"], "batch_size": 0}, "batch size must be >= 1, got 0"),
        ({"models": ["viclip", "arp"], "name": "x"}, "--name x: names one model, but arp, viclip were chosen"),
        ({"models": ["viclip", "arp"], "step": 3}, "--step 3: fits one checkpoint, but 2 were chosen"),
        ({"models": ["viclip"], "partitions": ["test"]}, "no episode of partition 'test'"),
        ({"models": ["hook"]}, "--model hook: say with --side"),
        ({"models": ["viclip"], "checkpoints": ["arp"]}, "is of 'arp', but --model says viclip"),
        ({"checkpoints": ["foreign"]}, ": weights of no known model. Give the file of a ViCLIP or an ARP"),
        ({"checkpoints": ["arp", "arp"]}, "two checkpoints would be step 0 of 'arp'"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(demos, tmp_path, arguments, message):
    files = {"arp": tmp_path / "arp.safetensors", "foreign": tmp_path / "foreign.pth"}
    policy = ARP(ARPConfig.tiny())
    policy.init_weights(torch.Generator().manual_seed(0))
    save_arp(files["arp"], policy, step=0)
    torch.save({"fc.weight": torch.zeros(2, 2)}, files["foreign"])
    arguments = dict(arguments)
    if "checkpoints" in arguments:
        arguments["checkpoints"] = [files[name] for name in arguments["checkpoints"]]
    with pytest.raises((ConfigError, DataError), match=message):
        extract(demos, out=tmp_path / "out", **arguments)


def test_one_file_holds_one_store(demos, tmp_path):
    with pytest.raises(ConfigError, match=r"one\.h5: one file, but 2 stores"):
        extract(demos, out=tmp_path / "one.h5", models=["viclip", "pixels"])
    assert extract(demos, out=tmp_path / "one.h5", models=["pixels"])[0].path == tmp_path / "one.h5"


def test_without_demonstrations_there_is_a_way_out(tmp_path):
    run = RunDir.create(tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"no demonstrations: run .* has no demos folder. Give their folder with --data"
    ):
        extract(run=run, models=["pixels"])


def test_layers_go_to_the_models_that_know_them(demos, tmp_path):
    layers = ["blocks.1", "blocks.5", "viclip=cls", "arp=norm"]
    with pytest.raises(ConfigError, match=r"unknown ViCLIP layer 'blocks\.5'"):
        extract(demos, out=tmp_path, models=["viclip", "arp"], layers=layers, limit=1)
    done = extract(demos, out=tmp_path, models=["viclip", "arp"], layers=["cls", "arp=norm", "u"], limit=1)
    assert [entry.layers for entry in done] == [("cls", "u"), ("norm",)]
    with open_features(done[0].path) as file:
        assert file.layers == ("cls", "u")


# ---- shards, resuming, killing ----------------------------------------------------------------------------------


def test_finished_batches_are_taken_up(demos, tmp_path, monkeypatch):
    done = []
    original = PixelExtractor.prepare

    def broken(self, episodes):
        if len(done) == 3:
            raise DataError("the disk is gone")
        done.append([episode.id for episode in episodes])
        return original(self, episodes)

    monkeypatch.setattr(PixelExtractor, "prepare", broken)
    with pytest.raises(DataError, match="the disk is gone"):
        extract(demos, out=tmp_path / "x.h5", models=["pixels"], batch_size=1)
    folder = next((tmp_path / ".x.h5.shards").glob("*/"))
    assert not (tmp_path / "x.h5").exists()
    shards = sorted(path.name for path in folder.iterdir())
    assert shards == ["00000.shard", "00001.shard", "00002.shard"]
    (folder / "00001.shard").write_bytes((folder / "00001.shard").read_bytes()[:-3])  # half written by someone else
    (folder / ".00004.shard.1.part").write_bytes(b"half")
    (tmp_path / ".x.h5.1.part").write_bytes(b"half")
    (tmp_path / ".x.h5.shards" / "0123456789abcdef").mkdir()
    done.clear()
    monkeypatch.setattr(
        PixelExtractor, "prepare", lambda self, episodes: done.append(episodes[0].id) or original(self, episodes)
    )
    assert extract(demos, out=tmp_path / "x.h5", models=["pixels"], batch_size=1)[0].status == "written"
    assert len(done) == 3  # the damaged one and the two that were missing
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    whole = extract(demos, out=tmp_path / "whole.h5", models=["pixels"], batch_size=5)[0]
    np.testing.assert_array_equal(_values(tmp_path / "x.h5"), _values(whole.path))


def test_a_shard_with_any_flipped_byte_is_no_shard():
    tokens = Tokens(values=np.arange(6.0).reshape(2, 3), keyframe=np.zeros(2))
    shard = Shard.of(
        [EpisodeFeatures(layers={"u": tokens}, prediction="x", counts={"a": 2})], ("u",), "float16", {"w": 1}
    )
    data = shard.to_bytes()
    back = Shard.from_bytes(data)
    np.testing.assert_array_equal(back.arrays["u/values"], tokens.values.astype(np.float16))
    assert (back.predictions, back.counts, back.layers, back.model_config) == (["x"], {"a": 2}, ("u",), {"w": 1})
    for position in range(0, len(data), 7):
        broken = bytearray(data)
        broken[position] ^= 4
        assert Shard.from_bytes(bytes(broken)) is None
    assert Shard.from_bytes(b"") is None


def test_values_beyond_float16_are_refused_with_a_way_out():
    tokens = Tokens(values=np.full((1, 2), 1e5), keyframe=np.zeros(1))
    with pytest.raises(FeatureError, match="layer 'u': holds 100000, which is beyond float16; take --dtype float32"):
        Shard.of([EpisodeFeatures(layers={"u": tokens})], ("u",), "float16", {})


def test_two_processes_cannot_make_one_store(demos, tmp_path):
    with (
        ShardFolder(tmp_path / "x.h5", "a").lock(),
        pytest.raises(FeatureError, match="another process is extracting this very file"),
    ):
        extract(demos, out=tmp_path / "x.h5", models=["pixels"])


KILLER = """
import os, signal, sys, traceback
from pathlib import Path
from mnprobe.features import FeatureWriter, extract, verify
from mnprobe.features.extractors.viclip import ViCLIPExtractor

data, out = Path(sys.argv[1]), Path(sys.argv[2])
points, last = 0, None  # points passed by this process, and the one at which it dies

def counted(function):
    def call(*arguments, **options):
        die_here()
        result = function(*arguments, **options)
        die_here()
        return result
    return call

def die_here():
    global points
    points += 1
    if points == last:
        os.kill(os.getpid(), signal.SIGKILL)

build, made = ViCLIPExtractor.build, {}

def build_once(spec):
    if spec.layers not in made:
        made[spec.layers] = build(spec)
    return made[spec.layers]

ViCLIPExtractor.build = build_once
ViCLIPExtractor.compute = counted(ViCLIPExtractor.compute)
FeatureWriter._finish = counted(FeatureWriter._finish)
os.replace, os.fsync = counted(os.replace), counted(os.fsync)

def work(target):
    extract(data, out=target, models=["viclip"], layers=["u", "blocks.1"], batch_size=1)

def run(target, point):
    global points, last
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    points, last = 0, point
    try:
        work(target)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

work(out / "calm.h5")  # in this process, so that the children find everything imported
total = points
assert total > 24, total
stages = set()
for trial in range(4):
    target = out / f"killed{trial}.h5"
    # The second run has less left to do than the first: it dies at its third point, which every run passes.
    for point in (1 + trial * (total - 1) // 3, 3):
        status = run(target, point)
        assert status == signal.SIGKILL or (target.exists() and status == 0), (trial, point, status)
        stages.add(len(list(out.glob(f".{target.name}.shards/*/*.shard"))))
        if target.exists():
            verify(target)  # never a half one
    assert run(target, None) == 0
print(len(stages))
"""


def test_killed_at_many_points_the_store_is_the_same(demos, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(demos), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert int(done.stdout) >= 3  # they died with different numbers of finished batches
    for trial in range(4):
        killed = tmp_path / f"killed{trial}.h5"
        verify(killed)
        for layer in ("u", "blocks.1"):
            assert _values(killed, layer).tobytes() == _values(tmp_path / "calm.h5", layer).tobytes()
    names = ["calm.h5", *(f"killed{i}.h5" for i in range(4))]
    assert sorted(path.name for path in tmp_path.iterdir()) == names  # no temporary file is left


# ---- several processes --------------------------------------------------------------------------------------------


def test_torchrun_shares_the_work_and_changes_nothing(demos, tmp_path):
    command = ["extract", "--data", str(demos), "--model", "viclip", "--model", "pixels", "--batch-size", "2", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    alone = extract(demos, out=tmp_path / "alone", models=["viclip", "pixels"], batch_size=2)
    done = subprocess.run(
        [*torchrun, "-m", "mnprobe", *command, "--out", str(tmp_path / "team")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)
    assert [entry["status"] for entry in entries] == ["written", "written"]
    assert "Warning" not in done.stderr
    for ours, theirs in zip(alone, entries, strict=True):
        assert _values(ours.path).tobytes() == _values(theirs["path"]).tobytes()
    again = extract(demos, out=tmp_path / "team", models=["viclip", "pixels"], batch_size=2)
    assert [entry.status for entry in again] == ["kept", "kept"]


def test_alone_no_team_is_made(demos, tmp_path):
    extract(demos, out=tmp_path, models=["pixels"])
    assert not torch.distributed.is_initialized()


def test_strange_torchrun_variables_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="RANK=3 does not fit WORLD_SIZE=2"), join_team():
        pass
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(ConfigError, match="must be whole numbers"), join_team():
        pass


def test_a_file_without_a_step_is_said_to_count_as_step_0(demos, tmp_path):
    policy = ARP(ARPConfig.tiny())
    policy.init_weights(torch.Generator().manual_seed(0))
    for content, name, told in (
        ({"model_state": policy.state_dict()}, "plain.pth", False),
        ({"model_state": policy.state_dict(), "step": 7}, "inside.pth", True),
        ({"model_state": policy.state_dict()}, "arp_model_80000.pth", True),
    ):
        torch.save(content, tmp_path / name)
        assert inspect_checkpoint(tmp_path / name).step_told is told
    assert inspect_checkpoint(tmp_path / "plain.pth", step=3).step_told
    remarks = []
    with pytest.raises(CheckpointError, match="neither released variant"):
        extract(demos, out=tmp_path / "out", checkpoints=[tmp_path / "plain.pth"], limit=1, note=remarks.append)
    assert remarks[0].endswith("plain.pth: tells no training step, so it counts as step 0; --step or --name says more")


def test_values_that_are_not_finite_name_the_episode():
    fine = EpisodeFeatures(layers={"u": Tokens(values=np.zeros((1, 2)), keyframe=np.zeros(1))})
    bad = EpisodeFeatures(layers={"u": Tokens(values=np.array([[0, np.nan]]), keyframe=np.zeros(1))})
    with pytest.raises(FeatureError, match="layer 'u': the model gave NaN or infinite values for episode b"):
        Shard.of([fine, bad], ("u",), "float32", {}, names=["a", "b"])


def test_a_folder_at_the_place_of_a_store_is_refused(demos, tmp_path):
    (tmp_path / "x.h5").mkdir()
    with pytest.raises(FeatureError, match=r"x\.h5: is a folder; a feature store is one file"):
        extract(demos, out=tmp_path / "x.h5", models=["pixels"], overwrite=False)


# ---- broken episodes ----------------------------------------------------------------------------------------------


@pytest.fixture
def broken_demos(tmp_path, write_demo):
    """Six episodes, of which 1 and 4 have a truncated image."""
    root = tmp_path / "some broken"
    for number in range(6):
        write_demo(root, "t", 0, "", number, "do it", 9)
    for number in (1, 4):
        for image in root.rglob(f"episode{number}/front_rgb/*.png"):
            image.write_bytes(image.read_bytes()[:60])
    return root


def _ids(path):
    with open_features(path) as file:
        return file.columns["id"].tolist()


@pytest.mark.parametrize(("model", "batch_size"), [("pixels", 1), ("pixels", 4), ("pixels", 6), ("viclip", 4)])
def test_broken_episodes_are_left_out_on_request_and_counted(broken_demos, tmp_path, model, batch_size):
    with pytest.raises(DataError, match="truncated PNG"):
        extract(broken_demos, out=tmp_path / "x.h5", models=[model], batch_size=batch_size)
    remarks = []
    (entry,) = extract(
        broken_demos,
        out=tmp_path / "x.h5",
        models=[model],
        batch_size=batch_size,
        skip_broken=True,
        note=remarks.append,
    )
    assert (entry.status, entry.episodes, entry.skipped) == ("written", 4, 2)
    assert _ids(entry.path) == [f"t/0/episode{number}" for number in (0, 2, 3, 5)]
    assert [text for text in remarks if text.startswith("left out t/0/episode1: ") and "truncated PNG" in text]
    assert [text for text in remarks if "2 of 6 episodes left out as broken: t/0/episode1 (" in text]
    with open_features(entry.path) as file:
        provenance = file.attrs["provenance"]
    assert [skipped["id"] for skipped in provenance["skipped"]] == ["t/0/episode1", "t/0/episode4"]
    assert all("truncated PNG" in skipped["reason"] for skipped in provenance["skipped"])
    assert provenance["counts"]["episodes_skipped"] == 2
    for number in (1, 4):
        shutil.rmtree(next(broken_demos.rglob(f"episode{number}")))
    whole = extract(broken_demos, out=tmp_path / "whole.h5", models=[model], batch_size=batch_size)[0]
    np.testing.assert_allclose(_values(entry.path), _values(whole.path), rtol=1e-5, atol=1e-6)


def test_a_store_with_episodes_left_out_is_not_taken_for_a_whole_one(broken_demos, tmp_path):
    arguments = {"out": tmp_path / "x.h5", "models": ["pixels"], "batch_size": 4}
    assert extract(broken_demos, **arguments, skip_broken=True)[0].status == "written"
    kept = extract(broken_demos, **arguments, skip_broken=True)[0]
    assert (kept.status, kept.episodes, kept.skipped) == ("kept", 4, 2)
    with pytest.raises(FeatureError, match="skip_broken was True, now None"):
        extract(broken_demos, **arguments)


def test_a_whole_store_is_not_taken_for_one_that_skips(demos, tmp_path):
    extract(demos, out=tmp_path, models=["pixels"])
    with pytest.raises(FeatureError, match="skip_broken was None, now True"):
        extract(demos, out=tmp_path, models=["pixels"], skip_broken=True)


def test_batches_of_a_stopped_job_serve_the_one_that_skips_and_not_the_other_way(broken_demos, tmp_path, monkeypatch):
    read = []
    original = PixelExtractor.prepare
    monkeypatch.setattr(
        PixelExtractor, "prepare", lambda self, episodes: read.append(episodes[0].number) or original(self, episodes)
    )
    arguments = {"out": tmp_path / "x.h5", "models": ["pixels"], "batch_size": 1}
    with pytest.raises(DataError):
        extract(broken_demos, **arguments)
    read.clear()
    original_merge = extraction._Run.merge

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction._Run, "merge", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(broken_demos, **arguments, skip_broken=True)
    assert set(read) == {1, 2, 3, 4, 5}  # 0 was there
    monkeypatch.setattr(extraction._Run, "merge", original_merge)
    read.clear()
    with pytest.raises(DataError, match="truncated PNG"):  # the empty batches of before do not count here
        extract(broken_demos, **arguments)
    assert extract(broken_demos, **arguments, skip_broken=True)[0].skipped == 2


def test_broken_labels_and_whole_folders_are_left_out_too(broken_demos, tmp_path):
    next(broken_demos.rglob("episode0")).joinpath("low_dim_obs.pkl").unlink()
    next(broken_demos.rglob("episode2")).joinpath("variation_descriptions.pkl").write_bytes(b"no pickle")
    next(broken_demos.rglob("episode3")).joinpath("variation_number.pkl").write_bytes(b"no pickle")
    with pytest.raises(DataError):
        extract(broken_demos, out=tmp_path / "x.h5", models=["pixels"])
    remarks = []
    (entry,) = extract(broken_demos, out=tmp_path / "x.h5", models=["pixels"], skip_broken=True, note=remarks.append)
    assert _ids(entry.path) == ["t/0/episode5"]
    assert (entry.episodes, entry.skipped) == (1, 5)
    with open_features(entry.path) as file:
        assert len(file.attrs["provenance"]["skipped"]) == 5
    assert str(next(broken_demos.rglob("episode3"))) in " ".join(remarks)


def test_nothing_but_broken_episodes_is_an_error(broken_demos, tmp_path):
    with pytest.raises(DataError, match=r"all 6 episodes are broken: t/0/episode0 \(.*no images of camera 'none'"):
        extract(broken_demos, out=tmp_path / "x.h5", models=["pixels"], options={"camera": "none"}, skip_broken=True)
    assert not (tmp_path / "x.h5").exists()


def test_faults_of_the_program_are_not_skipped(demos, tmp_path, monkeypatch):
    for error in (KeyError("x"), ConfigError("no"), FeatureError("no")):
        monkeypatch.setattr(PixelExtractor, "prepare", lambda self, episodes, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            extract(demos, out=tmp_path / "x.h5", models=["pixels"], skip_broken=True)


def test_two_processes_skip_the_broken_episodes_of_each(broken_demos, tmp_path, in_two_processes):
    command = ["-m", "mnprobe", "extract", "--data", broken_demos, "--model", "pixels", "--batch-size", "1", "--json"]
    done = in_two_processes(*command, "--skip-broken", "--out", tmp_path / "team")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert (entry["episodes"], entry["skipped"]) == (4, 2)
    assert "2 of 6 episodes left out as broken: t/0/episode1 (" in done.stderr
    assert _ids(entry["path"]) == [f"t/0/episode{number}" for number in (0, 2, 3, 5)]


# ---- what is known before the work --------------------------------------------------------------------------------


@pytest.fixture
def plugin(monkeypatch):
    """Register an extractor of numbers; its class may be changed. Yields the class and the batches it computed."""

    class Numbers(PixelExtractor):
        kind = "numbers"
        independent_rows = False
        default_layers = ("u",)
        computed: ClassVar[list] = []

        def compute(self, prepared):
            self.computed.append(len(prepared))
            return [self.one(clip) for clip in prepared]

        def one(self, clip):
            return EpisodeFeatures(layers={"u": Tokens(values=np.ones((1, 3)), keyframe=np.zeros(1))})

    module = types.ModuleType("numbers_plugin")
    module.Numbers = Numbers
    monkeypatch.setitem(sys.modules, "numbers_plugin", module)
    monkeypatch.setitem(EXTRACTORS._targets, "numbers", "numbers_plugin:Numbers")
    return Numbers


def test_an_existing_store_of_the_second_model_stops_before_the_first_is_computed(demos, tmp_path):
    extract(demos, out=tmp_path, models=["pixels"], tasks=["reach_target"])
    with pytest.raises(FeatureError, match="was made with another configuration"):
        extract(demos, out=tmp_path, models=["viclip", "pixels"])
    assert not (tmp_path / "viclip").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"describe": lambda self: {"scale": float("nan")}}, "description must hold only what JSON can hold"),
        ({"describe": lambda self: {"path": object()}}, "description must hold only what JSON can hold"),
        ({"compute": lambda self, prepared: []}, "gave features of 0 of 1 episodes"),
        ({"layers": ("u", "v")}, "layer 'v': the extractor gave none for episode open_drawer/0/train-episode0, only u"),
        ({"values": np.ones(3)}, r"must be numbers of shape \(tokens, D\), got float64 \(3,\)"),
        ({"values": np.ones((1, 3), complex)}, "must be numbers of shape"),
        ({"keyframe": np.zeros(2)}, r"keyframe of episode .* has shape \(2,\), not \(1,\)"),
        ({"prediction": 3}, "a prediction must be text without NUL, or None, got 3"),
        ({"prediction": "a\0"}, "a prediction must be text without NUL"),
    ],
)
def test_what_the_store_would_refuse_in_the_end_is_refused_with_the_first_batch(
    demos, tmp_path, plugin, monkeypatch, changes, message
):
    tokens = Tokens(values=changes.get("values", np.ones((1, 3))), keyframe=changes.get("keyframe", np.zeros(1)))
    found = EpisodeFeatures(layers={"u": tokens}, prediction=changes.get("prediction"))
    monkeypatch.setattr(plugin, "one", lambda self, clip: found)
    for name in ("describe", "compute"):
        if name in changes:
            monkeypatch.setattr(plugin, name, changes[name])
    if "layers" in changes:
        original = plugin.__init__

        def init(self, **options):
            original(self, **options)
            self.layers = changes["layers"]

        monkeypatch.setattr(plugin, "__init__", init)
    plugin.computed.clear()
    with pytest.raises((FeatureError, ConfigError), match=message):
        extract(demos, out=tmp_path / "x.h5", models=["numbers"], batch_size=1)
    assert len(plugin.computed) <= 1
    assert not list(tmp_path.rglob("*.shard"))


def test_a_layer_of_varying_width_stops_where_it_varies(demos, tmp_path, plugin, monkeypatch):
    def one(self, clip):
        width = 3 if len(self.computed) < 4 else 4
        return EpisodeFeatures(layers={"u": Tokens(values=np.ones((1, width)), keyframe=np.zeros(1))})

    monkeypatch.setattr(plugin, "one", one)
    plugin.computed.clear()
    with pytest.raises(FeatureError, match="layer 'u': gives tokens of 4 numbers after tokens of 3"):
        extract(demos, out=tmp_path / "x.h5", models=["numbers"], batch_size=1)
    assert len(plugin.computed) == 4  # the first batch is computed a second time, by the row check


def test_plugins_are_checked_for_dependence_on_the_batch(demos, tmp_path, plugin, monkeypatch):
    monkeypatch.setattr(
        plugin,
        "one",
        lambda self, clip: EpisodeFeatures(
            layers={"u": Tokens(values=np.full((1, 3), float(self.computed[-1])), keyframe=np.zeros(1))}
        ),
    )
    with pytest.raises(FeatureError, match="layer 'u': the values depend on the batch: among 5 and among 2 episodes"):
        extract(demos, out=tmp_path / "x.h5", models=["numbers"])
    assert extract(demos, out=tmp_path / "x.h5", models=["numbers"], batch_size=1)[0].status == "written"


def test_options_that_json_cannot_hold_are_refused(demos, tmp_path):
    options = {"factory": "a:b", "side": "execution", "arguments": {"x": np.ones(2)}}
    with pytest.raises(ConfigError, match="options of hook must hold only what JSON can hold"):
        extract(demos, out=tmp_path, models=["hook"], options=options)


def test_one_partition_beside_none_is_no_partition_and_several_are_refused(write_demo, tmp_path):
    write_demo(tmp_path / "a", "open_drawer", 0, "train", 0, "open it", 9)
    write_demo(tmp_path / "b", "reach_target", 0, "", 0, "reach it", 9)
    told = []
    path = tmp_path / "p.h5"
    extract(tmp_path, models=["pixels"], out=path, note=told.append)
    with open_features(path) as file:
        assert file.columns["id"].tolist() == ["open_drawer/0/train-episode0", "reach_target/0/episode0"]
        assert file.columns["partition"].tolist() == ["", ""]
    assert any("1 of 2 episodes lie in no partition, the others in 'train'" in remark for remark in told)
    write_demo(tmp_path / "a", "open_drawer", 0, "test", 0, "open it", 9)
    with pytest.raises(FeatureError, match="'partition': 1 of 3 rows have none, the first is row 2"):
        extract(tmp_path, models=["pixels"], out=tmp_path / "q.h5")
