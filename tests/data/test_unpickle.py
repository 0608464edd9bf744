"""The restricted reader gives the same data as free unpickling."""

import base64
import datetime
import json
import pickle
import zlib
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnprobe.core.errors import ConfigError
from mnprobe.data.pickling import dumps
from mnprobe.data.records import ArrayRecord, Global, Malformed, Other, Record, make_array
from mnprobe.data.unpickle import loads

# A process of its own makes a Demo with everything in it that numpy and RLBench were seen to write.
MAKE = r"""
def observation(i):
    item = Observation()
    item.joint_velocities = np.arange(7.0) / 3 + i
    item.gripper_open = float(i % 2)
    item.gripper_pose = np.array([0.1, -0.0, 5e-324, 1e308, 0, 0, 1.0])
    item.ignore_collisions = np.array(1.0)
    item.fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    item.big_endian = np.arange(4, dtype=">i4")
    item.empty = np.zeros((0, 3))
    item.bits = np.array([True, False])
    item.bytes = np.arange(5, dtype=np.uint8)
    item.strided = np.arange(10.0, dtype=np.float32)[::2]
    item.scalars = [np.float64(0.1), np.int64(-7), np.bool_(True), np.uint32(9)]
    item.front_rgb = None
    item.misc = {"front_camera_near": 0.01, "joint_poses": [np.zeros(2), np.ones(2)], "object_ids": {17: "drawer"},
                 "text": "Stra\u00dfe \U0001f916", "blob": b"\x00\xff", "nothing": b"", "big": 2**40, "less": -3}
    return item

demo = Demo()
demo._observations = [observation(i) for i in range(3)]
demo._observations.append(demo._observations[0])
demo.random_seed = ("MT19937", np.arange(624, dtype=np.uint32), 3, 0, 0.25)
frozen = np.arange(3.0)
frozen.flags.writeable = False
demo.frozen = frozen
for protocol in (2, 3, 4, 5):
    for spelling in ("new", "old"):
        content = pickle.dumps(demo, protocol)
        if spelling == "old":
            for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
                old = name.replace(b"._core", b".core")
                content = content.replace(b"\x8c" + bytes([len(name)]) + name, b"\x8c" + bytes([len(old)]) + old)
                content = content.replace(b"c" + name + b"\n", b"c" + old + b"\n")
            if content[2:3] == b"\x95":  # one frame: its length has changed
                content = content[:3] + (len(content) - 11).to_bytes(8, "little") + content[11:]
        assert (b"numpy._core" in content) == (spelling == "new")
        open(f"{sys.argv[1]}/{protocol}-{spelling}.pkl", "wb").write(content)
print(json.dumps({"all": digest(demo)}))
"""
DIGEST = r"print(json.dumps([digest(pickle.load(open(path, 'rb'))) for path in sys.argv[1:]]))"


def test_every_protocol_and_numpy_spelling_gives_the_data_that_were_pickled(tmp_path, run_python, digest_of_file):
    made = run_python(MAKE, tmp_path)["all"]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    assert made[0] > 100
    for file in files:
        assert digest_of_file(file) == made, file.name


def test_real_files_are_read_bit_for_bit_as_free_unpickling_reads_them(rlbench_data, run_python, digest_of_file):
    files = sorted(rlbench_data.rglob("low_dim_obs.pkl"))
    assert len(files) == 10
    ours = [digest_of_file(file) for file in files]
    assert ours == run_python(DIGEST, *files)
    assert sum(count for count, _ in ours) > 50_000


def test_the_observation_in_the_wrong_file_is_read_bit_for_bit_too(rlbench_data, run_python, digest_of_file):
    file = rlbench_data / "rlbench-native/reach_target/variation0/variation_descriptions.pkl"
    assert [digest_of_file(file)] == run_python(DIGEST, file)


# Everything that numpy writes in ways of its own. tests/golden/numpy-pickles.json holds what older versions wrote:
# {numpy version: {protocol: base64 of zlib of pickle.dumps({"numbers": numbers, "inert": inert}, protocol)}}, made by
# running this text with that version installed, without "random state" (which is large).
FORMS = """
import itertools
import numpy as np

numbers, inert = {}, {}
for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"):
    for order in "<>":
        numbers[order + code] = np.arange(6).reshape(2, 3).astype(order + code)
        numbers[order + code + " scalar"] = np.dtype(order + code).type(1)
for ndim in range(6):
    shape = (2, 3, 4)[:ndim] + (1,) * (ndim - 3)
    base = np.arange(float(np.prod(shape, dtype=int))).reshape(shape)
    for axes in itertools.permutations(range(ndim)) if ndim < 5 else [(4, 3, 2, 1, 0), (2, 0, 1, 4, 3)]:
        numbers["axes %s" % (axes,)] = base.transpose(axes)
numbers["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
numbers["strided"] = np.arange(24.0).reshape(4, 6)[::2, ::3]
numbers["backwards"] = np.arange(5)[::-1]
numbers["broadcast"] = np.broadcast_to(np.arange(3.0), (2, 3))
numbers["empty"] = np.zeros((0, 3))
numbers["empty turned"] = np.zeros((2, 0, 3)).transpose(2, 0, 1)
numbers["image turned"] = np.arange(90, dtype=np.uint8).reshape(6, 5, 3).transpose(2, 0, 1)
numbers["batch turned"] = np.arange(180, dtype=np.float32).reshape(2, 6, 5, 3).transpose(0, 3, 1, 2)
numbers["metadata"] = np.arange(3).astype(np.dtype("<f8", metadata={"unit": "m"}))
numbers["matrix"] = np.arange(3.0).view(np.matrix)
numbers["frozen"] = np.arange(3.0)
numbers["frozen"].flags.writeable = False
inert["structure"] = np.zeros(2, [("a", "<f8"), ("b", "<i4", (2,))])
inert["aligned"] = np.zeros(2, np.dtype([("a", "u1"), ("b", "<i4")], align=True))
inert["record"] = np.rec.array([(1, 2.0)], dtype=[("a", "<i4"), ("b", "<f8")])
inert["date"] = np.zeros(2, "<M8[ns]")
inert["duration"] = np.zeros(2, "<m8[D]")
inert["date scalar"] = np.datetime64("2020-01-01")
inert["complex"] = np.ones(2, complex)
inert["complex scalar"] = np.complex128(1j)
inert["text"] = np.array(["ab", "c"])
inert["bytes"] = np.array([b"ab", b"c"])
inert["void"] = np.zeros(2, "V3")
inert["objects"] = np.array([None, 1, "a"], object)
inert["masked"] = np.ma.array([1.0, 2.0], mask=[0, 1])
inert["generator"] = np.random.default_rng(0)
inert["random state"] = np.random.RandomState(0)
"""
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "numpy-pickles.json").read_text())


@pytest.fixture(scope="module")
def forms():
    made = {}
    exec(FORMS, made)  # noqa: S102 - the text above
    return made


def _check_forms(content, forms, inert):
    found = loads(content, source="test", allow="demo")
    assert len(found["numbers"]) > 90
    for name, made in forms["numbers"].items():
        value = found["numbers"][name]
        array = make_array(value) if isinstance(value, ArrayRecord) else np.asarray(value)
        np.testing.assert_array_equal(array, np.asarray(made), strict=isinstance(value, ArrayRecord), err_msg=name)
        assert not isinstance(value, ArrayRecord) or array.dtype == made.dtype, name
    assert set(found["inert"]) == inert
    for name, value in found["inert"].items():
        assert isinstance(value, ArrayRecord | Other), name
        if isinstance(value, ArrayRecord):
            with pytest.raises(Malformed):
                make_array(value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_form_of_this_numpy_is_read_or_inert(forms, protocol):
    content = pickle.dumps({"numbers": forms["numbers"], "inert": forms["inert"]}, protocol)
    _check_forms(content, forms, set(forms["inert"]))


@pytest.mark.parametrize(("version", "protocol"), [(v, p) for v, held in GOLDEN.items() for p in held])
def test_every_form_of_older_numpys_is_read_or_inert(forms, version, protocol):
    content = zlib.decompress(base64.b64decode(GOLDEN[version][protocol]))
    assert (b"numpy._core" in content) == (not version.startswith("1."))
    _check_forms(content, forms, set(forms["inert"]) - {"random state"})


def test_an_order_of_axes_that_fits_no_shape_is_malformed():
    record = loads(pickle.dumps(np.zeros((2, 3, 4)).transpose(1, 0, 2), 5), source="test", allow="demo")
    if record.axes is None:  # numpy before 2.3
        record.axes, record.fortran = (1, 0, 2), False
        record.shape = (2, 3, 4)
    assert make_array(record).shape == (3, 2, 4)
    for axes, text in [
        ((0, 1), "does not fit its shape"),
        ((0, 1, 1), "does not fit"),
        ((0, 1, 3), "does not fit"),
        ((0, 1, -1), "does not fit"),
        ((0.0, 1, 2), "not a tuple of whole numbers"),
        ([0, 1, 2], "not a tuple of whole numbers"),
        ((True, False, 2), "not a tuple of whole numbers"),
    ]:
        record.axes = axes
        with pytest.raises(Malformed, match=text):
            make_array(record)


def test_texts_of_numpys_are_texts():
    for protocol in (2, 5):
        found = loads(pickle.dumps([np.str_("öffne"), np.str_("")], protocol), source="test")
        assert found == ["öffne", ""]
        assert {type(text) for text in found} == {str}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_of_pythons_own_that_no_field_needs_are_kept_as_nothing(protocol):
    made = [
        1j,
        slice(1, 2),
        range(3),
        bytearray(b"ab") if protocol < 5 else 2j,
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        datetime.timedelta(1),
        PurePosixPath("/a/b"),
        Decimal("1.5"),
        deque([1, [2]]),
        defaultdict(int, a=1),
        Counter("ab"),
    ]
    found = loads(pickle.dumps([*made, "end"], protocol), source="test", allow="demo")
    assert found[-1] == "end"
    assert {type(value) for value in found[:-1]} == {Other}


def test_paths_as_python_313_names_them_are_kept_as_nothing():
    found = loads(b"\x80\x02cpathlib._local\nPurePosixPath\n(X\x02\x00\x00\x00/atR.", source="test", allow="demo")
    assert type(found) is Other


def test_an_ordered_dictionary_is_a_dictionary():
    made = OrderedDict(b=1, a=np.arange(2.0))
    found = loads(pickle.dumps(made, 4), source="test", allow="demo")
    assert list(found) == ["b", "a"]
    assert type(found) is dict


def _same(found, made):
    """Equal values of equal types all the way down; arrays are compared by the reader of records."""
    assert type(found) is type(made)
    if isinstance(made, list | tuple):
        assert len(found) == len(made)
        for one, other in zip(found, made, strict=True):
            _same(one, other)
    elif isinstance(made, dict):
        assert list(found) == list(made)
        for key in made:
            _same(found[key], made[key])
    else:
        assert found == made or (found != found and made != made)


_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
_keys = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20) | st.binary(max_size=20)
_values = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=5) | st.lists(inner, max_size=5).map(tuple) | st.dictionaries(_keys, inner, max_size=5)
    ),
    max_leaves=25,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_values, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_are_read_as_they_were_pickled(value, protocol):
    _same(loads(pickle.dumps(value, protocol), source="test"), value)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_values)
def test_plain_values_are_written_so_that_pickle_reads_them(value):
    _same(pickle.loads(dumps(value)), value)


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<i8", ">i4", "<u4", "|u1", "|b1"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_arrays_are_written_so_that_numpy_reads_them(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    (found, again) = pickle.loads(dumps([array, array.T]))
    native = array.astype(array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found, native, strict=True)
    np.testing.assert_array_equal(again, native.T, strict=True)


def test_texts_and_names_are_written_once():
    once, often = dumps([np.zeros(7)]), dumps([np.zeros(7)] * 11)
    assert (len(often) - len(once)) / 10 < 56 + 90  # the bytes of the array, and little more


def test_what_cannot_be_written_is_refused():
    for value, text in (
        (object(), "cannot write a object"),
        (2**70, "more than 64 bits"),
        (np.zeros(2, complex), "complex"),
    ):
        with pytest.raises(ConfigError, match=text):
            dumps(value)


def test_cycles_are_read():
    cycle = []
    cycle.append({"back": cycle})
    found = loads(pickle.dumps(cycle, 4), source="test")
    assert found[0]["back"] is found


def test_one_object_named_twice_stays_one():
    shared = [1]
    found = loads(pickle.dumps([shared, shared], 4), source="test")
    assert found[0] is found[1]


def test_records_say_what_they_are_without_showing_their_content():
    record = Record(Global.DEMO)
    record.attributes["self"] = record
    assert repr(record) == "Record(Demo, 1 attributes)"
    assert isinstance(loads(dumps(np.zeros(1)), source="test", allow="demo"), ArrayRecord)
