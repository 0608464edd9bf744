"""Features of other programs become stores: every format gives the same rows, and nothing is joined in silence."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from mnprobe.cli.main import main
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features
from mnprobe.features.importing import import_features

COUNT = 6
VALUES = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
TOKENS = np.random.default_rng(1).normal(size=(COUNT, 4, 3)).astype(np.float32)
IDS = [f"kitchen/demo_{number}" for number in range(COUNT)]
TEXTS = ["open it", "close it"] * 3
EPISODES = {"id": IDS, "instruction": TEXTS, "success": [1, 0, -1, 1, 0, 1]}


def write_csv(path, columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def write_npy(path):
    np.save(path, VALUES)


def write_npz(path):
    np.savez(path, features=VALUES)


def write_zipped(path):
    np.savez_compressed(path, features=VALUES)


def write_pt(path):
    torch.save({"features": torch.from_numpy(VALUES)}, path)


def write_list(path):
    torch.save([torch.from_numpy(row) for row in VALUES], path)


def write_safetensors(path):
    save_file({"features": VALUES}, path)


def write_parquet(path):
    pd.DataFrame({"features": list(VALUES)}).to_parquet(path)


def write_columns(path):
    pd.DataFrame(VALUES, columns=list("abc")).to_parquet(path)


def write_named(path):
    pd.DataFrame(VALUES, columns=list("abc")).to_csv(path, index=False)


def write_numbered(path):
    pd.DataFrame(VALUES).to_csv(path)  # pandas numbers rows and columns


def write_bare(path):
    np.savetxt(path, VALUES.astype(np.float64), delimiter=",", fmt="%.17g")


WRITERS = [
    ("f.npy", write_npy),
    ("f.npz", write_npz),
    ("g.npz", write_zipped),
    ("f.pt", write_pt),
    ("f.pth", write_list),
    ("f.safetensors", write_safetensors),
    ("f.parquet", write_parquet),
    ("g.parquet", write_columns),
    ("f.csv", write_named),
    ("g.csv", write_numbered),
    ("h.csv", write_bare),
]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=lambda one: getattr(one, "__name__", ""))
def test_every_format_gives_the_same_rows(tmp_path, name, write):
    write(tmp_path / name)
    done = import_features(
        tmp_path / name, episodes=EPISODES, side="execution", name="theirs", step=7, out=tmp_path / "e.h5"
    )
    assert (done.status, done.episodes, done.layers) == ("written", COUNT, {"e": (COUNT, 3)})
    with open_features(done.path) as store:
        assert np.array_equal(store.layer("e").values[:], VALUES)
        assert (store.model, str(store.side), store.step, store.source, store.trained) == (
            "theirs",
            "execution",
            7,
            "demos",
            True,
        )
        assert store.episodes["id"].tolist() == IDS
        assert store.episodes["success"].tolist() == EPISODES["success"]
    assert (
        import_features(
            tmp_path / name, episodes=EPISODES, side="execution", name="theirs", step=7, out=tmp_path / "e.h5"
        ).status
        == "kept"
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_every_table_gives_the_same_columns_and_keeps_those_of_the_user(tmp_path, kind):
    np.save(tmp_path / "f.npy", VALUES)
    columns = EPISODES | {
        "task": ["door", "box"] * 3,
        "partition": ["Training"] * 4 + ["test"] * 2,
        "scene": ["a", "b", "c"] * 2,
        "attempt": [1, 2, 3, 4, 5, 6],
        "seconds": [0.5, 1.0, 2.25, 3.0, 4.0, 5.0],
        "code": ["007", "008", "009", "010", "011", "012"],
    }
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        write_csv(path, columns)
    elif kind == "parquet":
        pd.DataFrame(columns).to_parquet(path)
    else:
        path.write_text(
            "\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
        )
    with pytest.warns(UserWarning, match="'Training' is read as 'train'"):
        done = import_features(tmp_path / "f.npy", episodes=path, side="understanding", name="v", out=tmp_path / "u.h5")
    with open_features(done.path) as store:
        table = store.episodes
        assert store.layers == ("u",)
        assert store.extra_columns == ("attempt", "code", "scene", "seconds")
    assert table["partition"].tolist() == ["train"] * 4 + ["test"] * 2
    assert table["attempt"].tolist() == columns["attempt"]
    assert table["seconds"].tolist() == columns["seconds"]
    assert table["code"].tolist() == columns["code"]
    assert table["scene"].tolist() == columns["scene"]


def test_arrays_are_layers_and_tokens_stay_tokens(tmp_path):
    np.savez(tmp_path / "f.npz", **{"blocks/3": VALUES, "tokens": TOKENS, "labels": np.array(TEXTS)})
    notes = []
    settings = {"episodes": EPISODES, "side": "execution", "name": "m"}
    done = import_features(tmp_path / "f.npz", out=tmp_path / "a.h5", note=notes.append, **settings)
    assert done.layers == {"blocks.3": (COUNT, 3), "tokens": (COUNT, 4, 3)}
    assert any("'labels' is left out" in note for note in notes)
    assert any("chosen with --layer-e" in note for note in notes)
    with open_features(done.path) as store:
        assert np.array_equal(store.layer("tokens").tokens(2), TOKENS[2])
        assert np.allclose(store.layer("tokens").pooled("mean"), TOKENS.mean(axis=1))
        assert store.attrs["provenance"]["layers"]["tokens"] == {"meaning": "'tokens' of f.npz"}
    done = import_features(tmp_path / "f.npz", layers=["tokens"], out=tmp_path / "b.h5", **settings)
    assert list(done.layers) == ["tokens"]
    with pytest.raises(ConfigError, match=r"token.*is 'tokens' meant|tokens"):
        import_features(tmp_path / "f.npz", layers=["token"], out=tmp_path / "c.h5", **settings)


def test_tokens_may_be_of_any_number(tmp_path):
    pieces = [torch.full((1 + row % 3, 2), float(row)) for row in range(COUNT)]
    torch.save({"e": pieces}, tmp_path / "f.pt")
    done = import_features(tmp_path / "f.pt", episodes=EPISODES, side="execution", name="m", out=tmp_path / "e.h5")
    with open_features(done.path) as store:
        assert [len(store.layer("e").tokens(row)) for row in range(COUNT)] == [1, 2, 3, 1, 2, 3]
        assert store.layer("e").tokens(5).tolist() == [[5, 5]] * 3


def test_half_precision_of_torch_is_read(tmp_path):
    from safetensors.torch import save_file as save_tensors

    values = torch.from_numpy(VALUES).bfloat16()
    save_tensors({"e": values}, tmp_path / "f.safetensors")
    done = import_features(
        tmp_path / "f.safetensors", episodes=EPISODES, side="execution", name="m", out=tmp_path / "e.h5"
    )
    with open_features(done.path) as store:
        assert np.array_equal(store.layer("e").values[:], values.float().numpy())


def test_rows_are_joined_by_ids_where_the_file_has_them(tmp_path):
    order = [3, 0, 5, 1, 4, 2]
    ids = np.array(IDS)[order]
    np.savez(tmp_path / "f.npz", ids=ids, e=VALUES[order])
    pd.DataFrame(VALUES[order], index=ids).to_csv(tmp_path / "g.csv")
    pd.DataFrame({"episode_id": ids, "e": list(VALUES[order])}).to_parquet(tmp_path / "h.parquet")
    for name in ("f.npz", "g.csv", "h.parquet"):
        done = import_features(
            tmp_path / name, episodes=EPISODES, side="execution", name="m", out=tmp_path / f"{name}.h5"
        )
        with open_features(done.path) as store:
            assert np.array_equal(store.layer("e").values[:], VALUES)
    np.savez(tmp_path / "x.npz", ids=np.array(["other", *IDS[1:]]), e=VALUES)
    with pytest.raises(FeatureError, match=r"no features of 1 of 6 episodes .*'kitchen/demo_0'"):
        import_features(tmp_path / "x.npz", episodes=EPISODES, side="execution", name="m", out=tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("name", "rows"), [("f.npy", 5), ("f.csv", 5), ("g.csv", 7)], ids=["npy", "csv without a header", "csv of one more"]
)
def test_numbers_of_rows_must_agree(tmp_path, name, rows):
    values = np.ones((rows, 3))
    if name == "f.npy":
        np.save(tmp_path / name, values)
    else:
        np.savetxt(tmp_path / name, values, delimiter=",")
    with pytest.raises(FeatureError, match=rf"has {rows} rows, episodes has 6 episodes"):
        import_features(tmp_path / name, episodes=EPISODES, side="execution", name="m", out=tmp_path / "e.h5")
    assert not (tmp_path / "e.h5").exists()


def test_an_array_lying_on_its_side_is_told(tmp_path):
    np.save(tmp_path / "f.npy", VALUES.T)
    with pytest.raises(FeatureError, match="second axis has 6: is it to be transposed"):
        import_features(tmp_path / "f.npy", episodes=EPISODES, side="execution", name="m", out=tmp_path / "e.h5")


MISSING = ["open it", None, "close it", float("nan"), "nan", "open it"]


@pytest.mark.parametrize(
    ("changes", "gone", "reason"),
    [
        ({"instruction": MISSING}, [1, 3, 4], "has no instruction"),
        ({"task": ["a", "", "a", "b", "b", "b"]}, [1], "has no task"),
        ({"id": [*IDS[:5], IDS[0]]}, [0, 5], "its id occurs 2 times"),
        ({"id": [*IDS[:5], None]}, [5], "has no id"),
    ],
)
def test_what_is_missing_is_refused_or_left_out_by_name(tmp_path, changes, gone, reason):
    np.save(tmp_path / "f.npy", VALUES)
    settings = {"episodes": EPISODES | changes, "side": "execution", "name": "m", "out": tmp_path / "e.h5"}
    with pytest.raises(FeatureError, match=rf"row {gone[0]} .*{reason}.*--skip-missing"):
        import_features(tmp_path / "f.npy", **settings)
    assert not (tmp_path / "e.h5").exists()
    done = import_features(tmp_path / "f.npy", skip_missing=True, **settings)
    with open_features(done.path) as store:
        rest = [row for row in range(COUNT) if row not in gone]
        assert np.array_equal(store.layer("e").values[:], VALUES[rest])
        assert set(store.episodes["instruction"]) <= {"open it", "close it"}
        skipped = store.attrs["provenance"]["skipped"]
    assert [one["reason"] for one in skipped] == [reason] * len(gone)
    assert len({one["id"] for one in skipped}) == len(gone)


def test_features_that_are_not_finite_are_refused_or_left_out(tmp_path):
    values = TOKENS.copy()
    values[2, 3, 1] = np.nan
    values[4, 0, 0] = np.inf
    np.save(tmp_path / "f.npy", values)
    settings = {"episodes": EPISODES, "side": "execution", "name": "m", "out": tmp_path / "e.h5"}
    with pytest.raises(FeatureError, match=r"2 of 6 episodes .*row 2 \(kitchen/demo_2\): it its features|row 2"):
        import_features(tmp_path / "f.npy", **settings)
    done = import_features(tmp_path / "f.npy", skip_missing=True, **settings)
    assert list(done.skipped) == ["kitchen/demo_2", "kitchen/demo_4"]
    with open_features(done.path) as store:
        assert np.array_equal(store.layer("e").values[:], TOKENS[[0, 1, 3, 5]].reshape(-1, 3))


def test_a_column_of_instructions_that_is_empty_says_what_can_be_done(tmp_path):
    np.save(tmp_path / "f.npy", VALUES)
    write_csv(tmp_path / "t.csv", {"id": IDS, "instruction": [""] * COUNT})
    with pytest.raises(FeatureError, match=r"all 6 episodes .*only --pairing episode"):
        import_features(
            tmp_path / "f.npy",
            episodes=tmp_path / "t.csv",
            side="execution",
            name="m",
            skip_missing=True,
            out=tmp_path / "e.h5",
        )


def test_large_arrays_are_read_from_disk_in_blocks(tmp_path):
    values = np.asfortranarray(np.random.default_rng(2).normal(size=(700, 600)).astype(np.float32))
    np.savez(tmp_path / "f.npz", e=values, small=values[:, :2])
    from mnprobe.features.importing import _read_npz

    found = _read_npz(tmp_path / "f.npz")
    assert isinstance(found["e"], np.memmap)
    episodes = {"id": [str(row) for row in range(700)]}
    done = import_features(tmp_path / "f.npz", episodes=episodes, side="execution", name="m", out=tmp_path / "e.h5")
    with open_features(done.path) as store:
        assert np.array_equal(store.layer("e").values[:], values)
    damaged = bytearray((tmp_path / "f.npz").read_bytes())
    damaged[1_000_000] ^= 1
    (tmp_path / "f.npz").write_bytes(damaged)
    with pytest.raises(FeatureError, match=r"cannot be read as an archive of numpy .*CRC"):
        import_features(tmp_path / "f.npz", episodes=episodes, side="execution", name="m", out=tmp_path / "f.h5")


def test_what_else_a_file_of_torch_holds_is_left_out(tmp_path):
    torch.save({"hidden": torch.from_numpy(VALUES), "epoch": 3, "loss": torch.ones(4)}, tmp_path / "f.pt")
    notes = []
    settings = {"episodes": EPISODES, "side": "execution", "name": "m", "out": tmp_path / "e.h5", "note": notes.append}
    assert import_features(tmp_path / "f.pt", **settings).layers == {"e": (COUNT, 3)}
    assert [note.partition(": ")[2] for note in notes] == [
        "array 'epoch' is left out: it holds values of type object",
        "array 'loss' is left out: it has shape (4,)",
    ]
    torch.save([{"a": 1}], tmp_path / "g.pt")
    with pytest.raises(FeatureError, match="is a list, no tensor"):
        import_features(tmp_path / "g.pt", **settings)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("f.npy", b"no array", "cannot be read as an array of numpy"),
        ("f.npz", b"no archive", "cannot be read as an archive"),
        ("f.pt", b"no tensors", "cannot be read as tensors"),
        ("f.safetensors", b"none", "cannot be read as safetensors"),
        ("f.parquet", b"none", "cannot be read as a parquet file"),
        ("f.csv", b"a,b\n1,x\n", "column 'b', row 0: 'x' is no number"),
        ("f.txt", b"", "a file of features ends in .npz"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((FeatureError, ConfigError), match=match):
        import_features(tmp_path / name, episodes={"id": ["a"]}, side="execution", name="m", out=tmp_path / "e.h5")


def test_objects_in_a_file_of_torch_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"e": Evil()}, tmp_path / "f.pt")
    with pytest.raises(FeatureError, match="weights_only"):
        import_features(tmp_path / "f.pt", episodes=EPISODES, side="execution", name="m", out=tmp_path / "e.h5")
    np.save(tmp_path / "f.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(FeatureError, match="cannot be read"):
        import_features(tmp_path / "f.npy", episodes=EPISODES, side="execution", name="m", out=tmp_path / "e.h5")
    assert not (tmp_path / "ran").exists()


def test_another_content_does_not_replace_a_store_unasked(tmp_path):
    np.save(tmp_path / "f.npy", VALUES)
    settings = {"episodes": EPISODES, "side": "execution", "name": "m", "step": 3, "run": tmp_path / "run"}
    first = import_features(tmp_path / "f.npy", **settings)
    assert first.path == tmp_path / "run" / "features" / "m" / "demos" / "step_00000003.h5"
    np.save(tmp_path / "f.npy", VALUES + 1)
    with pytest.raises(FeatureError, match="--overwrite"):
        import_features(tmp_path / "f.npy", **settings)
    assert import_features(tmp_path / "f.npy", overwrite=True, **settings).status == "written"
    recorded = RunDir(tmp_path / "run").config["import"]
    assert recorded["m demos 3"]["import"] == "f.npy"


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["import", *map(str, words)])
    shown = capsys.readouterr()
    return ended.value.code or 0, shown.out, shown.err


def test_the_command(tmp_path, capsys):
    np.savez(tmp_path / "f.npz", e=VALUES)
    table = write_csv(tmp_path / "t.csv", EPISODES)
    words = [tmp_path / "f.npz", "--episodes", table, "--side", "execution", "--name", "openvla", "--step", 300]
    code, out, err = run(capsys, *words, "--run", tmp_path / "run")
    assert (code, err) == (0, "")
    store = tmp_path / "run" / "features" / "openvla" / "demos" / "step_00000300.h5"
    assert out == f"written {store}: 6 episodes, e 6 x 3\n"
    code, out, _ = run(capsys, *words, "--run", tmp_path / "run", "--json")
    assert (json.loads(out)["status"], json.loads(out)["layers"]) == ("kept", {"e": [6, 3]})
    code, _, err = run(capsys, *words[:-4], "--out", tmp_path / "x.h5", "--name", "a/b")
    assert (code, "plain name" in err) == (2, True)
