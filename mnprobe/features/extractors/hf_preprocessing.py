"""Preprocessing of frames as by the processors of transformers, with torch alone.

The official processors of videos need torchvision, whose builds must match that of torch; this module needs neither
torchvision nor transformers. Values are within one grey level (before normalisation) of the official processors with
the torchvision backend. (Their PIL backend agrees too, except for bicubic resizing of upright pictures, which Pillow 13
resizes along the other axis first.) Resizing is computed in float32 and rounded, on every machine alike.

Source: the processor classes of transformers 5.24; golden arrays in tests/golden/hf.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name

__all__ = ["Preprocessing", "default_fields", "processor_kind", "resized"]

_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_CROPPED = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
_SQUARE = {"size": {"height": 224, "width": 224}}
_BILINEAR, _BICUBIC = {"resample": 2}, {"resample": 3}
_COMMON: dict[str, Any] = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "VideoMAE": _COMMON | _CROPPED | _BILINEAR | _HALF,
    "Timesformer": _COMMON | _CROPPED | _BILINEAR | _IMAGENET,
    "VJEPA2": _COMMON | {"crop_size": 256, "do_center_crop": True} | _BILINEAR | _IMAGENET,
    "Vivit": _COMMON
    | _CROPPED
    | {"size": {"shortest_edge": 256}, "rescale_factor": 1 / 127.5, "offset": True}
    | _BILINEAR
    | _HALF,
    "DINOv3ViT": _COMMON | _SQUARE | _BILINEAR | _IMAGENET,
    "Siglip": _COMMON | _SQUARE | _BICUBIC | _HALF,
    "Siglip2": _COMMON | {"patch_size": 16, "max_num_patches": 256} | _BILINEAR | _HALF,
    "CLIP": _COMMON | _CROPPED | _BICUBIC | _CLIP,
    "ViT": _COMMON | _SQUARE | _BILINEAR | _HALF,
    "Bit": _COMMON | _CROPPED | _BICUBIC | _CLIP,
    "LlavaOnevision": _COMMON | {"size": {"height": 384, "width": 384}} | _BICUBIC | _CLIP,
}
"""Kind of processor -> what holds where its JSON says nothing: the class attributes in transformers."""
_SQUARE_NUMBER = ("DINOv3ViT", "ViT")  # kinds that read a size given as one number as a square, not a shortest edge
_TYPE_KEYS = ("video_processor_type", "image_processor_type", "feature_extractor_type")
_IGNORED = {
    *(*_TYPE_KEYS, "processor_class", "_valid_processor_keys"),
    *("do_convert_rgb", "return_metadata", "return_tensors", "default_to_square"),  # frames are RGB already
    *("do_sample_frames", "num_frames", "fps"),  # mnprobe samples the frames itself
}
_KNOWN = {
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "offset"),
    *("do_normalize", "image_mean", "image_std", "patch_size", "max_num_patches"),
}
_FILTERS: dict[int, Literal["nearest-exact", "bilinear", "bicubic"]] = {
    0: "nearest-exact",
    2: "bilinear",
    3: "bicubic",
}
_FILTER_NAMES = {1: "Lanczos", 4: "box", 5: "Hamming"}
_SUFFIX = re.compile(r"(ImageProcessor|VideoProcessor|FeatureExtractor)(Fast|Pil)?$")
_HELP = "Read this model with a processor of your own: --model hook --factory package.module:factory"

Size: TypeAlias = int | tuple[int, int]
"""The shortest edge, or (height, width), in pixels."""


def processor_kind(fields: Mapping[str, Any]) -> str | None:
    """Name of the processor that a JSON names, without the suffix of its class; None if it names none.

    >>> processor_kind({"video_processor_type": "VJEPA2VideoProcessor"}), processor_kind({"size": 224})
    ('VJEPA2', None)
    """
    name = next((fields[key] for key in _TYPE_KEYS if fields.get(key)), None)
    return None if name is None else _SUFFIX.sub("", str(name))


def default_fields(kind: str, image_size: int | None) -> dict[str, Any]:
    """Fields of the JSON that the official processor `kind` would write for pictures of `image_size` pixels a side.

    >>> default_fields("VideoMAE", 112)["size"], default_fields("Vivit", 112)["size"]
    ({'shortest_edge': 112}, {'shortest_edge': 128})
    """
    fields = {f"{'video' if kind == 'VJEPA2' else 'image'}_processor_type": f"{kind}ImageProcessor", **_DEFAULTS[kind]}
    if image_size is not None and "crop_size" in fields:
        fields["crop_size"] = image_size
    if image_size is not None and "size" in fields:
        fields["size"] = (
            {"shortest_edge": image_size * fields["size"]["shortest_edge"] // 224}
            if "shortest_edge" in fields["size"]
            else {"height": image_size, "width": image_size}
        )
    return fields


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to each frame, in this order: resize, crop the centre, rescale, normalise, cut into patches.

    `size` and `crop` are in pixels, None for no such step; `rescale` is the factor, after which 1 is subtracted with
    `offset`; `float_resize` rescales before resizing, without rounding to grey levels (DINOv3). With `patch_size`
    (SigLIP 2) a frame is resized to at most `max_patches` patches of that size, with its own aspect ratio.
    """

    kind: str
    size: Size | None
    filter: Literal["nearest-exact", "bilinear", "bicubic"]
    crop: tuple[int, int] | None
    rescale: float | None
    offset: bool
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    float_resize: bool = False
    patch_size: int | None = None
    max_patches: int | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], *, where: str, kind: str | None = None) -> "Preprocessing":
        """Read the fields of a processor's JSON.

        Args:
            fields: the JSON object.
            where: its origin, for messages.
            kind: kind of processor of this model, where the JSON names none (see `processor_kind`).
        Raises: ConfigError naming the key, for a processor, a key or a value that is not supported; nothing is ignored.
        """
        named = processor_kind(fields) or kind
        if named is None:
            raise ConfigError(f"{where}: names no processor (image_processor_type, video_processor_type). {_HELP}")
        if named not in _DEFAULTS:
            raise ConfigError(f"{where}: {unknown_name('processor', named, list(_DEFAULTS))}. {_HELP}")
        given = {key: value for key, value in fields.items() if value is not None}
        _refuse_unknown(given, where, named)
        every = _DEFAULTS[named] | {key: value for key, value in given.items() if key in _KNOWN}
        reader = _Reader(every, where)
        patches = named == "Siglip2"
        resize, crop = reader.flag("do_resize"), reader.flag("do_center_crop")
        wanted_crop = reader.crop() if crop else None
        square = bool(given.get("default_to_square", named in _SQUARE_NUMBER))
        size = None if patches or not resize else reader.size(square) if named != "VJEPA2" else None
        if named == "VJEPA2" and resize:  # the official class sets the size from the crop, whatever the JSON says
            size = int(reader.crop()[0] * 256 / 224)
        if patches and not resize:
            raise ConfigError(f"{where}: do_resize is false, which is not supported for patches. {_HELP}")
        normalize = reader.flag("do_normalize")
        rescale = reader.factor() if reader.flag("do_rescale") else None
        offset = reader.flag("offset")
        if offset and rescale is None:
            raise ConfigError(f"{where}: offset needs do_rescale")
        return cls(
            kind=named,
            size=size,
            filter=reader.filter(),
            crop=wanted_crop,
            rescale=rescale,
            offset=offset,
            mean=reader.colours("image_mean") if normalize else None,
            std=reader.colours("image_std", positive=True) if normalize else None,
            float_resize=named == "DINOv3ViT" and rescale is not None,
            patch_size=reader.whole("patch_size") if patches else None,
            max_patches=reader.whole("max_num_patches") if patches else None,
        )

    def describe(self) -> dict[str, Any]:
        """The steps as JSON, without those that are not done."""
        steps = {name: value for name, value in asdict(self).items() if value is not None and value is not False}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in steps.items()}

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of every result; None if it depends on the frame."""
        return self.crop or (self.size if isinstance(self.size, tuple) else None)

    def __call__(self, frames: np.ndarray[Any, Any]) -> dict[str, Tensor]:
        """Preprocess frames (T, H, W, 3) uint8.

        Returns: `pixel_values` (T, 3, height, width) float32; with patches `pixel_values` (T, max_patches, patch_size *
        patch_size * 3) float32, `pixel_attention_mask` (T, max_patches) int32, 1 for patches of the picture and 0 for
        padding, and `spatial_shapes` (T, 2) int64, rows and columns of patches.
        """
        pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        values = pictures.to(torch.float32)
        if self.float_resize and self.rescale is not None:
            values = values * self.rescale
        size = self._target(values.shape[-2], values.shape[-1])
        if size is not None:
            values = resized(values, size, self.filter, rounded=not self.float_resize)
        if self.crop is not None:
            values = _centre(values, *self.crop)
        if self.rescale is not None and not self.float_resize:
            values = values * self.rescale
        if self.offset:
            values = values - 1
        if self.mean is not None and self.std is not None:
            values = (values - _per_colour(self.mean)) / _per_colour(self.std)
        if self.patch_size is None or self.max_patches is None:
            return {"pixel_values": values}
        return _patches(values, self.patch_size, self.max_patches)

    def _target(self, height: int, width: int) -> tuple[int, int] | None:
        if self.patch_size is not None and self.max_patches is not None:
            return _most_patches(height, width, self.patch_size, self.max_patches)
        if self.size is None or isinstance(self.size, tuple):
            return self.size
        longest = int(self.size * max(height, width) / min(height, width))
        return (longest, self.size) if width <= height else (self.size, longest)


def _refuse_unknown(given: Mapping[str, Any], where: str, kind: str) -> None:
    own = {"patch_size", "max_num_patches"} if kind == "Siglip2" else {"offset"} if kind == "Vivit" else set()
    foreign = {"patch_size", "max_num_patches", "offset"} - own
    for key, value in given.items():
        harmless = key.startswith("do_") and value is False  # a step that is not done
        if key == "data_format" and value in ("channels_first", "ChannelDimension.FIRST"):
            continue
        if (key not in _KNOWN | _IGNORED or key in foreign) and not harmless:
            raise ConfigError(
                f"{where}: the key {key!r} ({value!r}) is a step of preprocessing that mnprobe does not do for "
                f"{kind}. {_HELP}"
            )


@dataclass(frozen=True)
class _Reader:
    """Checked values of a processor's JSON."""

    fields: Mapping[str, Any]
    where: str

    def flag(self, key: str) -> bool:
        value = self.fields.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def whole(self, key: str) -> int:
        return self._pixels(key, self.fields.get(key))

    def factor(self) -> float:
        value: Any = self.fields.get("rescale_factor")
        if not _is_number(value) or value <= 0:
            raise self._wrong("rescale_factor", "a number above 0")
        return float(value)

    def colours(self, key: str, *, positive: bool = False) -> tuple[float, ...]:
        value = self.fields.get(key)
        numbers = [value] * 3 if _is_number(value) else value
        wanted = f"one number or three{' above 0' if positive else ''}"
        if not isinstance(numbers, list | tuple) or len(numbers) != 3 or not all(map(_is_number, numbers)):
            raise self._wrong(key, wanted)
        if positive and min(numbers) <= 0:
            raise self._wrong(key, wanted)
        return tuple(float(number) for number in numbers)

    def filter(self) -> Literal["nearest-exact", "bilinear", "bicubic"]:
        value = self.fields.get("resample")
        if isinstance(value, bool) or value not in _FILTERS:
            name = f" ({_FILTER_NAMES[value]})" if value in _FILTER_NAMES else ""
            raise ConfigError(
                f"{self.where}: resample {value!r}{name} is not supported, only 0 (nearest), 2 (bilinear) and 3 "
                f"(bicubic). {_HELP}"
            )
        return _FILTERS[value]

    def crop(self) -> tuple[int, int]:
        found = self._size("crop_size", square=True)
        if isinstance(found, int):
            raise self._wrong("crop_size", "a number, or height and width")
        return found

    def size(self, square: bool) -> Size:
        return self._size("size", square=square)

    def _size(self, key: str, *, square: bool) -> Size:
        value = self.fields.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            edge = self._pixels(key, value)
            return (edge, edge) if square else edge
        if isinstance(value, list | tuple) and len(value) == 2:
            return self._pixels(key, value[0]), self._pixels(key, value[1])
        parts = {name: edge for name, edge in value.items() if edge is not None} if isinstance(value, dict) else {}
        if set(parts) == {"height", "width"}:
            return self._pixels(key, parts["height"]), self._pixels(key, parts["width"])
        if set(parts) == {"shortest_edge"}:
            return self._pixels(key, parts["shortest_edge"])
        raise self._wrong(key, "a number, height and width, or shortest_edge")

    def _pixels(self, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(key, "whole numbers from 1")
        return value

    def _wrong(self, key: str, wanted: str) -> ConfigError:
        return ConfigError(f"{self.where}: {key} must be {wanted}, got {self.fields.get(key)!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def resized(values: Tensor, size: tuple[int, int], filter: str, *, rounded: bool) -> Tensor:
    """Resize; with `rounded` rows first, then columns, each rounded to grey levels, as PIL and torchvision do."""
    if filter == "nearest-exact":
        return functional.interpolate(values, size=list(size), mode=filter)
    steps = [(values.shape[-2], size[1]), size] if rounded else [size]
    for step in steps:
        values = functional.interpolate(values, size=list(step), mode=filter, antialias=True, align_corners=False)
        values = (values.clamp(0, 255) + 0.5).floor() if rounded else values  # halves up, as they do
    return values


def _centre(values: Tensor, height: int, width: int) -> Tensor:
    """Cut the centre, after padding with black where a picture is smaller."""
    more_rows, more_columns = max(height - values.shape[-2], 0), max(width - values.shape[-1], 0)
    if more_rows or more_columns:
        values = functional.pad(
            values, (more_columns // 2, (more_columns + 1) // 2, more_rows // 2, (more_rows + 1) // 2)
        )
    top, left = (values.shape[-2] - height) // 2, (values.shape[-1] - width) // 2
    return values[..., top : top + height, left : left + width]


def _per_colour(numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None]


def _most_patches(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Size of the largest picture of (nearly) this aspect ratio that has at most `most` patches, by bisection.

    >>> _most_patches(240, 320, 16, 256)
    (224, 288)
    """

    def whole_patches(length: int, scale: float) -> int:
        return max(patch, math.ceil(length * scale / patch) * patch)

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        count = whole_patches(height, scale) * whole_patches(width, scale) / patch**2
        low, high = (scale, high) if count <= most else (low, scale)
    return whole_patches(height, low), whole_patches(width, low)


def _patches(values: Tensor, patch: int, most: int) -> dict[str, Tensor]:
    frames, colours, height, width = values.shape
    rows, columns = height // patch, width // patch
    grid = values.reshape(frames, colours, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    flat = grid.reshape(frames, rows * columns, -1)
    mask = torch.zeros(frames, most, dtype=torch.int32)
    mask[:, : rows * columns] = 1
    return {
        "pixel_values": functional.pad(flat, (0, 0, 0, most - rows * columns)),
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[rows, columns]] * frames),
    }
