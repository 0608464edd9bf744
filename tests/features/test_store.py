import pickle
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnprobe.core import files
from mnprobe.core.errors import FeatureError
from mnprobe.core.labels import is_missing
from mnprobe.features import FeatureWriter, Header, open_features, verify, write_features
from mnprobe.features.schema import CHUNK_ROWS
from mnprobe.features.store import describe_features, format_description

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def test_what_goes_in_comes_out(store):
    path, tokens, clip, episodes = store
    with open_features(path) as file:
        assert file.layers == ("clip", "e")
        assert (file.model, file.side, file.source, file.step, file.trained) == (
            "mine",
            "execution",
            "demos",
            1000,
            True,
        )
        assert file.attrs["schema"] == "mnprobe.features/1"
        assert file.attrs["model_config"] == {"width": 6}
        assert file.attrs["provenance"] == {"why": "test"}
        assert file.attrs["data_fingerprint"] == "f" * 64
        expected = pd.DataFrame(episodes)[["id", "task", "instruction", "variation", "partition", "success"]]
        pd.testing.assert_frame_equal(file.episodes, expected, check_dtype=False)
        layer = file.layer("e")
        np.testing.assert_array_equal(layer.values[:], np.concatenate(tokens))
        np.testing.assert_array_equal(layer.offsets, [0, 5, 20, 30])
        np.testing.assert_array_equal(layer.keyframe, [*[0] * 5, *[0] * 5, *[1] * 5, *[2] * 5, *[0] * 5, *[1] * 5])
        assert layer.dim == 6
        for i, piece in enumerate(tokens):
            np.testing.assert_array_equal(layer.tokens(i), piece)
        np.testing.assert_array_equal(layer.tokens(-1), tokens[-1])
        assert file.layer("clip").keyframe is None
        np.testing.assert_array_equal(file.layer("clip").values[:], clip)
    verify(path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(TEXT.filter(bool), min_size=1, max_size=6, unique=True),
    texts=st.lists(TEXT, min_size=6, max_size=6),
    lengths=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    success=st.lists(st.sampled_from([1, 0, -1]), min_size=6, max_size=6),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_any_content_survives_the_round_trip(tmp_path, names, texts, lengths, success, dtype):
    count = len(names)
    values = [np.random.default_rng(i).normal(size=(lengths[i], 3)).astype(dtype) for i in range(count)]
    table = {"id": names, "instruction": texts[:count], "success": success[:count], "prediction": texts[:count][::-1]}
    words = [text if not is_missing(text) else f"do {text}" for text in table["instruction"]]
    table |= {"instruction": words, "prediction": ["" if is_missing(text) else text for text in table["prediction"]]}
    table |= {"scene": texts[:count], "mass": [value / 2 for value in success[:count]], "run": lengths[:count]}
    path = write_features(
        tmp_path / "x.h5", model="m", side="understanding", layers={"u": values}, episodes=table, dtype=dtype
    )
    verify(path)
    with open_features(path) as file:
        assert {name: file.columns[name].tolist() for name in table} == table
        assert file.layer("u").values.dtype == dtype
        for i, piece in enumerate(values):
            np.testing.assert_array_equal(file.layer("u").tokens(i), piece)


@pytest.mark.parametrize("blocks", [[1000], [256, 256, 256, 232], [1, 255, 300, 444], [7] * 100 + [300]])
def test_blocks_of_any_size_give_the_same_file_content(tmp_path, blocks):
    values = np.random.default_rng(0).normal(size=(1000, 5)).astype(np.float32)
    path = tmp_path / "x.h5"
    with FeatureWriter(path, Header(model="m", side="understanding"), {"id": [str(i) for i in range(1000)]}) as writer:
        for start, stop in zip(np.cumsum([0, *blocks[:-1]]), np.cumsum(blocks), strict=True):
            writer.append("u", values[start:stop])
    with open_features(path) as file:
        np.testing.assert_array_equal(file.layer("u").values[:], values)
    with h5py.File(path) as file:
        dataset = file["layers/u/values"]
        assert dataset.chunks == (CHUNK_ROWS, 5)
        assert dataset.fletcher32
        assert dataset.compression is None


def test_the_writer_does_not_keep_the_callers_array(tmp_path):
    block = np.ones((3, 2), np.float32)
    with FeatureWriter(tmp_path / "x.h5", Header(model="m", side="understanding"), {"id": list("abcdef")}) as writer:
        writer.append("u", block)
        block[:] = 2
        writer.append("u", block)
    with open_features(tmp_path / "x.h5") as file:
        assert file.layer("u").values[:, 0].tolist() == [1, 1, 1, 2, 2, 2]


def test_rows_are_read_by_slice_number_list_and_mask(store):
    path, tokens, _, _ = store
    whole = np.concatenate(tokens)
    with open_features(path) as file:
        rows = file.layer("e").values
        np.testing.assert_array_equal(rows[3:9], whole[3:9])
        np.testing.assert_array_equal(rows[4], whole[4])
        np.testing.assert_array_equal(rows[[7, 1, 7, -1]], whole[[7, 1, 7, -1]])
        np.testing.assert_array_equal(rows[whole[:, 0] > 0], whole[whole[:, 0] > 0])
        np.testing.assert_array_equal(rows[[]], whole[:0])
        np.testing.assert_array_equal(np.asarray(rows), whole)
        np.testing.assert_array_equal(np.concatenate(list(rows.blocks(7))), whole)
        assert (len(rows), rows.shape) == (30, (30, 6))


def test_an_open_store_travels_to_another_process(store):
    path, tokens, _, _ = store
    with open_features(path) as file, pickle.loads(pickle.dumps(file)) as again:
        np.testing.assert_array_equal(again.layer("e").tokens(0), tokens[0])


def test_a_failed_write_leaves_the_old_file(store):
    path = store[0]
    before = path.read_bytes()

    def write():
        with FeatureWriter(path, Header(model="m", side="execution"), {"id": ["a"]}) as writer:
            writer.append("u", np.zeros((1, 2), np.float32))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def _write(tmp_path, **changes):
    arguments = {
        "model": "m",
        "side": "understanding",
        "layers": {"u": np.zeros((2, 3))},
        "episodes": {"id": ["a", "b"]},
    }
    return write_features(tmp_path / "x.h5", **(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": "left"}, "side must be one of understanding, execution, got 'left'"),
        ({"step": -1}, "step must be >= 0, got -1"),
        ({"model": "../x"}, "model must be a plain name"),
        ({"source": ""}, "source must be a plain name"),
        ({"model_config": {"a": object()}}, "model_config must hold only what JSON can hold"),
        ({"provenance": {"a": float("nan")}}, "provenance must hold only"),
        ({"dtype": "float64"}, "float32 or float16, not 'float64'"),
        ({"episodes": {"task": ["a", "b"]}}, "no column 'id', only task"),
        ({"episodes": {"id": ["a", "b"], "tasks": ["s", "t"]}}, "unknown episode column 'tasks': is 'task' meant"),
        ({"episodes": {"id": ["a", "b"], "Success": [1, 0]}}, "unknown episode column 'Success': is 'success' meant"),
        ({"episodes": {"id": ["a", "b"], "a/b": [1, 2]}}, "an episode column cannot be called 'a/b'"),
        ({"episodes": {"id": ["a", "b"], " ": [1, 2]}}, "an episode column cannot be called ' '"),
        ({"episodes": {"id": ["a", "b"], 1: [1, 2], "1": [1, 2]}}, "two episode columns are called '1'"),
        ({"episodes": {"id": ["a", "b"], "scene": ["x", 1]}}, "'scene', row 1: a column holds text, numbers or truth"),
        ({"episodes": {"id": ["a", "b"], "scene": ["x", "\0"]}}, "'scene', row 1: a NUL or no UTF-8"),
        ({"episodes": {"id": ["a", "b"], "mass": [1, 2**63]}}, "'mass': a whole number is larger than 64 bits"),
        ({"episodes": {"id": ["a", "b"], "pose": np.eye(2)}}, r"'pose' must give one label per row, got .* \(2, 2\)"),
        ({"step": 5.5}, "step must be a whole number, got 5.5"),
        ({"step": "5"}, "step must be a whole number, got '5'"),
        ({"trained": "no"}, "trained must be True or False, got 'no'"),
        ({"trained": None}, "trained must be True or False, got None"),
        ({"episodes": {"id": ["a", "b"], "partition": ["train", "holdout"]}}, "'holdout' is not known; a partition is"),
        ({"episodes": {"id": ["a", "b"], "partition": ["train", ""]}}, "1 of 2 rows have none, the first is row 1"),
        (
            {"episodes": {"id": ["a", "b"], "instruction": ["open", None]}},
            r"'instruction': 1 of 2 episodes have none .* the first is row 1 \(b\)",
        ),
        ({"episodes": {"id": ["a", "b"], "task": ["", "t"]}}, r"'task': 1 of 2 .* the first is row 0 \(a\)"),
        ({"episodes": {"id": ["a", "b"], "task": ["a"]}}, "differ in length"),
        ({"episodes": {"id": ["a", "a"]}}, "'a' occurs 2 times"),
        ({"episodes": {"id": ["a", ""]}}, r"id\[1\]: the episode id is empty"),
        ({"episodes": {"id": []}}, "there are no episodes"),
        ({"episodes": {"id": ["a", 3]}}, "column 'id', row 1: must be text, got 3"),
        ({"episodes": {"id": ["a", "b\0"]}}, "row 1: a NUL or no UTF-8"),
        ({"episodes": {"id": ["a", "\ud800"]}}, "row 1: a NUL or no UTF-8"),
        ({"episodes": {"id": ["a", "b"], "success": [1, 2]}}, r"success\[1\]: must be 1, 0 or -1 \(not known\), got 2"),
        ({"episodes": {"id": ["a", "b"], "success": [1, 257]}}, r"success\[1\]: .* got 257 for episode 'b'"),
        ({"episodes": {"id": ["a", "b"], "success": [1, 0.5]}}, r"success\[1\]: .* got 0.5 for episode 'b'"),
        ({"episodes": {"id": ["a", "b"], "success": ["yes", 1]}}, r"success\[0\]: .* got 'yes' for episode 'a'"),
        ({"episodes": {"id": ["a", "b"], "variation": [0, np.nan]}}, "'variation', row 1: must be a whole number"),
        ({"episodes": {"id": ["a", "b"], "variation": [0, 2**63]}}, "'variation', row 1: must be a whole number"),
        (
            {"episodes": {"id": ["a", "b"], "variation": [0, 1.5]}},
            "'variation', row 1: must be a whole number, got 1.5",
        ),
        ({"episodes": ["a", "b"]}, "must be a DataFrame or a mapping of columns, got list"),
        ({"layers": {}}, "no layer was written"),
        ({"layers": {"a/b": np.zeros((2, 3))}}, "layer name 'a/b'"),
        ({"layers": {"..": np.zeros((2, 3))}}, "layer name '..'"),
        ({"layers": {"u": np.zeros((3, 3))}}, "holds 3 episodes, the table of episodes 2"),
        ({"layers": {"u": np.zeros(2)}}, r"needs numbers of shape \(rows, D\)"),
        ({"layers": {"u": np.array([["a"], ["b"]])}}, r"needs numbers of shape \(rows, D\)"),
        ({"layers": {"u": np.array([[0, 1], [np.nan, 2]])}}, r"u/values\[1, 0\]: nan is not a finite float32"),
        (
            {"layers": {"u": np.array([[0, 1], [1, 1e6]])}, "dtype": "float16"},
            r"\[1, 1\]: 1000000.0 is not a finite float16",
        ),
        ({"layers": {"u": [np.zeros((1, 2)), np.zeros((1, 3))]}}, r"tokens of every episode must be \(m, D\), got"),
        ({"keyframes": {"v": [0]}}, r"keyframes for layers that are not there: \['v'\]"),
        ({"keyframes": {"u": np.zeros(3)}}, r"keyframe has shape \(3,\), not \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(FeatureError, match=message):
        _write(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([True, None, 0.0], [1, -1, 0]),
        (np.array([1.0, 0.0, np.nan]), [1, 0, -1]),
        (["1", "", "false"], [1, -1, 0]),
        (pd.array([1, None, 0], dtype="Int64"), [1, -1, 0]),
        (pd.array([True, None, False], dtype="boolean"), [1, -1, 0]),
        (pd.Categorical(["true", None, "0"]), [1, -1, 0]),
        (np.ma.masked_array([1, 0, 0], mask=[False, True, False]), [1, -1, 0]),
        (np.array([1, 255, 0], dtype=np.uint8).astype(np.int8), [1, -1, 0]),
    ],
)
def test_outcomes_of_any_make_are_read(tmp_path, given, found):
    table = {"id": list("abc"), "success": given, "variation": [0.0, np.int64(3), np.uint8(17)]}
    with open_features(_write(tmp_path, episodes=table, layers={"u": np.eye(3)}, step=np.int64(5))) as file:
        assert file.columns["success"].tolist() == found
        assert file.columns["variation"].tolist() == [0, 3, 17]
        assert file.step == 5


@pytest.mark.parametrize("hole", [None, "", "  ", float("nan"), "nan", pd.NA, pd.NaT])
def test_labels_that_no_episode_has_are_not_given(tmp_path, hole):
    table = {"id": ["a", "b"], "instruction": [hole] * 2, "task": [hole] * 2, "partition": [hole] * 2}
    with open_features(_write(tmp_path, episodes=table)) as file:
        for name in ("instruction", "task", "partition"):
            assert file.columns[name].tolist() == ["", ""]


def test_some_instructions_may_be_blanked(tmp_path):
    table = {"id": ["a", "b"], "instruction": ["open", ""]}
    with open_features(_write(tmp_path, episodes=table, source="demos-blank")) as file:
        assert file.columns["instruction"].tolist() == ["open", ""]


def test_partitions_by_other_names_are_mapped_with_a_warning(tmp_path):
    table = {"id": list("abc"), "partition": ["Training", "dev", "test"]}
    with pytest.warns(UserWarning, match="'Training' is read as 'train', 'dev' is read as 'val'"):
        path = _write(tmp_path, episodes=table, layers={"u": np.eye(3)})
    with open_features(path) as file:
        assert file.columns["partition"].tolist() == ["train", "val", "test"]


def test_own_columns_travel_with_the_features(tmp_path):
    table = pd.DataFrame(
        {
            "id": list("abcd"),
            "scene": ["x", "ö 开", None, "x"],
            "operator": pd.Categorical(["ann", "bob", "ann", None]),
            "mass": [0.5, np.nan, 2.0, 1e300],
            "run": np.array([1, 2, 3, 2**40]),
            "dark": [True, False, False, True],
        }
    )
    path = _write(tmp_path, episodes=table, layers={"u": np.eye(4)})
    verify(path)
    with open_features(path) as file:
        assert file.extra_columns == ("dark", "mass", "operator", "run", "scene")
        assert file.attrs["schema"] == "mnprobe.features/2"
        found = file.episodes
        assert found["scene"].tolist() == ["x", "ö 开", "", "x"]
        assert found["operator"].tolist() == ["ann", "bob", "ann", ""]
        np.testing.assert_array_equal(found["mass"], [0.5, np.nan, 2.0, 1e300])
        assert found["run"].tolist() == [1, 2, 3, 2**40]
        assert found["dark"].tolist() == [True, False, False, True]
        again = write_features(
            tmp_path / "y.h5", model="m", side="understanding", layers={"u": np.eye(4)}, episodes=file.episodes
        )
    with open_features(again) as file:
        pd.testing.assert_frame_equal(file.episodes, found)
    described = describe_features(path)
    assert described["extra_columns"]["operator"] == {"": 1, "ann": 2, "bob": 1}
    assert "    own column operator: (none): 1; ann: 2; bob: 1" in format_description(described)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda extra: extra["run"].__setitem__(0, 9), "do not match their digest"),
        (lambda extra: extra.__delitem__("scene"), "do not match their digest"),
        (lambda extra: extra.create_dataset("task", data=[1, 2]), "extra/task: is the name of a column of the store's"),
        (lambda extra: extra.create_dataset("new", data=[1]), "new: 1 rows, but there are 2 ids"),
        (lambda extra: extra.create_dataset("new", data=np.zeros(2, "f4")), "must be text, int64, float64 or bool"),
        (lambda extra: extra.create_group("new"), "extra/new: must be a dataset"),
    ],
)
def test_own_columns_that_were_tampered_with_are_refused(tmp_path, change, message):
    path = _write(tmp_path, episodes={"id": ["a", "b"], "scene": ["x", "y"], "run": [1, 2]})
    with h5py.File(path, "r+") as file:
        change(file["episodes/extra"])
    with pytest.raises(FeatureError, match=message):
        open_features(path)


def test_stores_without_own_columns_are_as_before(store):
    with open_features(store[0]) as file:
        assert file.attrs["schema"] == "mnprobe.features/1"
        assert file.extra_columns == ()
    with h5py.File(store[0]) as file:
        assert set(file["episodes"]) == {"id", "task", "instruction", "partition", "variation", "success"}


def test_blocks_of_a_layer_must_fit_each_other(tmp_path):
    with FeatureWriter(tmp_path / "x.h5", Header(model="m", side="execution"), {"id": ["a", "b"]}) as writer:
        writer.append("e", np.zeros((2, 3)), lengths=[2], keyframe=np.zeros(2))
        with pytest.raises(FeatureError, match="with every block or with none"):
            writer.append("e", np.zeros((1, 3)), lengths=[1])
        with pytest.raises(FeatureError, match="rows of 4 numbers after rows of 3"):
            writer.append("e", np.zeros((1, 4)), lengths=[1], keyframe=np.zeros(1))
        with pytest.raises(FeatureError, match=r"lengths \[2\] do not add up to 1 rows"):
            writer.append("e", np.zeros((1, 3)), lengths=[2], keyframe=np.zeros(1))
        writer.append("e", np.zeros((1, 3)), lengths=[1], keyframe=np.zeros(1))


def test_every_flipped_byte_of_content_is_found(store, tmp_path):
    path = store[0]
    data = path.read_bytes()
    with h5py.File(path) as file:
        regions = {}
        for place in ("layers/e/values", "layers/clip/values"):
            chunk = file[place].id.get_chunk_info(0)
            regions[place] = (chunk.byte_offset, chunk.size)
        for place in (
            "episodes/id",
            "episodes/instruction",
            "episodes/success",
            "layers/e/offsets",
            "layers/e/keyframe",
        ):
            regions[place] = (file[place].id.get_offset(), file[place].id.get_storage_size())
    regions["attribute model_config"] = (data.index(b'{"width":6}'), 11)
    regions["superblock"] = (0, 48)
    generator = np.random.default_rng(0)
    damaged = tmp_path / "damaged.h5"
    tried = 0
    for place, (start, size) in regions.items():
        for position in generator.choice(size, min(size, 30), replace=False):
            broken = bytearray(data)
            broken[start + position] ^= 1 << generator.integers(8)
            damaged.write_bytes(broken)
            with pytest.raises(FeatureError, match=r"damaged\.h5"):
                verify(damaged)
            tried += 1
            if place.endswith("values"):  # found also by who only reads the rows
                with open_features(damaged) as file, pytest.raises(FeatureError, match="damaged values"):
                    file.layer(place.split("/")[1]).pooled("mean")
    assert tried > 150


def test_flips_anywhere_are_found_or_lie_in_unused_gaps(store, tmp_path):
    path = store[0]
    data = path.read_bytes()
    damaged = tmp_path / "damaged.h5"
    with open_features(path) as file:
        expected = {name: file.layer(name).values[:] for name in file.layers}, file.attrs, file.episodes
    for position in np.random.default_rng(1).choice(len(data), 250, replace=False):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        damaged.write_bytes(broken)
        try:
            verify(damaged)
        except FeatureError:
            continue
        with open_features(damaged) as file:  # nothing that anyone reads has changed
            assert file.attrs == expected[1]
            pd.testing.assert_frame_equal(file.episodes, expected[2])
            for name, values in expected[0].items():
                np.testing.assert_array_equal(file.layer(name).values[:], values)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(store, tmp_path, share):
    data = store[0].read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FeatureError, match=r"cut\.h5: .*(not an HDF5 file|truncated or damaged)"):
        open_features(cut)


def test_what_is_no_store_is_called_by_its_name(tmp_path):
    with pytest.raises(FeatureError, match="there is no such file"):
        open_features(tmp_path / "none.h5")
    with pytest.raises(FeatureError, match="this is a folder"):
        open_features(tmp_path)
    (tmp_path / "text.h5").write_text("hello there")
    with pytest.raises(FeatureError, match="not an HDF5 file"):
        open_features(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(FeatureError, match="without a 'schema' attribute"):
        open_features(tmp_path / "foreign.h5")


def _delete(place):
    def change(file):
        del file[place]

    return change


def _replace(place, **create):
    def change(file):
        del file[place]
        file.create_dataset(place, **create)

    return change


def _attribute(name, value):
    def change(file):
        file.attrs[name] = value

    return change


def _bytes_attribute(name, value):
    return _attribute(name, np.array(value, dtype=f"S{len(value)}"))


def _link(place, link):
    def change(file):
        del file[place]
        file[place] = link

    return change


def _virtual(file):
    del file["layers/e/values"]
    layout = h5py.VirtualLayout(shape=(30, 6), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(30, 6))
    file.create_virtual_dataset("layers/e/values", layout)


def _external(file):
    del file["layers/e/values"]
    file.create_dataset("layers/e/values", shape=(30, 6), dtype="f4", external=[("/etc/passwd", 0, 720)])


def _hole(file):
    del file["layers/e/values"]
    file.create_dataset("layers/e/values", shape=(30, 6), chunks=(30, 6), dtype="f4", fletcher32=True)


VLEN = h5py.string_dtype()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _bytes_attribute("schema", b"mnprobe.features/9"),
            "schema 'mnprobe.features/9'; this version of mnprobe reads",
        ),
        (_bytes_attribute("side", b"up"), "side must be understanding or execution, found 'up'"),
        (_attribute("step", -4), "step must be >= 0, found -4"),
        (_attribute("step", 1.5), "attribute 'step' must be one number"),
        (_attribute("model", [1, 2]), "attribute 'model' must be one text"),
        (_attribute("model", "variable length"), "attribute 'model' must be one text"),
        (_bytes_attribute("model", b"\xff\xfe"), "not UTF-8"),
        (_attribute("surprise", 1), "unknown attributes surprise"),
        (_bytes_attribute("model_config", b"{"), "attribute model_config is not a JSON object"),
        (_bytes_attribute("model", b"another"), "do not match their digest"),
        (lambda file: file.attrs.__delitem__("created"), "attribute 'created' is missing"),
        (_delete("episodes"), "missing episodes"),
        (_delete("episodes/task"), "/episodes: missing task"),
        (_delete("layers/e/offsets"), "/layers/e: missing offsets"),
        (_delete("layers/e/values"), "/layers/e: missing values"),
        (_delete("layers/e/keyframe"), "do not match their digest"),
        (lambda file: file.create_group("more"), "unexpected more"),
        (lambda file: file["layers"].create_dataset("x", data=[1]), "/layers/x: must be a group"),
        (_replace("layers/e/offsets", data=np.array([0, 5, 20, 29])), "offsets: must rise from 0 to 30"),
        (_replace("layers/e/offsets", data=np.array([0, 20, 5, 30])), "offsets: must rise from 0 to 30"),
        (_replace("layers/e/offsets", data=np.array([0, 5, 30])), "offsets: must have 4 entries, found 3"),
        (_replace("layers/e/offsets", data=np.zeros(4)), "offsets: must be int64, found float64"),
        (_replace("layers/e/keyframe", data=np.zeros(7, np.int32)), "keyframe: must have 30 entries, found 7"),
        (_replace("layers/e/values", data=np.zeros((30, 6))), "values: must be .*float32 or float16, found float64"),
        (_replace("layers/e/values", data=np.zeros((30, 6), "f4")), "must be chunked with fletcher32"),
        (_replace("layers/e/values", data=np.zeros(30, "f4")), r"must have 2 dimension\(s\)"),
        (
            _replace("layers/e/values", data=np.zeros((30, 6), "f4"), chunks=True, fletcher32=True, compression="gzip"),
            "no other filter",
        ),
        (_replace("episodes/success", data=np.array([1, 0, 5], np.int8)), r"success\[2\]: must be 1, 0 or -1"),
        (_replace("episodes/success", data=np.array([1, 0], np.int8)), "success: 2 rows, but there are 3 ids"),
        (_replace("episodes/success", data=np.array([1, 0, 1])), "success: must be int8, found int64"),
        (_replace("episodes/success", data=np.ones(3, np.int8), chunks=(3,)), "must be stored in one plain piece"),
        (_replace("episodes/id", data=np.array([b"a", b"a", b"c"])), "'a' occurs 2 times"),
        (_replace("episodes/id", data=np.array([b"a", b"\xff", b"c"])), r"/episodes/id\[1\]: a NUL or not UTF-8"),
        (_replace("episodes/id", data=["a", "b", "c"], dtype=VLEN), "entries of variable length"),
        (_replace("episodes/task", data=["a", "b", "c"], dtype=VLEN), "entries of variable length"),
        (_link("layers/e", h5py.ExternalLink("other.h5", "/x")), "/layers/e: a link to another place"),
        (_link("layers/e/values", h5py.SoftLink("/layers/clip/values")), "values: a link to another place"),
        (_link("episodes", h5py.ExternalLink("other.h5", "/x")), "/episodes: a link to another place"),
        (_virtual, "its data lie outside this file"),
        (_external, "its data lie outside this file"),
        (_hole, "0 of 1 blocks are there"),
    ],
)
def test_a_store_that_was_tampered_with_is_refused(store, tmp_path, change, message):
    path = shutil.copy(store[0], tmp_path / "changed.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FeatureError, match=message):
        open_features(path)


def test_values_that_are_not_finite_are_found_by_who_reads_them(store, tmp_path):
    path = shutil.copy(store[0], tmp_path / "nan.h5")
    with h5py.File(path, "r+") as file:
        file["layers/e/values"][7, 2] = np.inf
    with open_features(path) as file:
        with pytest.raises(FeatureError, match=r"e/values\[7, 2\]: the value is inf, not finite"):
            file.layer("e").pooled("mean")
        file.layer("clip").pooled("mean")
    with pytest.raises(FeatureError, match=r"e/values\[7, 2\]: the value is inf, not finite"):
        verify(path)


def test_unknown_layers_and_episodes_get_a_hint(store):
    with open_features(store[0]) as file:
        with pytest.raises(FeatureError, match=r"unknown layer 'clup'. Did you mean 'clip'\? Known: clip, e"):
            file.layer("clup")
        with pytest.raises(FeatureError, match=r"episode 3 is outside 0\.\.2"):
            file.layer("e").tokens(3)


def test_a_store_is_not_begun_or_gone_on_with_on_a_full_disk(tmp_path, monkeypatch):
    free = iter([2**40, 2**40, 1000])  # beginning, first block, second block
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))

    def write():
        with FeatureWriter(
            tmp_path / "u.h5", Header(model="m", side="understanding"), {"id": list(map(str, range(512)))}
        ) as writer:
            for _ in range(2):
                writer.append("u", np.zeros((CHUNK_ROWS, 4), np.float32))

    with pytest.raises(OSError, match=r"No space left on device .*u\.h5"):
        write()
    assert not list(tmp_path.iterdir())


def test_the_training_is_kept_where_there_is_one_and_older_stores_have_none(tmp_path, store):
    with open_features(store[0]) as file:
        assert file.training == file.attrs["training"] == ""
    with h5py.File(store[0]) as raw:
        assert "training" not in raw.attrs  # the very file that was written before there were names of trainings
    path = write_features(
        tmp_path / "joint.h5",
        model="arp-joint",
        side="execution",
        training="joint",
        layers={"e": np.eye(2)},
        episodes={"id": ["a", "b"]},
    )
    with open_features(path) as file:
        assert file.training == "joint"
    verify(path)
    assert "training joint" in format_description(describe_features(path))
    with h5py.File(path, "r+") as raw:
        raw.attrs.modify("training", np.bytes_(b"other"))
    with pytest.raises(FeatureError, match="do not match their digest"):
        open_features(path)


class _NoArray:
    pass


def test_layers_of_every_make_are_the_same_store(tmp_path):
    rng = np.random.default_rng(0)
    rows, tokens = rng.integers(0, 16, (5, 3)).astype(np.float32), rng.integers(0, 16, (5, 4, 3)).astype(np.float32)
    ragged = [rng.integers(0, 16, (n, 3)).astype(np.float32) for n in (1, 4, 2, 0, 3)]

    def read(values):
        path = write_features(
            tmp_path / "x.h5", model="m", side="execution", episodes={"id": list("abcde")}, layers={"e": values}
        )
        layer = open_features(path).layer("e")
        return [layer.tokens(i).tolist() for i in range(5)]

    makes = {
        "numpy": lambda x: x,
        "float64": lambda x: x.astype(float),
        "big-endian": lambda x: x.astype(">f4"),
        "uint8": lambda x: x.astype("u1"),
        "tensor": torch.tensor,
        "bfloat16": lambda x: torch.tensor(x).bfloat16(),
        "gradient": lambda x: torch.tensor(x, requires_grad=True),
        "list": lambda x: x.tolist(),
        "list of arrays": list,
        "list of tensors": lambda x: [torch.tensor(one).bfloat16().requires_grad_() for one in x],
    }
    for name, make in makes.items():
        assert read(make(rows)) == [[row] for row in rows.tolist()], name
        assert read(make(tokens)) == tokens.tolist(), name
    assert read(pd.DataFrame(rows, index=range(9, 14))) == [[row] for row in rows.tolist()]
    for make in (list, lambda x: [torch.tensor(one) for one in x], lambda x: [pd.DataFrame(one) for one in x]):
        assert read(make(ragged)) == [one.tolist() for one in ragged]
    for wrong in (rows[0], torch.zeros(2, 2, 2, 2), [_NoArray()] * 5, [[["a"]]] * 5):
        with pytest.raises(FeatureError, match="layers/e"):
            read(wrong)
