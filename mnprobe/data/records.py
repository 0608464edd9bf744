"""Inert stand-ins for the classes that a demonstration's pickle names."""

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayRecord", "DtypeRecord", "Global", "Lying", "Malformed", "Other", "Record", "make_array", "make_scalar"]

# Element types that become arrays; all are numbers of fixed size, none can contain an object.
_ELEMENTS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")
_TEXT = re.compile(r"U[0-9]*")
_BYTE_ORDERS = ("<", ">", "|")
_MOST_DIMENSIONS = 8


class Malformed(ValueError):
    """The content of a pickle is invalid; the reader converts this to a DataError with the file name."""


class Lying(Malformed):
    """An array whose size does not match its bytes."""


class Global(Enum):
    """Names that a pickle may contain. The value is the name in messages."""

    DEMO = "Demo"
    OBSERVATION = "Observation"
    RECONSTRUCT = "numpy array"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    SCALAR = "numpy scalar"
    FROMBUFFER = "numpy array from a buffer"
    ENCODE = "bytes as text"
    BYTES = "bytes"
    DICT = "dictionary"
    OTHER = "something that no field needs"


@dataclass(slots=True, eq=False)
class Record:
    """An object of a pickle as a name and its attributes; `kind` is `Global.DEMO` or `Global.OBSERVATION`."""

    kind: Global
    attributes: dict[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:  # attributes may refer to this record
        return f"Record({self.kind.value}, {len(self.attributes)} attributes)"


@dataclass(slots=True, eq=False)
class Other:
    """Placeholder of a value that no field needs (a masked array, a date, a set), without its content."""


@dataclass(slots=True, eq=False)
class DtypeRecord:
    """A numpy element type as written in a pickle: `code` such as 'f8', `order` one of '<', '>', '|'."""

    code: str
    order: str = ""

    def set_state(self, state: object) -> None:
        """Take the byte order from the state tuple.

        A number type with extra state is malformed. The state of other types (dates, texts, structures) is ignored: an
        array of such a type raises on access, and does not invalidate the file.
        """
        if not isinstance(state, tuple):
            raise Malformed(f"element type {self.code!r} carries a state that is no tuple")
        plain = (
            len(state) in (8, 9)
            and state[0] in (3, 4)
            and isinstance(state[1], str)
            and all(part is None for part in state[2:5])
            and state[5:7] == (-1, -1)
        )
        if plain:
            self.order = state[1]
        elif self.code in _ELEMENTS:
            raise Malformed(f"element type {self.code!r} carries a state that plain numbers do not have")
        elif len(state) > 1 and isinstance(state[1], str):
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
    """An unvalidated numpy array of a pickle: element type, shape, memory order and bytes.

    With `axes`, the bytes are those of an array of `shape` in C order whose axes are then put into the order `axes`.
    """

    dtype: object = None
    shape: object = None
    fortran: object = False
    data: object = None
    axes: object = None

    def __repr__(self) -> str:  # the parts come from the file and may be any values
        return "ArrayRecord(...)"

    def set_state(self, state: object) -> None:
        """Store the five parts of an array's state; a tuple of another form is ignored."""
        if not isinstance(state, tuple):
            raise Malformed("a numpy array carries a state that is not (1, shape, dtype, order, bytes)")
        if len(state) == 5 and state[0] == 1 and type(state[0]) is int:
            _, self.shape, self.dtype, self.fortran, self.data = state


def make_array(record: ArrayRecord) -> NDArray[Any]:
    """Convert a record to an array, as a read-only view of the record's bytes.

    Raises Malformed unless the element type is an allowed number, the shape is a short tuple of sizes, and the number
    of bytes matches shape and type (else Lying); so no record can allocate more memory than the file has.

    >>> data = np.arange(3.0).tobytes()
    >>> make_array(ArrayRecord(dtype=DtypeRecord("f8", "<"), shape=(3,), data=data)).tolist()
    [0.0, 1.0, 2.0]
    """
    if not isinstance(record.dtype, DtypeRecord):
        raise Malformed("a numpy array has no element type, or is written in a form that is not known")
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
        raise Lying(
            f"a numpy array of shape {shape} and type {dtype.str} needs {expected} bytes, has {len(record.data)}"
        )
    array = np.frombuffer(record.data, dtype=dtype).reshape(shape, order="F" if record.fortran else "C")
    if record.axes is not None:
        axes = record.axes
        if not (isinstance(axes, tuple) and all(type(axis) is int for axis in axes)):
            raise Malformed("a numpy array's order of axes is not a tuple of whole numbers")
        if sorted(axes) != list(range(len(shape))):
            raise Malformed(f"a numpy array's order of axes {axes[:_MOST_DIMENSIONS]} does not fit its shape {shape}")
        array = array.transpose(axes)
    array.flags.writeable = False
    return array


def make_scalar(dtype: object, data: object) -> int | float | bool | str | ArrayRecord:
    """Convert element type and bytes of a numpy scalar to a Python number or text.

    A scalar of another type stays a record and raises on access only.
    """
    record = ArrayRecord(dtype=dtype, shape=(), data=data)
    if not isinstance(dtype, DtypeRecord):
        return record
    if _TEXT.fullmatch(dtype.code) and isinstance(data, bytes):
        try:
            return data.decode("utf-32-be" if dtype.order == ">" else "utf-32-le").rstrip("\0")
        except UnicodeDecodeError:
            raise Malformed("a text of numpy's is not UTF-32") from None
    if dtype.code not in _ELEMENTS:
        return record
    value: int | float | bool = make_array(record).item()
    return value
