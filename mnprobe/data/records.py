"""Inert stand-ins for what a demonstration's pickle names: they hold data, and nothing in them can be called."""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayRecord", "DtypeRecord", "Global", "Malformed", "Record", "make_array", "make_scalar"]

# Element types that become arrays; all are plain numbers of fixed size, none can hold an object.
_ELEMENTS = {"f8": 8, "f4": 4, "i8": 8, "i4": 4, "u4": 4, "u1": 1, "b1": 1}
_BYTE_ORDERS = ("<", ">", "|")
_MOST_DIMENSIONS = 8


class Malformed(ValueError):
    """The content of a pickle is not what it should be; the reader turns this into a DataError with the file's name."""


class Global(Enum):
    """What a pickle may name. The value is how messages call it."""

    DEMO = "Demo"
    OBSERVATION = "Observation"
    RECONSTRUCT = "numpy array"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    SCALAR = "numpy scalar"
    FROMBUFFER = "numpy array from a buffer"
    ENCODE = "bytes as text"
    BYTES = "bytes"


@dataclass(slots=True, eq=False)
class Record:
    """An object of a pickle as a name and its attributes; `kind` is `Global.DEMO` or `Global.OBSERVATION`."""

    kind: Global
    attributes: dict[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:  # attributes may refer back to this record
        return f"Record({self.kind.value}, {len(self.attributes)} attributes)"


@dataclass(slots=True, eq=False)
class DtypeRecord:
    """A numpy element type as written in a pickle: `code` such as 'f8', `order` one of '<', '>', '|'."""

    code: str
    order: str = ""

    def set_state(self, state: object) -> None:
        """Take the byte order from the state tuple; anything beyond a plain number type is malformed."""
        if not (
            isinstance(state, tuple)
            and len(state) in (8, 9)
            and state[0] in (3, 4)
            and isinstance(state[1], str)
            and all(part is None for part in state[2:5])
            and state[5:7] == (-1, -1)
        ):
            raise Malformed(f"element type {self.code!r} carries a state that plain numbers do not have")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype, if it is one of the allowed number types."""
        if self.code not in _ELEMENTS:
            raise Malformed(f"element type {self.code!r} is not one of {', '.join(_ELEMENTS)}")
        if self.order not in _BYTE_ORDERS:
            raise Malformed(f"byte order {self.order!r} of element type {self.code!r} is not one of <, >, |")
        return np.dtype(self.order + self.code)


@dataclass(slots=True, eq=False)
class ArrayRecord:
    """A numpy array of a pickle before it is one: element type, shape, memory order and bytes, unchecked."""

    dtype: object = None
    shape: object = None
    fortran: object = False
    data: object = None

    def __repr__(self) -> str:  # the parts are as the file had them, and may hold anything
        return "ArrayRecord(...)"

    def set_state(self, state: object) -> None:
        """Store the five parts of an array's state."""
        if not (isinstance(state, tuple) and len(state) == 5 and state[0] == 1 and type(state[0]) is int):
            raise Malformed("a numpy array carries a state that is not (1, shape, dtype, order, bytes)")
        _, self.shape, self.dtype, self.fortran, self.data = state


def make_array(record: ArrayRecord) -> NDArray[Any]:
    """The array that a record describes, as a read-only view of the record's bytes.

    Raises Malformed unless the element type is an allowed number, the shape is a short tuple of sizes, and the bytes
    are exactly as many as shape and type ask for; so no record can claim more memory than the file holds.

    >>> data = np.arange(3.0).tobytes()
    >>> make_array(ArrayRecord(dtype=DtypeRecord("f8", "<"), shape=(3,), data=data)).tolist()
    [0.0, 1.0, 2.0]
    """
    if not isinstance(record.dtype, DtypeRecord):
        raise Malformed("a numpy array has no element type")
    dtype = record.dtype.numpy()
    shape = record.shape
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
        raise Malformed(f"a numpy array's shape is not a tuple of at most {_MOST_DIMENSIONS} sizes")
    if not all(type(size) is int and 0 <= size < 2**62 for size in shape):
        raise Malformed("a numpy array's shape holds something else than sizes")
    if type(record.fortran) is not bool:
        raise Malformed("a numpy array's memory order is not a truth value")
    if not isinstance(record.data, bytes | bytearray):
        raise Malformed("a numpy array's content is not bytes")
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(record.data):
        raise Malformed(
            f"a numpy array of shape {shape} and type {dtype.str} needs {expected} bytes, has {len(record.data)}"
        )
    array = np.frombuffer(record.data, dtype=dtype).reshape(shape, order="F" if record.fortran else "C")
    array.flags.writeable = False
    return array


def make_scalar(dtype: object, data: object) -> int | float | bool:
    """The Python number of a numpy scalar's element type and bytes."""
    value = make_array(ArrayRecord(dtype=dtype, shape=(), data=data)).item()
    if not isinstance(value, int | float):
        raise Malformed("a numpy scalar is not a number")
    return value
