"""Conversion of arrays and settings at the entrance of public functions.

Numbers come as numpy arrays of any type, byte order and layout, as torch tensors of any type, device and with
gradients, as pandas objects or as lists; whole numbers come as Python's, numpy's or torch's. The results are native
numpy arrays and Python integers. This module does not import torch or pandas; it recognises their objects by their
methods.
"""

import math
import operator
from collections.abc import Iterable
from dataclasses import fields
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, FeatureError

__all__ = [
    "Array",
    "Number",
    "Truth",
    "Whole",
    "Wholes",
    "as_array",
    "as_matrix",
    "as_number",
    "as_positive",
    "as_share",
    "as_vector",
    "as_weights",
    "as_whole",
    "as_wholes",
    "check_finite",
    "is_tensor",
    "power_near_one",
    "settle",
]

Array: TypeAlias = Any
"""Array argument of a public function: numpy, torch, pandas, or nested lists of numbers."""

if TYPE_CHECKING:
    Whole: TypeAlias = int
    Number: TypeAlias = float
    Truth: TypeAlias = bool
    Wholes: TypeAlias = tuple[int, ...]
else:
    # Settings may be numbers of Python, numpy or torch; the functions below check them, not the type checker.
    Whole = Number = Truth = Wholes = Any


def is_tensor(values: Any) -> bool:
    """Whether `values` is a torch tensor, without importing torch."""
    return hasattr(values, "detach") and hasattr(values, "cpu") and hasattr(values, "dtype")


def as_array(values: Array, name: str) -> NDArray[Any]:
    """`values` as a native, C-contiguous numpy array of booleans, integers or floats of any shape.

    bfloat16 and float8 tensors become float32; pandas' missing values and masked entries become NaN. Float16, float32
    and float64 keep their type, longer floats become float64.

    Raises:
        FeatureError: naming `name`, for text, complex numbers, ragged lists, or objects that are not arrays.

    >>> as_array([[1, 2], [3, 4]], "u").shape
    (2, 2)
    """
    if values is None:
        raise FeatureError(f"{name} must hold real numbers, got None")
    array = _to_numpy(values, name)
    if array.dtype.kind == "O":
        array = _numbers_of_objects(array, name)
    if array.dtype.kind not in "fiub":
        raise FeatureError(f"{name} must hold real numbers, got {_kind(values)} of type {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def as_matrix(values: Array, name: str, *, finite: bool = True) -> NDArray[np.float64]:
    """`values` as a float64 array (items, width), both at least 1, by default without NaN or infinity.

    Raises:
        FeatureError: naming `name`, with the shape, or with the first row that is not finite.
    """
    array = as_array(values, name)
    if array.ndim != 2 or 0 in array.shape:
        raise FeatureError(
            f"{name} must be one row per item, shape (items, width), both at least 1; got shape {tuple(array.shape)}. "
            "Pool tokens to one vector per episode first, e.g. FeatureFile.layer(...).pooled('mean')."
        )
    matrix = array.astype(np.float64)
    if finite:
        check_finite(matrix, name)
    return matrix


def as_vector(values: Array, name: str, rows: int | None = None, *, finite: bool = False) -> NDArray[np.float64]:
    """`values` as a 1-D float64 array, of `rows` entries if given; NaN means missing unless `finite`.

    Raises:
        FeatureError: naming `name`, with the shape, or with the first entry that is not finite.
    """
    array = as_array(values, name)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        needed = "numbers in one row" if rows is None else f"one number for each of {rows} rows"
        raise FeatureError(f"{name} must hold {needed}, got shape {tuple(array.shape)}")
    vector = array.astype(np.float64)
    if finite:
        check_finite(vector[:, None], name)
    return vector


def as_weights(values: Array | None, rows: int, name: str = "weights") -> NDArray[np.float64]:
    """One weight per row as float64, at least 0 and not all 0; ones where `values` is None.

    Raises:
        FeatureError: naming `name`, for another count, NaN, infinity, a weight below 0, or zeros only.

    >>> as_weights([1, 2], 2).tolist()
    [1.0, 2.0]
    """
    if values is None:
        return np.ones(rows)
    weights = as_vector(values, name, rows)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise FeatureError(
            f"{name} must be finite numbers of at least 0; {len(wrong)} of {rows} are not, the first is row "
            f"{wrong[0]}: {weights[wrong[0]]}"
        )
    if rows and not weights.any():
        raise FeatureError(f"{name} are 0 in all {rows} rows: nothing is left to measure")
    return weights


def check_finite(rows: NDArray[Any], name: str) -> None:
    """FeatureError with the count and the first row when a row of (items, width) holds NaN or infinity."""
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise FeatureError(
            f"{name}: {int((~finite).sum())} of {len(rows)} rows hold NaN or infinity, the first is row "
            f"{int(np.argmin(finite))}. Extract these features again."
        )


def power_near_one(values: NDArray[np.float64]) -> float:
    """Power of two that scales the largest value near 1, exactly; 1 if the squares of the values fit a float64.

    >>> power_near_one(np.array([3.0])), power_near_one(np.array([2.0**500]))
    (1.0, 1.5274681817498023e-151)
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0 or 1e-100 <= largest <= 1e100:
        return 1.0
    return float(2.0 ** -min(max(math.frexp(largest)[1], -1022), 1022))


def as_whole(value: Any, name: str, *, least: int | None = None, most: int | None = None) -> int:
    """`value` as a Python integer: integers of Python, numpy and torch, and floats without a fraction such as 5.0.

    Raises:
        ConfigError: naming `name`, for anything else, booleans included, or outside `least` to `most`.

    >>> as_whole(np.int64(5), "k"), as_whole(5.0, "k")
    (5, 5)
    """
    number = _whole(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        bounds = "" if least is None else f" of at least {least}"
        bounds = bounds if most is None else f" from {least if least is not None else '-infinity'} to {most}"
        raise ConfigError(f"{name} must be a whole number{bounds}, got {value!r}")
    return number


def as_wholes(values: Any, name: str, *, least: int = 1) -> tuple[int, ...]:
    """One or more whole numbers, given as one number, tuple, list, array, range or tensor: sorted, each once.

    Raises:
        ConfigError: naming `name`, for an empty input, text, fractions, or a number below `least`.

    >>> as_wholes(5, "k"), as_wholes(np.array([5, 1, 1]), "k")
    ((5,), (1, 5))
    """
    if isinstance(values, str | bytes) or values is None:
        raise ConfigError(f"{name} must be one or more whole numbers of at least {least}, got {values!r}")
    if is_tensor(values):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray):
        values = values.reshape(-1).tolist()
    listed = list(values) if isinstance(values, Iterable) else [values]
    numbers = [_whole(value) for value in listed]
    if not listed or any(number is None or number < least for number in numbers):
        raise ConfigError(f"{name} must be one or more whole numbers of at least {least}, got {_short(listed)}")
    return tuple(sorted({number for number in numbers if number is not None}))


def as_number(value: Any) -> float:
    """`value` as a Python float; NaN for other values (text, booleans, arrays), so that checks reject them.

    >>> as_number(np.float32(0.5)), as_number("0.5")
    (0.5, nan)
    """
    if isinstance(value, str | bytes | bool | np.bool_) or getattr(value, "ndim", 0) != 0:
        return math.nan
    try:
        return float(value.detach() if is_tensor(value) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def as_positive(value: Any, name: str, *, zero: bool = False) -> float:
    """`value` as a finite float above 0, or from 0 with `zero`.

    Raises:
        ConfigError: naming `name`, for anything else (NaN, infinity, text, booleans, arrays).
    """
    number = as_number(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ConfigError(f"{name} must be a finite number {'of at least' if zero else 'above'} 0, got {value!r}")
    return number


def as_share(value: Any, name: str) -> float:
    """`value` as a float between 0 and 1, both excluded.

    Raises:
        ConfigError: naming `name`, for anything else.
    """
    number = as_number(value)
    if not 0 < number < 1:
        raise ConfigError(f"{name} must lie in (0, 1), got {value!r}")
    return number


def settle(
    settings: Any,
    *,
    wholes: Iterable[str] = (),
    numbers: Iterable[str] = (),
    truths: Iterable[str] = (),
    lists: Iterable[str] = (),
) -> None:
    """Convert fields of a frozen dataclass to Python integers, floats and booleans, and one or several texts or paths
    to a tuple; a default None is unchanged.

    Equal settings then have equal JSON, whatever their input types. Call it in a dataclass's `__post_init__`, before
    range checks.

    Raises:
        ConfigError: naming the field, for invalid integers, booleans, numbers and lists.
    """
    optional = {entry.name for entry in fields(settings) if entry.default is None}
    for name in wholes:
        value = getattr(settings, name)
        if value is not None or name not in optional:
            object.__setattr__(settings, name, as_whole(value, name))
    for name in numbers:
        value = getattr(settings, name)
        if value is not None or name not in optional:
            number = as_number(value)
            if math.isnan(number) and not isinstance(value, float | np.floating):
                raise ConfigError(f"{name} must be a number, got {value!r}")
            object.__setattr__(settings, name, number)
    for name in truths:
        value = getattr(settings, name)
        if not isinstance(value, bool | np.bool_):
            raise ConfigError(f"{name} must be True or False, got {value!r}")
        object.__setattr__(settings, name, bool(value))
    for name in lists:
        value = getattr(settings, name)
        if value is not None or name not in optional:
            entries = [value] if isinstance(value, str | PathLike) else value
            if not isinstance(entries, Iterable) or not all(isinstance(entry, str | PathLike) for entry in entries):
                raise ConfigError(f"{name} must be a list of names, got {_short(value)}")
            object.__setattr__(settings, name, tuple(entries))


def _whole(value: Any) -> int | None:
    if isinstance(value, bool | np.bool_):
        return None
    if is_tensor(value):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        if value.ndim or value.dtype.kind not in "iuf":
            return None
        value = value.item()
    try:
        return operator.index(value)
    except TypeError:
        pass
    is_integral = isinstance(value, float | np.floating) and math.isfinite(value) and float(value).is_integer()
    return int(value) if is_integral else None


def _to_numpy(values: Any, name: str) -> NDArray[Any]:
    if is_tensor(values):
        return _tensor_to_numpy(values, name)
    if isinstance(values, np.ma.MaskedArray):
        data, mask = np.asarray(values.data), np.ma.getmaskarray(values)
        return np.where(mask, np.nan, data) if mask.any() and data.dtype.kind in "fiub" else data
    if isinstance(values, np.ndarray):
        return np.asarray(values)
    if hasattr(values, "to_numpy"):  # pandas, polars
        return _frame_to_numpy(values)
    if hasattr(values, "toarray"):
        raise FeatureError(f"{name} is a sparse {type(values).__name__}; give its dense form, {name}.toarray()")
    if isinstance(values, list | tuple) and any(is_tensor(value) or hasattr(value, "to_numpy") for value in values):
        values = [_to_numpy(value, name) for value in values]
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise FeatureError(f"{name} must be an array of numbers, got {_kind(values)}: {error}") from error


def _tensor_to_numpy(tensor: Any, name: str) -> NDArray[Any]:
    tensor = tensor.detach()
    if getattr(tensor, "is_sparse", False) or getattr(tensor, "is_quantized", False):
        raise FeatureError(f"{name} is a sparse or quantized tensor; give its dense form, {name}.to_dense()")
    if getattr(tensor, "is_nested", False):
        raise FeatureError(f"{name} is a nested tensor; give one tensor of shape (items, width)")
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    if tensor.is_floating_point() and str(tensor.dtype) not in ("torch.float16", "torch.float32", "torch.float64"):
        tensor = tensor.float()  # bfloat16 and float8 have no numpy type; float32 represents all their values
    return np.asarray(tensor.numpy())


def _frame_to_numpy(values: Any) -> NDArray[Any]:
    dtypes = list(values.dtypes) if hasattr(values, "columns") else [getattr(values, "dtype", None)]
    nullable = any(hasattr(dtype, "na_value") and getattr(dtype, "kind", "O") in "fiub" for dtype in dtypes)
    if nullable and all(getattr(dtype, "kind", "O") in "fiub" for dtype in dtypes):
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(values.to_numpy())


def _numbers_of_objects(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    flat = array.reshape(-1).tolist()
    for position, value in enumerate(flat):
        is_number = isinstance(value, int | float | np.number | np.bool_) and not isinstance(value, complex)
        if not (is_number or value is None or type(value).__name__ in ("NAType", "Decimal", "Fraction")):
            where = "" if array.ndim == 0 else f", the first at row {position // max(1, math.prod(array.shape[1:]))}"
            raise FeatureError(f"{name} must hold real numbers, got {type(value).__name__} {_short(value)}{where}")
    missing = [value is None or type(value).__name__ == "NAType" for value in flat]
    try:
        numbers = [math.nan if gone else float(value) for gone, value in zip(missing, flat, strict=True)]
    except OverflowError as error:
        raise FeatureError(f"{name} holds whole numbers that no float can hold") from error
    return np.array(numbers, dtype=np.float64).reshape(array.shape)


def _kind(values: Any) -> str:
    kind = type(values)
    module = kind.__module__.split(".")[0]
    return kind.__name__ if module == "builtins" else f"{module} {kind.__name__}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
