"""Loading and saving model weights: strict, safe, one error per bad file."""

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mnprobe.core.errors import CheckpointError
from mnprobe.core.files import whole_file
from mnprobe.core.provenance import canonical_json

__all__ = [
    "FORMAT",
    "check_finite",
    "check_strict",
    "detect_model",
    "load_into",
    "on_meta",
    "read_config",
    "read_metadata",
    "read_state_dict",
    "read_step",
    "save_checkpoint",
    "shapes_of",
    "write_safetensors",
]

FORMAT = "mnprobe.checkpoint/1"


class _WithoutNormal(TorchFunctionMode):
    """Skip the initialisation of `nn.Embedding`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Build models on the meta device, without weights.

    As `torch.device("meta")`, where drawing the weights of an embedding imports torch's compiler, which takes a second.
    """
    with torch.device("meta"), _WithoutNormal():
        yield


_NESTS = (
    "model",
    "module",
    "model_state",
    "state_dict",
)  # entries under which published training code stores the weights
_SHOWN = 5  # names listed in an error before "and N more"
# Exceptions of the readers of torch and zip archives for truncated or invalid bytes, found by fuzzing.
_SENSELESS = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    OSError,
    struct.error,
)
_TITLES = {"viclip": "ViCLIP", "arp": "ARP", "clip": "CLIP"}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, by content and not by file name.

    Accepts safetensors, and files of `torch.save` with weights at the top level or under `model`, `module`,
    `model_state` or `state_dict`; a leading `module.` is stripped from the names. Other entries of such a file
    (optimiser, step, configuration) are ignored. Pickles are read with `weights_only=True`: none of its code runs.

    Returns: name -> tensor on the CPU. Tensors of `torch.save` files are mapped from disk where the format allows it.
    Raises: CheckpointError for a missing, truncated or foreign file, a TorchScript archive, a refused pickle.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise _damaged(path, error) from error
    return _find_tensors(_load_pickle(path, zipped=kind == "zip"), path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; empty for other files.

    Raises: CheckpointError for a missing, truncated or foreign file.
    """
    path = Path(path)
    if _kind(path) != "safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from error


def read_step(path: str | Path) -> int | None:
    """Read the entry `step` that published training code stores with the weights; None if there is none.

    Raises: CheckpointError as `read_state_dict`.
    """
    path = Path(path)
    kind = _kind(path)
    content = None if kind == "safetensors" else _load_pickle(path, zipped=kind == "zip")
    step = content.get("step") if isinstance(content, Mapping) else None
    return step if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None


def read_config(path: str | Path, *, model: str) -> dict[str, Any] | None:
    """Read the configuration stored by `save_checkpoint`; None for files not written by mnprobe.

    Raises: CheckpointError when the file contains another model than `model`, has a later format, or its configuration
    is unreadable.
    """
    metadata = read_metadata(path)
    if "format" not in metadata or not metadata["format"].startswith("mnprobe.checkpoint/"):
        return None
    if metadata["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: written in format {metadata['format']!r}, this version reads {FORMAT!r}. Update mnprobe."
        )
    if metadata.get("model") != model:
        raise CheckpointError(
            f"{path}: asked for {_title(model)} weights, found a checkpoint of"
            f" {_title(metadata.get('model', 'no model'))}. Give the file of the right model."
        )
    try:
        config = json.loads(metadata["config"])
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: the metadata entry 'config' is missing or no JSON ({error!r})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: the metadata entry 'config' must be a JSON object, got {config!r}")
    return config


def save_checkpoint(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    *,
    model: str,
    config: Mapping[str, Any],
    step: int,
    metrics: Mapping[str, float] | None = None,
    trained: bool | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint as safetensors, atomically; equal content gives equal bytes.

    Args:
        path: file to write, usually `checkpoints/<model>/step_00001000.safetensors`.
        state_dict: names and tensors, any device; weights shared under two names are written twice.
        model: "viclip" or "arp".
        config: the model's configuration, storable as JSON.
        step: optimiser steps so far; 0 for fresh weights.
        metrics: numbers measured at this step.
        trained: whether the weights are trained; by default whether `step` is above 0.
        extra: more metadata, text only; it cannot replace the entries above.
    """
    path = Path(path)
    metadata = dict(extra or {}) | {
        "format": FORMAT,
        "model": model,
        "config": canonical_json(dict(config)),
        "step": str(step),
        "metrics": canonical_json(dict(metrics or {})),
        "trained": "true" if (step > 0 if trained is None else trained) else "false",
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    write_safetensors(path, tensors, metadata)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors (contiguous, on the CPU) as safetensors, atomically; equal content gives equal bytes.

    Raises: CheckpointError when it cannot be written, as on a full disk.
    """
    with whole_file(path) as part:
        try:
            save_file(dict(tensors), part, metadata=dict(metadata))
        except SafetensorError as error:  # raised for a full disk
            raise CheckpointError(f"{path}: cannot be written ({error})") from error
        _sort_header(part)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything in a module's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def detect_model(keys: Iterable[str]) -> Literal["viclip", "arp", "clip"] | None:
    """Detect the model of a state dict by its names; None for an unknown model.

    >>> detect_model(["vision_encoder.proj", "temp"])
    'viclip'
    >>> detect_model(["mvt1.pos_encoding"])
    'arp'
    >>> detect_model(["fc.weight"]) is None
    True
    """
    names = list(keys)
    if any(name.startswith(("vision_encoder.", "text_encoder.")) for name in names):
        return "viclip"
    if any(name.startswith(("mvt1.", "mvt2.", "policy.")) for name in names):
        return "arp"
    if "token_embedding.weight" in names and "ln_final.weight" in names:
        return "clip"
    return None


def check_strict(
    expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor], *, path: str | Path, model: str
) -> None:
    """Check that a state dict is exactly as expected: names, shapes, finite numbers.

    Args:
        expected: name -> shape, e.g. `shapes_of(module)`.
        found: the state dict of the file.
        path: the file, for the message.
        model: the requested model ("viclip", "arp", "clip").
    Raises: CheckpointError that names the other model if it is one, or lists missing, unexpected and misshapen entries
        (the first few, with counts), or non-finite ones.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = detect_model(found)
    if missing and other is not None and other != model:
        raise CheckpointError(
            f"{path}: asked for {_title(model)} weights, found those of {_title(other)} ({len(found)} entries, such as"
            f" {next(iter(found))!r}). Give the file of the right model."
        )
    if missing and len(missing) == len(expected):
        raise CheckpointError(
            f"{path}: no {_title(model)} weights: not one of the {len(expected)} expected names is there. The file"
            f" holds {_some(list(found))}."
        )
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    problems = [
        f"  {title} ({len(names)}): {_some(names)}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            "\n".join([f"{path}: does not fit {_title(model)} as configured ({len(expected)} entries).", *problems])
            + "\nGive the file of this very model, or the configuration it was made with."
        )
    check_finite(found, path=path)


def check_finite(found: Mapping[str, Tensor], *, path: str | Path) -> None:
    """Check that weights are finite; tensors on the meta device are skipped.

    Raises: CheckpointError that names the entries.
    """
    bad = [
        name
        for name, tensor in found.items()
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(_wide(tensor)).all())
    ]
    if bad:
        raise CheckpointError(
            f"{path}: weights that are NaN or infinite in {len(bad)} of {len(found)} entries: {_some(bad)}. The"
            " training that wrote this file had diverged, or the file is damaged; take an earlier checkpoint."
        )


def load_into(
    module: nn.Module, found: Mapping[str, Tensor], *, path: str | Path, model: str, dtype: torch.dtype, device: Any
) -> None:
    """Check `found` against `module` (on any device, also meta) and load copies of its tensors.

    Floating-point entries become `dtype` on `device`. Raises: CheckpointError as `check_strict`, and where numbers are
    integers that should be floating point, or the other way round.
    """
    check_strict(shapes_of(module), found, path=path, model=model)
    own = module.state_dict()
    mistyped = [
        f"{name} ({found[name].dtype} instead of {own[name].dtype})"
        for name in own
        if found[name].is_floating_point() != own[name].is_floating_point()
    ]
    if mistyped:
        raise CheckpointError(
            f"{path}: numbers of the wrong kind in {len(mistyped)} of {len(own)} entries: {_some(mistyped)}. Quantised"
            " weights are not read; give the file with floating-point weights."
        )
    copies = {
        name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None, copy=True)
        for name, tensor in found.items()
    }
    module.load_state_dict(copies, strict=True, assign=True)


def _kind(path: Path) -> Literal["safetensors", "zip", "pickle"]:
    """Detect the format by the first bytes."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path}: {what}. Give a weights file (.safetensors, .pth, .pt).")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: this is a Git LFS pointer ({size} bytes), not the weights. Fetch them with 'git lfs pull'."
        )
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    if size < 16 or path.suffix == ".safetensors" or not any(head):
        raise CheckpointError(
            f"{path}: no weights file or a damaged one ({size} bytes, first bytes {head[:12]!r})."
            " Copy or download it again."
        )
    raise CheckpointError(
        f"{path}: not a weights file (first bytes {head[:12]!r}). Expected safetensors, or a file of torch.save."
    )


def _load_pickle(path: Path, *, zipped: bool) -> Any:
    if zipped:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # warnings about old pickle protocols and storages
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise (_refused(path, str(error)) if "nsupported" in str(error) else _damaged(path, error)) from error
    except _SENSELESS as error:
        raise _damaged(path, error) from error


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, *_SENSELESS) as error:
        raise _damaged(path, error) from error
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        output = str(path.with_name(path.stem + "-state.pth"))
        raise CheckpointError(
            f"{path}: a TorchScript archive (a program with weights), which is not read here because loading it can run"
            " code. If you trust the file, save its weights alone, once, and give that file:\n"
            f"  python -c \"import torch; torch.save(torch.jit.load({str(path)!r}, map_location='cpu').state_dict(),"
            f' {output!r})"'
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(
            f"{path}: not a weights file, but a zip archive with {_some(names)}. Expected safetensors, or a file of"
            " torch.save."
        )


def _refused(path: Path, message: str) -> CheckpointError:
    if blocked := re.search(r"GLOBAL ([\w.]+) whose module [\w.]+ is blocked", message):
        return CheckpointError(
            f"{path}: refused: the file names {blocked.group(1)}, which runs commands and which no weights need."
            " Nothing was run. Do not open this file by other means; get the weights from another source."
        )
    match = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"(Unsupported (?:operand|class)[^\n]*)", message)
    what = f" ({match.group(1)})" if match else ""
    output = str(path.with_name(path.stem + "-weights.pth"))
    return CheckpointError(
        f"{path}: holds Python objects besides tensors{what}, or is damaged or no checkpoint. Such are not loaded,"
        " because a pickle can run any code. If you trust the file, save its weights alone, once, and give that file:\n"
        f"  python -c \"import torch; f = torch.load({str(path)!r}, map_location='cpu', weights_only=False);"
        f' torch.save(next((f[k] for k in {_NESTS!r} if k in f), f), {output!r})"'
    )


def _find_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    where = "the top level"
    for _ in range(len(_NESTS)):
        if not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values()):
            break
        nest = next((name for name in _NESTS if isinstance(content.get(name), Mapping)), None)
        if nest is None:
            break
        content, where = content[nest], f"entry {nest!r}"
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: {where} holds {type(content).__name__}, expected names with tensors.")
    foreign = [str(name) for name, value in content.items() if not _is_plain(value)]
    if foreign or not content:
        held = f"other things than plain tensors: {_some(foreign)}" if foreign else "nothing"
        raise CheckpointError(
            f"{path}: {where} holds {held}. Weights are looked for at the top level and under {', '.join(_NESTS)}."
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _is_plain(value: Any) -> bool:
    """Whether this is a tensor with numbers in it: not sparse, not quantised, not a mere shape."""
    if not isinstance(value, Tensor):
        return False
    return value.layout is torch.strided and not value.is_quantized and not value.is_meta


def _wide(tensor: Tensor) -> Tensor:
    """Convert eight-bit floats to float32, which supports isfinite."""
    return tensor.float() if tensor.dtype.itemsize == 1 else tensor


def _sort_header(path: Path) -> None:
    """Sort the metadata of a safetensors file by name; the library writes them in random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # same length: always true
            file.seek(8)
            file.write(text.ljust(length))


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
    size = path.stat().st_size
    return CheckpointError(
        f"{path}: damaged or cut short ({size} bytes; {reason}). Compare its size with the source and copy or download"
        " it again."
    )


def _title(model: str) -> str:
    return _TITLES.get(model, model)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "") if names else "nothing"
