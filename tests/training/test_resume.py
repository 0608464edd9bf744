"""A training that was stopped, however, ends as if it had not been: the same files, bit for bit."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.rundir import RunDir
from mnprobe.training import OptimizerConfig, read_metrics, train, trainer

KILLER = """
import json, os, signal, sys, traceback
from pathlib import Path
from mnprobe.core.rundir import RunDir
from mnprobe.data import open_dataset
from mnprobe.training import TrainConfig, train
config, data, folder = sys.argv[1:]
points, last, replace = 0, None, os.replace

def counted(*paths, **options):  # a file is whole before this and known by its name after it
    die_here()
    replace(*paths, **options)
    die_here()

def die_here():
    global points
    points += 1
    if points == last:
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = counted

def work(run):
    train(TrainConfig.from_dict(json.loads(config)), open_dataset(data), RunDir.create(Path(folder) / run),
          device="cpu", save_every=3, log_every=2)

def killed(run, point):
    global points, last
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, (run, point)
        return
    points, last = 0, point
    try:
        work(run)
    except BaseException:
        traceback.print_exc()
    os._exit(1)

work("calm")  # in this process, so that the children find everything imported
total = points
assert total > 20, total
first, second = 2 * total // 5, 5  # of the second run, which has less left to do
killed("run", first)
state = Path(folder) / "run" / "training" / "joint" / "state.pt"
assert state.exists()
killed("run", second)
assert not (state.parent / "result.json").exists()
work("run")
"""


def written(result):
    """Bytes of all weights, and the table of losses."""
    heads = sorted((result.folder / "heads").glob("*.safetensors"))
    return [path.read_bytes() for path in (*result.checkpoints, *heads)], read_metrics(result.folder / "metrics.csv")


class Stopped(Exception):
    pass


@pytest.fixture
def stop_after(monkeypatch):
    """Let a training end abruptly, straight after an update: before its row, checkpoint or state is written."""
    after = trainer._Trainer._after

    def arm(updates):
        def stop(self, done, *rest):
            if done == updates:
                raise Stopped
            after(self, done, *rest)

        monkeypatch.setattr(trainer._Trainer, "_after", stop)
        return monkeypatch.undo

    return arm


@pytest.fixture(scope="module")
def undisturbed(micro, micro_dataset, tmp_path_factory):
    """What the training of this file writes when nothing stops it."""
    run = RunDir.create(tmp_path_factory.mktemp("undisturbed") / "run")
    return train(settings(micro), micro_dataset, run, device="cpu", save_every=3, log_every=2)


def settings(micro):
    return micro(
        updates=12,
        clip_norm=1.0,
        colour_noise=True,
        video=OptimizerConfig(lr=1e-3, warmup=3, weight_decay=0.1),
        policy=OptimizerConfig(kind="lamb", lr=1e-2, warmup=3),
    )


@pytest.mark.parametrize("update", [1, 5, 6, 12])
def test_stopped_after_any_update_it_ends_the_same(micro, micro_dataset, tmp_path, stop_after, undisturbed, update):
    run = RunDir.create(tmp_path / "run")
    undo = stop_after(update)
    with pytest.raises(Stopped):
        train(settings(micro), micro_dataset, run, device="cpu", save_every=3, log_every=2)
    undo()
    notes = []
    result = train(settings(micro), micro_dataset, run, device="cpu", save_every=3, log_every=2, note=notes.append)
    assert written(result) == written(undisturbed)
    assert result.own_updates == undisturbed.own_updates
    saved = (update - 1) // 3 * 3
    assert f"training 'joint': going on after update {saved} of 12" in notes


def test_killed_again_and_again_it_ends_the_same(micro, micro_demos, tmp_path, undisturbed):
    arguments = [json.dumps(settings(micro).to_dict()), str(micro_demos), str(tmp_path)]
    folder = tmp_path / "run" / "training" / "joint"
    done = subprocess.run([sys.executable, "-c", KILLER, *arguments], env=_one_thread(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [(tmp_path / "run" / path.relative_to(undisturbed.folder.parents[1])) for path in undisturbed.checkpoints]
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in undisturbed.checkpoints]
    assert read_metrics(folder / "metrics.csv") == read_metrics(undisturbed.folder / "metrics.csv")


@pytest.fixture
def stopped(micro, micro_dataset, tmp_path, stop_after):
    """The run and the state file of a training that was stopped after 8 of 12 updates."""
    run = RunDir.create(tmp_path / "run")
    undo = stop_after(8)
    with pytest.raises(Stopped):
        train(settings(micro), micro_dataset, run, device="cpu", save_every=3)
    undo()
    return run, run.path / "training" / "joint" / "state.pt"


def test_another_configuration_is_not_mixed_in(micro, micro_dataset, stopped):
    run, state = stopped
    before = state.read_bytes()
    config = replace(settings(micro), tau=0.2)
    with pytest.raises(ConfigError, match="training 'joint' was made with another configuration") as caught:
        train(config, micro_dataset, run, device="cpu")
    assert "training.tau was 0.1, now 0.2" in str(caught.value)
    assert "--name" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data.episodes was 8, now 7"):
        train(settings(micro), micro_dataset[:7], run, device="cpu")
    assert state.read_bytes() == before


def test_a_state_that_is_damaged_or_a_strangers_is_told(micro, micro_dataset, stopped):
    run, state = stopped
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        train(settings(micro), micro_dataset, run, device="cpu")
    torch.save({"anything": 1}, state)
    with pytest.raises(CheckpointError, match="not the state of a training of this version"):
        train(settings(micro), micro_dataset, run, device="cpu")
    content = torch.load(_put(state, whole), weights_only=True)
    assert set(content["optimisers"]) == {"viclip", "arp", "heads"}  # keys of the file do not follow renamed fields
    torch.save(content | {"config_hash": "0" * 16}, state)
    with pytest.raises(CheckpointError, match="was made with another configuration"):
        train(settings(micro), micro_dataset, run, device="cpu")
    torch.save(content | {"model": {"x": torch.zeros(1)}}, state)
    with pytest.raises(CheckpointError, match="does not fit the models of its own configuration"):
        train(settings(micro), micro_dataset, run, device="cpu")


def test_without_its_state_a_training_begins_anew_and_writes_the_same(micro, micro_dataset, stopped, undisturbed):
    run, state = stopped
    state.unlink()
    result = train(settings(micro), micro_dataset, run, device="cpu", save_every=3, log_every=2)
    assert written(result) == written(undisturbed)


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_nothing_in_a_state_is_run(micro, micro_dataset, stopped, monkeypatch, tmp_path):
    run, state = stopped
    monkeypatch.chdir(tmp_path)
    torch.save({"format": Trap()}, state)
    with pytest.raises(CheckpointError, match="holds more than numbers"):
        train(settings(micro), micro_dataset, run, device="cpu")
    assert not Path("trapped").exists()


def test_a_missing_checkpoint_of_an_unfinished_training_is_told(micro, micro_dataset, stopped):
    run, _ = stopped
    run.checkpoint("viclip-joint", 6).unlink()
    with pytest.raises(CheckpointError, match=r"step_00000006.safetensors: is missing"):
        train(settings(micro), micro_dataset, run, device="cpu")


def _put(path, content):
    path.write_bytes(content)
    return path


def _one_thread():
    return os.environ | {"OMP_NUM_THREADS": "1"}
