import json

import pytest

from mnprobe.cli.main import main
from mnprobe.core.files import sha256_file
from mnprobe.core.rundir import RunDir
from mnprobe.models.arp import load_arp
from mnprobe.models.loading import read_metadata
from mnprobe.models.viclip import load_viclip


def init(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["init", *map(str, arguments)])
    return end.value.code


def test_a_run_starts_with_loadable_untrained_checkpoints_that_say_so(tmp_path, capsys):
    assert init("--run", tmp_path / "r", "--seed", "3", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    run = RunDir(tmp_path / "r")
    assert [(piece.model, piece.step) for piece in run.checkpoints()] == [("arp", 0), ("viclip", 0)]
    for piece in run.checkpoints():
        metadata = read_metadata(piece.path)
        assert (metadata["trained"], metadata["size"], metadata["seed"]) == ("false", "tiny", "3")
        assert told["checkpoints"][piece.model]["path"] == str(piece.path)
    load_viclip(run.checkpoint("viclip", 0))
    load_arp(run.checkpoint("arp", 0))
    assert run.config["init"] == {"viclip": "tiny", "arp": "tiny", "seed": 3}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert init("--run", tmp_path / name, "--seed", seed) == 0
    a, b, c = ([sha256_file(piece.path) for piece in RunDir(tmp_path / name).checkpoints()] for name in "abc")
    assert a == b
    assert not set(a) & set(c)


def test_a_second_init_keeps_equal_checkpoints_and_refuses_others(tmp_path, capsys):
    run = RunDir(tmp_path / "r")
    assert init("--run", run.path) == 0
    before = run.checkpoint("arp", 0).stat().st_mtime_ns
    assert init("--run", run.path) == 0
    assert run.checkpoint("arp", 0).stat().st_mtime_ns == before
    capsys.readouterr()
    assert init("--run", run.path, "--seed", 1) == 2
    assert "exists with size tiny, seed 0; asked for is size tiny, seed 1" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "9" * 30])
def test_an_impossible_seed_is_refused_before_anything_is_made(tmp_path, capsys, seed):
    assert init("--run", tmp_path / "r", "--seed", seed) == 2
    assert f"--seed must be a whole number from 0 to 9223372036854775807, got {seed}" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
