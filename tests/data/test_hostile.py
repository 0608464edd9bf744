"""Hostile pickles: nothing they name is run or imported, and each gives one DataError."""

import builtins
import contextlib
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnprobe.core.errors import DataError
from mnprobe.data.low_dim import read_low_dim
from mnprobe.data.pickling import dumps
from mnprobe.data.records import ArrayRecord, DtypeRecord, Global, Malformed, Other, Record, make_array
from mnprobe.data.unpickle import MAX_BYTES, RefusedGlobal, load, loads


class Call:
    """Unpickled freely, this calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _stack_global(module, name):
    def text(value):
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return text(module) + text(name) + b"\x93"


def _demo(body):
    """Protocol 4 bytes around opcodes."""
    return b"\x80\x04" + body + b"."


DEMO = _stack_global("rlbench.demo", "Demo")
OBSERVATION = _stack_global("rlbench.backend.observation", "Observation")
RECONSTRUCT = _stack_global("numpy.core.multiarray", "_reconstruct")
NDARRAY = _stack_global("numpy", "ndarray")
DTYPE = _stack_global("numpy", "dtype")
F8 = DTYPE + b"\x8c\x02f8\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
ARRAY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"

NAMED = {
    "os.system": ("posix", "system"),
    "builtins.eval": ("builtins", "eval"),
    "builtins.exec": ("builtins", "exec"),
    "builtins.getattr": ("builtins", "getattr"),
    "subprocess": ("subprocess", "Popen"),
    "an unknown module": ("not_there_at_all", "thing"),
    "dotted name": ("rlbench.demo", "Demo.__init__.__globals__"),
    "dotted module": ("rlbench.demo.Demo", "__init__"),
    "numpy load": ("numpy", "load"),
    "numpy f2py exec": ("numpy.f2py.crackfortran", "myeval"),
    "array reconstructor by another path": ("numpy", "core.multiarray._reconstruct"),
    "copyreg": ("copyreg", "_reconstructor"),
    "torch": ("torch.storage", "_load_from_bytes"),
    "empty name": ("", ""),
}


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("form", ["GLOBAL", "STACK_GLOBAL"])
def test_names_beyond_the_list_are_refused_with_file_module_and_name(case, form, tmp_path):
    module, name = NAMED[case]
    push = f"c{module}\n{name}\n".encode() if form == "GLOBAL" else _stack_global(module, name)
    path = tmp_path / "low_dim_obs.pkl"
    path.write_bytes(_demo(push + b"X\x02\x00\x00\x00ls\x85R"))
    with pytest.raises(RefusedGlobal) as caught:
        read_low_dim(path)
    assert (caught.value.module, caught.value.name) == (module, name)
    assert str(path) in str(caught.value)
    assert repr(module) in str(caught.value)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_real_attack_pickles_run_nothing(tmp_path, protocol):
    witness = tmp_path / "ran"
    attacks = [
        Call(os.system, f"touch {witness}"),
        Call(os.mkdir, str(witness)),
        Call(builtins.eval, f"open({str(witness)!r}, 'w')"),
        Call(builtins.exec, f"open({str(witness)!r}, 'w')"),
        Call(subprocess.check_output, ["touch", str(witness)]),
        Call(zipfile.ZipFile, str(witness), "w"),
        {"_observations": [Call(os.mkdir, str(witness))]},
    ]
    for attack in attacks:
        content = pickle.dumps(attack, protocol)
        for allow in ("demo", "plain"):
            with pytest.raises(RefusedGlobal, match="Nothing was run"):
                loads(content, source="attack", allow=allow)
        assert not witness.exists()
    pickle.loads(pickle.dumps(attacks[1], protocol))
    assert witness.exists()  # the attack itself is a real one


def test_no_import_call_or_open_happens_while_hostile_files_are_read(tmp_path, run_python):
    for number, attack in enumerate(
        [Call(os.system, "true"), Call(builtins.eval, "1"), Call(__import__, "antigravity")]
    ):
        (tmp_path / f"{number}.pkl").write_bytes(pickle.dumps(attack))
    (tmp_path / "9.pkl").write_bytes(pickle.dumps({"fine": [1]}))
    seen = run_python(
        """
from pathlib import Path
from mnprobe.data.unpickle import load
from mnprobe.core.errors import DataError
events = []
sys.addaudithook(lambda event, arguments: events.append([event, str(arguments[0]) if arguments else ""]))
refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load(path, allow="demo")
    except DataError:
        refused += 1
print(json.dumps([refused, list(events)]))
""",
        tmp_path,
    )
    assert seen[0] == 3
    assert {event for event, _ in seen[1]} <= {"open", "os.listdir", "os.scandir", "pathlib.Path.iterdir"}
    assert {argument for event, argument in seen[1] if event == "open"} == {str(path) for path in tmp_path.iterdir()}


FORBIDDEN = {
    "PERSID": b"Pname\n",
    "BINPERSID": b"K\x01Q",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "INST": b"(iposix\nsystem\n",
    "OBJ": b"(K\x01o",
    "NEWOBJ_EX": b"K\x01)}\x92",
    "EMPTY_SET": b"\x8f",
    "FROZENSET": b"(\x91",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"K\x01\x98",
    "INT": b"I1\n",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "STRING": b"S'a'\n",
    "GET": b"g0\n",
    "DUP": b"K\x012",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_opcodes_that_data_have_no_use_for_are_refused_by_name(name):
    with pytest.raises(DataError, match=rf"some file: not a readable pickle at byte \d+: opcode {name} "):
        loads(_demo(FORBIDDEN[name]), source="some file", allow="demo")


MALFORMED = {
    "empty file": (b"", "protocol mark"),
    "no pickle": (b"PK\x03\x04 a zip", "protocol mark"),
    "protocol 0": (b"I1\n.", "protocol mark"),
    "protocol 6": (b"\x80\x06N.", "protocol 6"),
    "no end": (b"\x80\x04N", "truncated"),
    "cut text": (b"\x80\x04X\xff\x00\x00\x00abc.", "truncated"),
    "text of 16 exabytes": (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "truncated"),
    "bytes of 4 gigabytes": (b"\x80\x04B\xff\xff\xff\xff.", "truncated"),
    "bytearray of 16 exabytes": (b"\x80\x05\x96" + b"\xff" * 8 + b".", "truncated"),
    "frame beyond the end": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "truncated"),
    "more after the end": (_demo(b"N") + b"N.", "follows the end"),
    "two values": (_demo(b"NN"), "several values"),
    "no value": (_demo(b""), "or with none"),
    "open mark": (_demo(b"(N"), "several values|none"),
    "stack underflow": (_demo(b"\x87"), "no value to work on"),
    "pop through a mark": (_demo(b"N(0"), "no value to work on"),
    "tuple without mark": (_demo(b"t"), "no mark"),
    "huge memo index": (_demo(b"Nr\x80\x96\x98\x00"), "memo index 10000000"),
    "memo of nothing": (_demo(b"\x94"), "no value"),
    "memo never stored": (_demo(b"h\x07"), "7 was never stored"),
    "huge memo fetch": (_demo(b"j\xff\xff\xff\xff"), "was never stored"),
    "integer of 255 bytes": (_demo(b"\x8a\xff" + b"\x01" * 255), "integer of 255 bytes"),
    "append to no list": (_demo(b"NNa"), "no list"),
    "items of no dictionary": (_demo(b"](K\x01K\x02u"), "no dictionary"),
    "odd items": (_demo(b"}(K\x01u"), "without a value"),
    "tuple as a key": (_demo(b"}K\x01\x85K\x01s"), "key is a tuple"),
    "list as a key": (_demo(b"}]K\x01s"), "key is a list"),
    "record as a key": (_demo(b"}" + DEMO + b")\x81K\x01s"), "key is a Record"),
    "name as a key": (_demo(b"}" + DEMO + b"K\x01s"), "key is a Global"),
    "long key": (_demo(b"}X\xe9\x03\x00\x00" + b"a" * 1001 + b"K\x01s"), "too long"),
    "no UTF-8": (_demo(b"\x8c\x01\xff"), "not UTF-8"),
    "endless name": (_demo(b"c" + b"a" * 400), "name does not end"),
    "name that is a number": (_demo(b"K\x01K\x02\x93"), "name is not a text"),
    "name that is a list": (_demo(b"]]\x93"), "name is not a text"),
    "call of a number": (_demo(b"K\x01)R"), "call of something that is no function"),
    "call of a Demo": (_demo(DEMO + b")R"), "call of Demo"),
    "call without a tuple": (_demo(DTYPE + b"]R"), "arguments are not a tuple"),
    "object of a list": (_demo(b"])\x81"), "no Demo or Observation"),
    "object of an array type": (_demo(NDARRAY + b")\x81"), "no Demo or Observation"),
    "object with arguments": (_demo(DEMO + b"K\x01\x85\x81"), "no Demo or Observation"),
    "build of a number": (_demo(b"K\x01}b"), "something that has none"),
    "build of a function": (_demo(RECONSTRUCT + b"}b"), "something that has none"),
    "build with a list": (_demo(DEMO + b")\x81]b"), "not a dictionary of named attributes"),
    "build with slots": (_demo(DEMO + b")\x81N}\x86b"), "not a dictionary of named attributes"),
    "build with numbers as names": (_demo(DEMO + b")\x81}K\x01K\x01sb"), "not a dictionary of named attributes"),
    "array of another shape": (
        _demo(RECONSTRUCT + NDARRAY + b"K\x05\x85C\x01b\x87R"),
        "arguments that real files do not",
    ),
    "array of another class": (_demo(RECONSTRUCT + DEMO + b"K\x00\x85C\x01b\x87R"), "arguments that real files do not"),
    "array state of a list": (_demo(ARRAY + b"]b"), "carries a state that is not"),
    "type state with fields": (
        _demo(DTYPE + b"\x8c\x02f8\x89\x88\x87R(K\x03\x8c\x01<N)}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"),
        "a state that plain numbers do not have",
    ),
    "latin-1 beyond 255": (
        _demo(_stack_global("_codecs", "encode") + b"\x8c\x02\xc4\x80\x8c\x06latin1\x86R"),
        "beyond 255",
    ),
    "another codec": (
        _demo(_stack_global("_codecs", "encode") + b"\x8c\x01a\x8c\x03zip\x86R"),
        "call of bytes as text",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_proper_pickle_gives_one_error_with_the_files_name(case):
    content, text = MALFORMED[case]
    with pytest.raises(DataError, match=f"some file: not a readable pickle at byte .*({text})"):
        loads(content, source="some file", allow="demo")


def _array(dtype=b"f8", order="<", shape=(2,), data=bytes(16), fortran=False):
    record = DtypeRecord(dtype.decode() if isinstance(dtype, bytes) else dtype, order)
    return ArrayRecord(dtype=record, shape=shape, data=data, fortran=fortran)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (_array(dtype="O8", order="|"), "'O8' is not one of"),
        (_array(dtype="O"), "'O' is not one of"),
        (_array(dtype="V16"), "'V16' is not one of"),
        (_array(dtype="f8,O"), "is not one of"),
        (_array(dtype="S16"), "'S16'"),
        (_array(dtype="M8"), "'M8'"),
        (_array(order="="), "byte order '='"),
        (_array(order=""), "byte order ''"),
        (_array(shape=(2**40, 2**21)), "needs .* bytes, has 16"),
        (_array(shape=(2**62,)), "something else than sizes"),
        (_array(shape=(-2,)), "something else than sizes"),
        (_array(shape=(2.0,)), "something else than sizes"),
        (_array(shape=(True, 2)), "something else than sizes"),
        (_array(shape=[2]), "not a tuple"),
        (_array(shape=(1,) * 33), "at most 8"),
        (_array(shape=(3,)), "needs 24 bytes, has 16"),
        (_array(shape=(1,)), "needs 8 bytes, has 16"),
        (_array(data="text"), "not bytes"),
        (_array(data=None), "not bytes"),
        (_array(fortran=1), "memory order"),
        (ArrayRecord(), "no element type"),
    ],
)
def test_arrays_that_lie_about_themselves_are_not_made(record, text):
    with pytest.raises(Malformed, match=text):
        make_array(record)


def test_a_lying_array_in_a_file_gives_file_field_and_frame(tmp_path):
    frames = [Record(Global.OBSERVATION, {"gripper_open": 1.0, "gripper_pose": np.zeros(7)}) for _ in range(3)]
    content = dumps(Record(Global.DEMO, {"_observations": frames}))
    assert content.count(b"K\x07\x85") == 0  # sizes are written as four bytes here
    shape = b"(J\x07\x00\x00\x00t"
    cut = content.rindex(shape)
    path = tmp_path / "low_dim_obs.pkl"
    path.write_bytes(content[:cut] + shape.replace(b"\x07", b"\x70") + content[cut + len(shape) :])
    with pytest.raises(DataError, match=rf"{path}: field gripper_pose of frame 2: a numpy array of shape \(112,\)"):
        read_low_dim(path)


def test_an_object_array_is_refused(run_python, tmp_path):
    path = tmp_path / "low_dim_obs.pkl"
    run_python(
        """
demo, seen = Demo(), Observation()
seen.gripper_open = np.array([print], dtype=object)
demo._observations = [seen, seen]
pickle.dump(demo, open(sys.argv[1], "wb"))
print(0)
""",
        path,
    )
    with pytest.raises(DataError, match="'builtins' 'print'"):
        read_low_dim(path)


OTHERS = [
    ("numpy.ma.core", "_mareconstruct"),
    ("numpy.ma", "MaskedArray"),
    ("numpy.rec", "recarray"),
    ("numpy", "record"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.random._pcg64", "PCG64"),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
    ("numpy._core._internal", "_convert_to_stringdtype_kwargs"),
    ("builtins", "complex"),
    ("__builtin__", "set"),
    ("pathlib", "PosixPath"),
    ("collections", "defaultdict"),
]


@pytest.mark.parametrize(("module", "name"), OTHERS)
def test_what_no_field_needs_is_kept_without_being_imported_or_called(module, name):
    push = _stack_global(module, name)
    for body in (
        push + b"X\x02\x00\x00\x00ls\x85R",  # called
        push + b")\x81",  # made
        push + b")R}\x8c\x0a__reduce__\x8c\x02lssb",  # given a state
        push + b"(" + push + b")RtR]b",
        push + b")RNa(K\x01K\x02eK\x01K\x02s(]K\x01u",  # filled, with a key that is no key
        RECONSTRUCT + push + b"K\x00\x85C\x01b\x87R(K\x01(K\x02tNNNtb",
    ):
        found = loads(_demo(body), source="some file", allow="demo")
        assert type(found) is Other
        with pytest.raises(DataError, match=r"key is a Other|no dictionary|no list"):
            loads(_demo(b"}" + body + b"K\x01s"), source="some file", allow="demo")
        with pytest.raises(RefusedGlobal):
            loads(_demo(body), source="some file", allow="plain")
    with pytest.raises(DataError, match="arguments are not a tuple"):
        loads(_demo(push + b"]R"), source="some file", allow="demo")


@pytest.mark.parametrize(
    "arguments",
    [
        b")",
        b"K\x05\x85",
        b"(C\x10" + bytes(16) + F8 + b"K\x02\x85\x8c\x01Zt",
        b"(C\x10" + bytes(16) + F8 + b"K\x02\x85]t",
        b"(C\x10" + bytes(16) + F8 + b"K\x02\x85\x8c\x01KK\x00t",
        b"(C\x10" + bytes(16) + F8 + b"K\x02\x85\x8c\x01KK\x01\x85t",
        b"(C\x10" + bytes(16) + F8 + b"K\x03\x85\x8c\x01KK\x00\x85t",
        b"(C\x10" + bytes(16) + F8 + b"K\x02\x8c\x01Ct",
        b"(" + b"N" * 12 + b"t",
    ],
)
def test_a_buffer_of_an_unknown_form_is_an_array_that_cannot_be_made(arguments):
    record = loads(
        _demo(_stack_global("numpy._core.numeric", "_frombuffer") + arguments + b"R"), source="x", allow="demo"
    )
    with pytest.raises(Malformed):
        make_array(record)


def test_attributes_of_any_name_are_only_data():
    names = ["__class__", "__reduce__", "__setstate__", "__dict__", "attributes", "kind", "_observations"]
    found = loads(dumps(Record(Global.DEMO, dict.fromkeys(names, 1))), source="test", allow="demo")
    assert type(found) is Record
    assert found.kind is Global.DEMO
    assert found.attributes == dict.fromkeys(names, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04Nr\x80\x96\x98\x00.",
        b"\x80\x04" + b"\x5d\x94" + b"(" + b"h\x00" * 200 + b"e.",
        # each level holds the one before twice: a walk over it would take 2^400 steps
        b"\x80\x04K\x01" + b"".join(b"\x94j" + struct.pack("<I", i) + b"\x86" for i in range(400)) + b".",
    ],
)
def test_small_pickles_take_little_memory_and_time(content):
    tracemalloc.start()
    with contextlib.suppress(DataError):
        loads(content, source="bomb", allow="demo")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_doubling_tuple_as_a_key_is_refused_unhashed():
    doubling = b"K\x01" + b"".join(b"\x94j" + struct.pack("<I", i) + b"\x86" for i in range(400))
    with pytest.raises(DataError, match="key is a tuple"):
        loads(b"\x80\x04}" + doubling + b"K\x01s.", source="bomb", allow="demo")


@pytest.mark.parametrize("level", [b"\x85", b"]", DEMO], ids=["tuples", "lists", "records"])
def test_fifty_thousand_levels_neither_overflow_nor_survive(level, tmp_path):
    depth = 50_000
    if level == b"\x85":
        body = b"N" + level * depth
    elif level == b"]":
        body = b"]" * depth + b"a" * (depth - 1)
    else:
        body = DEMO + b"\x940" + b"h\x00)\x81}\x8c\x01a" * depth + b"N" + b"sb" * depth
    found = loads(_demo(body), source="deep", allow="demo")
    assert found is not None
    del found
    path = tmp_path / "low_dim_obs.pkl"
    path.write_bytes(_demo(body))
    with pytest.raises(DataError, match=f"{path}: "):
        read_low_dim(path)


def test_one_text_cannot_be_turned_into_bytes_again_and_again():
    text = b"X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"\x940"
    encode = _stack_global("_codecs", "encode") + b"\x940"
    body = text + encode + b"](" + b"h\x01h\x00\x8c\x06latin1\x86R" * 100 + b"e"
    with pytest.raises(DataError, match="more bytes written as text than the file is long"):
        loads(_demo(body), source="bomb", allow="demo")


def test_too_large_a_file_is_not_read(tmp_path):
    path = tmp_path / "low_dim_obs.pkl"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(DataError, match=f"{path}: larger than 64 MiB"):
        load(path)


def test_too_many_frames_and_cameras_are_refused(tmp_path):
    path = tmp_path / "low_dim_obs.pkl"
    seen = Record(Global.OBSERVATION, {"gripper_open": 1.0})
    demo = dumps(Record(Global.DEMO, {"_observations": [seen, seen]}))
    assert loads(demo, source="test", allow="demo")
    body = OBSERVATION + b")\x81\x940" + DEMO + b")\x81}\x8c\x0d_observations](" + b"h\x00" * 20_001 + b"esb"
    path.write_bytes(_demo(body))
    with pytest.raises(DataError, match="field _observations holds 20001 frames; at most 20000"):
        read_low_dim(path)
    seen.attributes["misc"] = {f"c{i}_camera_near": 0.1 for i in range(33)}
    path.write_bytes(dumps(Record(Global.DEMO, {"_observations": [seen, seen]})))
    with pytest.raises(DataError, match="field misc names 33 cameras"):
        read_low_dim(path)


class _Message(str):
    __slots__ = ()


def _or_error(read):
    """What is read, or the message of the one error that there may be."""
    try:
        return read()
    except DataError as error:
        return _Message(error)


SMALL = dumps(
    Record(
        Global.DEMO,
        {
            "_observations": [
                Record(
                    Global.OBSERVATION,
                    {"gripper_open": 1.0, "gripper_pose": np.arange(7.0), "misc": {"a_camera_near": 1.0}},
                )
                for _ in range(3)
            ],
            "random_seed": ("MT19937", np.arange(624, dtype=np.uint32), 3, 0, 0.25),
        },
    )
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 900), st.binary(min_size=1, max_size=6), st.booleans(), st.integers(0, 2**31))
def test_damaged_files_give_data_or_one_data_error(tmp_path_factory, position, piece, insert, stamp):
    content = SMALL[:position] + piece + SMALL[position + (0 if insert else len(piece)) :]
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp))  # another file for the reader's memory
    found = _or_error(lambda: read_low_dim(path))
    assert str(path) in found if isinstance(found, _Message) else found.frames >= 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60))
def test_random_opcodes_give_a_value_or_one_data_error(body):
    found = _or_error(lambda: loads(b"\x80\x04" + body + b".", source="noise", allow="demo"))
    assert not isinstance(found, _Message) or found.startswith("noise: ")
