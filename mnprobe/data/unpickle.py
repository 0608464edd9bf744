"""Safe reader of RLBench pickles: no code in a file is executed.

Python's unpickler imports and calls any name in a file. This reader is a small stack machine that supports only the
opcodes of data. A name in the file is compared, as an exact (module, name) pair, with an allow-list and replaced by an
inert record (`mnprobe.data.records`); nothing is imported, no attribute is set, and no numpy function gets arguments
from the file. Sizes are bounded before memory is allocated: file size, number of opcodes, memo indices, array bytes
against shape. Dictionary keys must be short plain values, because hashing a malicious nested tuple can hang or overflow
the C stack. An unknown name raises with file, byte and name; values of numpy and Python that no field needs become
empty placeholders.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from mnprobe.core.errors import DataError
from mnprobe.data.records import ArrayRecord, DtypeRecord, Global, Malformed, Other, Record, make_scalar

__all__ = ["MAX_BYTES", "RefusedGlobal", "load", "loads"]

MAX_BYTES = 64 * 2**20  # real files: 0.2 to 0.5 MB; 3.5 MB with images inside
MAX_OPCODES = 4_000_000  # real files: about 600 per frame
_MAX_MEMO = 2_000_000
_MAX_KEYS = 10_000  # maximum entries of one SETITEMS
_MAX_KEY_LENGTH = 1_000

_NUMBERS: dict[tuple[str, str], Global] = {
    ("numpy", "dtype"): Global.DTYPE,
    ("numpy.core.multiarray", "scalar"): Global.SCALAR,
    ("numpy._core.multiarray", "scalar"): Global.SCALAR,
    ("_codecs", "encode"): Global.ENCODE,
    ("builtins", "bytes"): Global.BYTES,
    ("__builtin__", "bytes"): Global.BYTES,
}
_PLAIN = (
    *("int", "long", "float", "complex", "bool", "str", "bytearray", "slice", "range", "xrange"),
    *("set", "frozenset", "list", "dict", "tuple"),
)
# Names that numpy and Python write for values that no field needs; each becomes an `Other`, with any arguments.
_OTHERS = (
    *((module, name) for module in ("builtins", "__builtin__") for name in _PLAIN),
    *(("datetime", name) for name in ("date", "time", "datetime", "timedelta", "timezone")),
    *(
        (module, f"{pure}{system}Path")
        for module in ("pathlib", "pathlib._local")  # the second in Python 3.13 alone
        for pure in ("", "Pure")
        for system in ("", "Posix", "Windows")
    ),
    *(("collections", name) for name in ("deque", "defaultdict", "Counter")),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
    *((module, "MaskedArray") for module in ("numpy.ma", "numpy.ma.core")),
    ("numpy.ma.core", "_mareconstruct"),
    *(
        (module, name)
        for module in ("numpy", "numpy.rec", "numpy.core.records", "numpy._core.records")
        for name in ("recarray", "record")
    ),
    *(("numpy.random._pickle", f"__{name}_ctor") for name in ("randomstate", "generator", "bit_generator")),
    *((f"numpy.random._{name.lower()}", name) for name in ("MT19937", "PCG64", "Philox", "SFC64")),
    *(("numpy.random.bit_generator", name) for name in ("__pyx_unpickle_SeedSequence", "SeedSequence")),
    ("numpy.random._pcg64", "PCG64DXSM"),
    ("numpy._core._internal", "_convert_to_stringdtype_kwargs"),
)
_DEMO: dict[tuple[str, str], Global] = {
    **_NUMBERS,
    **dict.fromkeys(_OTHERS, Global.OTHER),
    ("rlbench.demo", "Demo"): Global.DEMO,
    ("rlbench.backend.observation", "Observation"): Global.OBSERVATION,
    ("numpy", "ndarray"): Global.NDARRAY,
    ("numpy", "memmap"): Global.NDARRAY,
    ("numpy", "matrix"): Global.NDARRAY,
    ("numpy.core.memmap", "memmap"): Global.NDARRAY,
    ("numpy.matrixlib.defmatrix", "matrix"): Global.NDARRAY,
    ("numpy.core.multiarray", "_reconstruct"): Global.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): Global.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): Global.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): Global.FROMBUFFER,
    ("collections", "OrderedDict"): Global.DICT,
}
_ALLOWED: dict[str, dict[tuple[str, str], Global]] = {"demo": _DEMO, "plain": _NUMBERS}


class RefusedGlobal(DataError):
    """A pickle contains the name `module`.`name`, which is not on the allow-list."""

    def __init__(self, message: str, module: str, name: str) -> None:
        super().__init__(message)
        self.module = module
        self.name = name


def load(path: Path, *, allow: Literal["demo", "plain"] = "plain") -> object:
    """Read one pickle file to plain values and inert records; no code in it is executed.

    Args:
        path: the file.
        allow: "plain" for lists, texts and numbers (numpy scalars become Python numbers); "demo" also for RLBench's
            `Demo`, `Observation` and numpy arrays, as `Record` and `ArrayRecord`.

    Raises:
        DataError: naming the file, if it is missing, too large, truncated, not a pickle, or uses names or opcodes that
            such a file does not need (`RefusedGlobal` for a name).
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is no regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return loads(content, source=str(path), allow=allow)


def loads(content: bytes, *, source: str, allow: Literal["demo", "plain"] = "plain") -> object:
    """As `load`, from bytes; `source` is their name in messages.

    >>> import pickle
    >>> loads(pickle.dumps({"drawer": [1, 2.5, None]}), source="example")
    {'drawer': [1, 2.5, None]}
    """
    if len(content) > MAX_BYTES:
        raise DataError(f"{source}: larger than {MAX_BYTES >> 20} MiB; the pickles of a demonstration are far smaller")
    machine = _Machine(content, _ALLOWED[allow])
    try:
        return machine.run()
    except Malformed as problem:
        raise DataError(f"{source}: not a readable pickle at byte {machine.start}: {problem}") from problem
    except _Refused as refused:
        module, name = refused.args
        raise RefusedGlobal(
            f"{source}: refused at byte {machine.start}: the pickle names {module!r} {name!r}, which "
            f"{'a demonstration' if allow == 'demo' else 'a file of texts or numbers'} has no use for. "
            "Nothing was run. Do not open this file with pickle unless you trust who made it.",
            module,
            name,
        ) from None


class _Refused(Exception):
    """Internal exception with module and name."""


class _Mark:
    """Stack entry of MARK; a separate class, so that no value can be mistaken for it."""


_MARK = _Mark()


class _Machine:
    """Stack machine for one pickle. Every supported opcode is a method; other opcodes raise."""

    def __init__(self, content: bytes, allowed: Mapping[tuple[str, str], Global]) -> None:
        self.content = content
        self.allowed = allowed
        self.position = 0
        self.start = 0  # start of the current opcode, for messages
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.encoded = 0

    def run(self) -> object:
        content = self.content
        if content[:1] != b"\x80":
            raise Malformed("it does not begin with a protocol mark (protocols 2 to 5 are read)")
        table = self._TABLE
        for _ in range(MAX_OPCODES):
            self.start = self.position
            if self.start >= len(content):
                raise Malformed("the file ends before the pickle does; is it truncated?")
            code = content[self.start]
            self.position = self.start + 1
            if code == _STOP:
                return self._result()
            action = table.get(code)
            if action is None:
                raise Malformed(f"opcode {_opcode_name(code)} is not allowed in a file of data")
            action(self)
        raise Malformed(f"more than {MAX_OPCODES} opcodes")

    def _result(self) -> object:
        if len(self.stack) != 1 or self.marks:
            raise Malformed("it ends with several values, or with none")
        if self.position != len(self.content):
            raise Malformed("something follows the end of the pickle")
        return self.stack[0]

    # -- reading ------------------------------------------------------------------------------------------------
    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.content):
            raise Malformed("the file ends before the pickle does; is it truncated?")
        piece = self.content[self.position : end]
        self.position = end
        return piece

    def _unsigned(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        end = self.content.find(b"\n", self.position, self.position + 300)
        if end < 0:
            raise Malformed("a name does not end")
        text = self.content[self.position : end]
        self.position = end + 1
        return _text(text)

    # -- the stack ----------------------------------------------------------------------------------------------
    def _pop(self) -> object:
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise Malformed("an operation finds no value to work on")
        return self.stack.pop()

    def _top(self) -> object:
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise Malformed("an operation finds no value to work on")
        return self.stack[-1]

    def _since_mark(self) -> list[object]:
        if not self.marks:
            raise Malformed("an operation finds no mark")
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    # -- plain values -------------------------------------------------------------------------------------------
    def _proto(self) -> None:
        version = self._take(1)[0]
        if not 2 <= version <= 5:
            raise Malformed(f"pickle protocol {version}; protocols 2 to 5 are read")

    def _frame(self) -> None:
        size = self._unsigned(8)
        if size > len(self.content) - self.position:
            raise Malformed("a frame is longer than the file; is it truncated?")

    def _none(self) -> None:
        self.stack.append(None)

    def _true(self) -> None:
        self.stack.append(True)

    def _false(self) -> None:
        self.stack.append(False)

    def _int4(self) -> None:
        self.stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def _int2(self) -> None:
        self.stack.append(self._unsigned(2))

    def _int1(self) -> None:
        self.stack.append(self._take(1)[0])

    def _long(self) -> None:
        size = self._take(1)[0]
        if size > 33:  # a generator's state has integers of 128 bits
            raise Malformed(f"an integer of {size} bytes; at most 256 bits are read")
        self.stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _float(self) -> None:
        self.stack.append(struct.unpack(">d", self._take(8))[0])

    def _push_text(self, size: int) -> None:
        self.stack.append(_text(self._take(size)))

    def _text1(self) -> None:
        self._push_text(self._take(1)[0])

    def _text4(self) -> None:
        self._push_text(self._unsigned(4))

    def _text8(self) -> None:
        self._push_text(self._unsigned(8))

    def _bytes1(self) -> None:
        self.stack.append(self._take(self._take(1)[0]))

    def _bytes4(self) -> None:
        self.stack.append(self._take(self._unsigned(4)))

    def _bytes8(self) -> None:
        self.stack.append(self._take(self._unsigned(8)))

    def _bytearray8(self) -> None:
        self.stack.append(bytearray(self._take(self._unsigned(8))))

    # -- containers ---------------------------------------------------------------------------------------------
    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _pop_one(self) -> None:
        self._pop()

    def _pop_mark(self) -> None:
        self._since_mark()

    def _empty_tuple(self) -> None:
        self.stack.append(())

    def _tuple(self) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _tuple1(self) -> None:
        self.stack.append((self._pop(),))

    def _tuple2(self) -> None:
        second, first = self._pop(), self._pop()
        self.stack.append((first, second))

    def _tuple3(self) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self.stack.append((first, second, third))

    def _empty_list(self) -> None:
        self.stack.append([])

    def _empty_dict(self) -> None:
        self.stack.append({})

    def _append(self) -> None:
        item = self._pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._top()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Other):
            raise Malformed("values are appended to something that is no list")

    def _setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._store([key, value])

    def _setitems(self) -> None:
        self._store(self._since_mark())

    def _store(self, items: list[object]) -> None:
        target = self._top()
        if isinstance(target, Other):
            return
        if type(target) is not dict:
            raise Malformed("entries are set in something that is no dictionary")
        if len(items) % 2:
            raise Malformed("a dictionary gets a key without a value")
        if len(items) // 2 + len(target) > _MAX_KEYS:
            raise Malformed(f"a dictionary of more than {_MAX_KEYS} entries")
        for key in items[::2]:
            _check_key(key)
        target.update(zip(items[::2], items[1::2], strict=True))

    # -- the memo -----------------------------------------------------------------------------------------------
    def _memoize(self) -> None:
        self._put(len(self.memo))

    def _binput(self) -> None:
        self._put(self._take(1)[0])

    def _long_binput(self) -> None:
        self._put(self._unsigned(4))

    def _put(self, index: int) -> None:
        if index > _MAX_MEMO:
            raise Malformed(f"memo index {index}; at most {_MAX_MEMO} is read")
        self.memo[index] = self._top()

    def _binget(self) -> None:
        self._get(self._take(1)[0])

    def _long_binget(self) -> None:
        self._get(self._unsigned(4))

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise Malformed(f"memo index {index} was never stored")
        self.stack.append(self.memo[index])

    # -- names and their records ---------------------------------------------------------------------------------
    def _global(self) -> None:
        module = self._line()
        self._name(module, self._line())

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Malformed("a name is not a text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        known = self.allowed.get((module, name))
        if known is None:
            raise _Refused(module[:200], name[:200])
        self.stack.append(known)

    def _newobj(self) -> None:
        arguments, kind = self._pop(), self._pop()
        if kind is Global.OTHER:
            self.stack.append(Other())
            return
        if not isinstance(kind, Global) or kind not in (Global.DEMO, Global.OBSERVATION) or arguments != ():
            raise Malformed("an object is made that is no Demo or Observation, or it is made with arguments")
        self.stack.append(Record(kind))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            raise Malformed("arguments are not a tuple")
        if function is Global.ENCODE and arguments and isinstance(arguments[0], str):
            self.encoded += len(arguments[0])  # one text could be converted to bytes many times
            if self.encoded > len(self.content):
                raise Malformed("more bytes written as text than the file is long")
        self.stack.append(_make(function, arguments))

    def _build(self) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, ArrayRecord | DtypeRecord):
            target.set_state(state)
        elif isinstance(target, Other):
            pass
        elif isinstance(target, Record):
            if type(state) is not dict or not all(type(key) is str for key in state):
                raise Malformed(f"the state of a {target.kind.value} is not a dictionary of named attributes")
            target.attributes.update(state)
        else:
            raise Malformed("a state is given to something that has none")

    _TABLE: ClassVar[dict[int, Callable[["_Machine"], None]]] = {
        0x80: _proto,
        0x95: _frame,
        0x4E: _none,
        0x88: _true,
        0x89: _false,
        0x4A: _int4,
        0x4D: _int2,
        0x4B: _int1,
        0x8A: _long,
        0x47: _float,
        0x8C: _text1,
        0x58: _text4,
        0x8D: _text8,
        0x43: _bytes1,
        0x42: _bytes4,
        0x8E: _bytes8,
        0x96: _bytearray8,
        0x28: _mark,
        0x30: _pop_one,
        0x31: _pop_mark,
        0x29: _empty_tuple,
        0x74: _tuple,
        0x85: _tuple1,
        0x86: _tuple2,
        0x87: _tuple3,
        0x5D: _empty_list,
        0x7D: _empty_dict,
        0x61: _append,
        0x65: _appends,
        0x73: _setitem,
        0x75: _setitems,
        0x94: _memoize,
        0x71: _binput,
        0x72: _long_binput,
        0x68: _binget,
        0x6A: _long_binget,
        0x63: _global,
        0x93: _stack_global,
        0x81: _newobj,
        0x52: _reduce,
        0x62: _build,
    }


_STOP = 0x2E


def _make(function: object, arguments: tuple[object, ...]) -> object:
    """Build the record of a call in the pickle."""
    match function, arguments:
        case Global.RECONSTRUCT, (Global.NDARRAY, (0,), b"b"):
            return ArrayRecord()
        case Global.DTYPE, (str(code), align, copy) if _flag(align) and _flag(copy):
            return DtypeRecord(code[:20])
        case Global.SCALAR, (DtypeRecord() as dtype, bytes(data)):
            return make_scalar(dtype, data)
        case Global.FROMBUFFER, _:
            return _from_buffer(*arguments)
        case Global.DICT, ():
            return {}
        case Global.OTHER, _:
            return Other()
        case Global.RECONSTRUCT, (Global.OTHER, (0,), b"b"):
            return Other()
        case Global.DTYPE, (Global.OTHER, align, copy) if _flag(align) and _flag(copy):
            return DtypeRecord("record")
        case Global.ENCODE, (str(text), "latin1" | "latin-1"):
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                raise Malformed("bytes written as text hold a character beyond 255") from None
        case Global.BYTES, ():
            return b""
    known = function.value if isinstance(function, Global) else "something that is no function"
    raise Malformed(f"a call of {known} with arguments that real files do not have")


def _from_buffer(
    data: object = None,
    dtype: object = None,
    shape: object = None,
    order: object = "C",
    axes: object = None,
    *_: object,
) -> ArrayRecord:
    """Build an array written with protocol 5: orders C and F, and since numpy 2.3 also K with the order of axes."""
    if order == "K" and axes is not None:
        return ArrayRecord(dtype=dtype, shape=shape, data=data, axes=axes)
    fortran = {"C": False, "F": True}.get(order) if isinstance(order, str) else None
    return ArrayRecord(dtype=dtype, shape=shape, data=data, fortran=fortran)


def _flag(value: object) -> bool:
    return value is True or value is False or (type(value) is int and value in (0, 1))


def _check_key(key: object) -> None:
    if key is None or type(key) in (int, float, bool):
        return
    if isinstance(key, str | bytes) and len(key) <= _MAX_KEY_LENGTH:
        return
    raise Malformed(f"a dictionary key is a {type(key).__name__}, or too long; only short texts and numbers are read")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise Malformed("a text is not UTF-8") from None


def _opcode_name(code: int) -> str:
    import pickletools  # only for the message

    known = {opcode.code: opcode.name for opcode in pickletools.opcodes}.get(chr(code))
    return f"{known} ({code:#04x})" if known else f"{code:#04x}"
