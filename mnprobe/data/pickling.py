"""Writing pickles that RLBench's loaders read, without RLBench."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.data.records import Global, Record

__all__ = ["dumps"]

_NAMES = {
    Global.DEMO: ("rlbench.demo", "Demo"),
    Global.OBSERVATION: ("rlbench.backend.observation", "Observation"),
    Global.NDARRAY: ("numpy", "ndarray"),
    Global.DTYPE: ("numpy", "dtype"),
    # The name in numpy 1, which numpy 2 still has; numpy before 1.26 lacks the new one.
    Global.RECONSTRUCT: ("numpy.core.multiarray", "_reconstruct"),
}
_ELEMENTS = ("f8", "f4", "i8", "i4", "u4", "u1", "b1")


def dumps(value: object) -> bytes:
    """A protocol 4 pickle of plain values, numpy arrays of numbers, and `Record` objects.

    A `Record` becomes an instance of `rlbench.demo.Demo` or `rlbench.backend.observation.Observation`; loading the file
    needs these modules, writing it does not. Values must not contain themselves.

    Raises:
        ConfigError: for a value of another type.

    >>> import pickle
    >>> pickle.loads(dumps(["open the drawer", 2, None, (0.5, True)]))
    ['open the drawer', 2, None, (0.5, True)]
    """
    out = _Writer()
    out.put(value)
    return b"\x80\x04" + bytes(out.code) + b"."


class _Writer:
    """Writer of opcodes; names, element types and texts are written once and then read from the memo."""

    def __init__(self) -> None:
        self.code = bytearray()
        self.memo: dict[object, int] = {}

    def put(self, value: object) -> None:
        if value is None:
            self.code += b"N"
        elif isinstance(value, bool):
            self.code += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            self.code += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, bytes):
            self.code += b"B" + struct.pack("<I", len(value)) + value
        elif isinstance(value, tuple):
            self._items(b"(", value, b"t")
        elif isinstance(value, list):
            self._items(b"](", value, b"e")
        elif isinstance(value, dict):
            self._items(b"}(", [part for pair in value.items() for part in pair], b"u")
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, Record):
            self._name(value.kind)
            self.code += b")\x81"  # an empty instance, then its attributes
            self.put(value.attributes)
            self.code += b"b"
        else:
            raise ConfigError(f"cannot write a {type(value).__name__} into a demonstration's pickle")

    def _integer(self, value: int) -> None:
        if -(2**31) <= value < 2**31:
            self.code += b"J" + struct.pack("<i", value)
        elif -(2**63) <= value < 2**63:
            self.code += b"\x8a\x08" + struct.pack("<q", value)
        else:
            raise ConfigError(f"cannot write the integer {value}: it needs more than 64 bits")

    def _text(self, value: str) -> None:
        if not self._known(value):
            raw = value.encode("utf-8")
            self.code += b"X" + struct.pack("<I", len(raw)) + raw
            self._remember(value)

    def _items(self, begin: bytes, items: Any, end: bytes) -> None:
        self.code += begin
        for item in items:
            self.put(item)
        self.code += end

    def _array(self, value: NDArray[Any]) -> None:
        array = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
        code = array.dtype.str[1:]
        if code not in _ELEMENTS:
            raise ConfigError(f"cannot write an array of type {array.dtype} into a demonstration's pickle")
        self._name(Global.RECONSTRUCT)
        self._name(Global.NDARRAY)
        self.put((0,))
        self.put(b"b")
        self.code += b"\x87R("  # call with the three arguments, then the state
        self.put(1)
        self.put(array.shape)
        self._dtype(array.dtype.str[0], code)
        self.put(False)
        self.put(array.tobytes())
        self.code += b"tb"

    def _dtype(self, order: str, code: str) -> None:
        key = (order, code)
        if not self._known(key):
            self._name(Global.DTYPE)
            self.put((code, False, True))
            self.code += b"R"
            self.put((3, order, None, None, None, -1, -1, 0))
            self.code += b"b"
            self._remember(key)

    def _name(self, name: Global) -> None:
        if not self._known(name):
            for text in _NAMES[name]:
                self._text(text)
            self.code += b"\x93"
            self._remember(name)

    def _known(self, key: object) -> bool:
        if key not in self.memo:
            return False
        self.code += b"j" + struct.pack("<I", self.memo[key])
        return True

    def _remember(self, key: object) -> None:
        self.memo[key] = len(self.memo)
        self.code += b"\x94"
