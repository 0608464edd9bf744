"""Values of any make are stored as they are, or refused with the place and the way out."""

import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

from mnprobe.core.errors import FeatureError
from mnprobe.features import FeatureWriter, Header, HookTarget, extract, open_features, write_features
from mnprobe.features.shards import ShardFolder

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2) / 4
TOKENS = np.arange(12, dtype=np.float32).reshape(3, 2, 2) / 4


def store(tmp_path, values, **options):
    path = write_features(
        tmp_path / "x.h5", model="m", side="execution", episodes={"id": list("abc")}, layers={"e": values}, **options
    )
    with open_features(path) as file:
        layer = file.layer("e")
        return layer.values[:], layer.offsets.tolist(), layer.keyframe


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        np.asfortranarray,
        lambda rows: rows.astype(">f4"),
        torch.tensor,
        lambda rows: torch.tensor(rows, requires_grad=True),
        lambda rows: torch.tensor(rows).bfloat16(),
        lambda rows: torch.tensor(rows).double().T.contiguous().T,
        pd.DataFrame,
        np.ndarray.tolist,
        lambda rows: [torch.tensor(row) for row in rows],
    ],
)
def test_a_row_per_episode(tmp_path, make):
    values, offsets, _ = store(tmp_path, make(ROWS))
    np.testing.assert_array_equal(values, ROWS)
    assert offsets == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "make", [np.asarray, torch.tensor, list, np.ndarray.tolist, lambda rows: [torch.tensor(piece) for piece in rows]]
)
def test_tokens_of_each_episode(tmp_path, make):
    values, offsets, marks = store(tmp_path, make(TOKENS), keyframes={"e": torch.tensor([[0, 1], [0, 1], [2, 3]])})
    np.testing.assert_array_equal(values, TOKENS.reshape(6, 2))
    assert offsets == [0, 2, 4, 6]
    assert marks.tolist() == [0, 1, 0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.float16, "f2", np.dtype("float16"), torch.float16, "float16"])
def test_types_by_any_name(tmp_path, dtype):
    values, _, _ = store(tmp_path, ROWS, dtype=dtype)
    assert values.dtype == np.float16


@pytest.mark.parametrize("values", [np.ma.masked_equal(ROWS, 0), pd.DataFrame(ROWS).replace(0, None)])
def test_missing_values_are_not_stored_as_numbers(tmp_path, values):
    with pytest.raises(FeatureError, match=r"layers/e/values\[0, 0\]: nan is not a finite float32$"):
        store(tmp_path, values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [1.5, 1.5]}, "lengths: must be whole numbers, got"),
        ({"keyframe": [0, 0.5, 1]}, "keyframe: must be whole numbers, got"),
    ],
)
def test_lengths_and_keyframes_are_whole_numbers(tmp_path, options, message):
    with FeatureWriter(tmp_path / "x.h5", Header(model="m", side="execution"), {"id": list("abc")}) as writer:
        with pytest.raises(FeatureError, match=message):
            writer.append("e", ROWS, **options)
        writer.append("e", ROWS)


BEYOND = r"holds -100000, which is beyond float16; take --dtype float32 \(dtype='float32'\)"


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, list])
def test_beyond_float16_in_an_array_names_layer_and_row(tmp_path, make):
    rows = np.ones((3, 2), np.float32)
    rows[1, 1] = -1e5
    with pytest.raises(
        FeatureError, match=rf"/layers/e/values\[1, 1\]: -100000.0 is not a finite float16; .* {BEYOND}$"
    ):
        store(tmp_path, make(rows), dtype="float16")
    assert not list(tmp_path.iterdir())


def test_beyond_float16_in_an_extraction_names_layer_and_episode_with_its_batch(demos, tmp_path, monkeypatch):
    read = []

    def prepare(episodes):
        read.append(len(episodes))
        return torch.tensor([[-1e5 if one.task == "reach_target" else 1.0, 2.0] for one in episodes])

    module = types.ModuleType("too_large")
    module.make = lambda checkpoint: HookTarget(module=torch.nn.Identity(), prepare=prepare)
    monkeypatch.setitem(sys.modules, "too_large", module)
    options = {"factory": "too_large:make", "side": "execution"}
    message = rf"episode reach_target/3/train-episode0, layer 'output': {BEYOND}$"
    for size in (5, 2, 1):
        with pytest.raises(FeatureError, match=message):
            extract(demos, out=tmp_path / "x.h5", models=["hook"], dtype="float16", batch_size=size, options=options)
        assert not (tmp_path / "x.h5").exists()
    for path in tmp_path.rglob("*.shard"):
        shard = ShardFolder(tmp_path / "x.h5", path.parent.name).read(int(path.stem))
        assert np.isfinite(shard.arrays["output/values"]).all()
    (entry,) = extract(demos, out=tmp_path / "x.h5", models=["hook"], options=options)
    with open_features(entry.path) as file:
        assert file.layer("output").values[:].min() == -1e5


def test_beyond_float32_has_another_way_out(tmp_path):
    with pytest.raises(FeatureError, match=r"holds 1e\+39, which is beyond float32; scale the values$"):
        store(tmp_path, np.full((3, 2), 1e39))
