"""HDF5 files of robomimic, MimicGen, LIBERO and RoboCasa.

One file is a task, one group `data/demo_<N>` an episode.

Layouts: robomimic `docs/datasets/overview.md` and `robomimic/utils/file_utils.py`; LIBERO `scripts/create_dataset.py`
and `libero/libero/benchmark/__init__.py`. Files are untrusted: links and data outside the file are refused.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import DataError
from mnprobe.core.labels import partition_of, some
from mnprobe.data.episode import (
    Opened,
    ReadingOptions,
    RecordedEpisode,
    Signals,
    check_image_size,
    check_text,
    natural_key,
)
from mnprobe.data.layout import require_inside

__all__ = ["HDF5Episode", "open_hdf5"]

_SUFFIXES = (".hdf5", ".h5")
_DEMO = re.compile(r"demo_?[0-9]{1,9}")
_SCENE = re.compile(r"([A-Z][A-Z_]*_SCENE[0-9]+)_(.+)")
_ATTRIBUTES = ("env_args", "problem_info", "bddl_file_name", "macros_image_convention")
_DEEPEST, _MOST_FILES = 4, 20_000
_CONTROL_RATE = 20.0  # frames a second where env_args does not say; robosuite's default
_MOST_FRAMES = 10_000_000
_LARGEST_CHUNK = 2**31  # bytes
_LONGEST_TEXT = 2**24
_STATES_ONLY = (
    "it holds states only, no obs. Render the images first with robomimic's dataset_states_to_obs.py "
    "(robomimic/scripts; MimicGen and LIBERO files need the environment they were made in)"
)
_REMEDY = "Copy or download the file again, or leave it out (--skip-broken)"
_LACKS = {
    "depth": "depth in such files has no common unit, so it is not read",
    "camera matrices": "such files hold no camera matrices",
    "key poses": "such files hold the actions of every step, no key poses",
    "recorded scenes": "scenes are started from robosuite's states, which mnprobe cannot do",
}


def open_hdf5(path: Path, options: ReadingOptions) -> Opened:
    """Find the demonstrations in one HDF5 file, or in all below a folder; reads no image.

    Raises DataError naming the file: damaged, without demonstrations or observations, or with contradicting labels.
    """
    if path.is_dir():
        files = sorted(_files(path), key=lambda file: natural_key(str(file)))
        if not files:
            raise DataError(f"dataset {path}: there is no .hdf5 or .h5 file in it, nor up to {_DEEPEST} folders below")
    else:
        files = [path]
    opened = Opened(format="")
    makers: dict[str, None] = {}
    for file in files:
        try:
            source = _Source(file, options)
            opened.episodes += source.episodes()
        except DataError as error:
            if not options.skip_broken:
                raise
            opened.broken[str(file)] = str(error)
            continue
        makers[source.maker] = None
        opened.notes += source.notes
        opened.flips += [source.flip] if source.images and source.flip not in opened.flips else []
    opened.format = f"HDF5 ({', '.join(makers) or 'robomimic'})"
    return opened


class HDF5Episode(RecordedEpisode):
    """One demonstration of an HDF5 file. Cameras are the image arrays of `obs`, under their names there."""

    def __init__(self, source: "_Source", demo: str, **labels: Any) -> None:
        super().__init__(**labels)
        self._source = source
        self._demo = demo

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        with self._source.demo(self._demo) as demo:
            actions = _array(demo, "actions")
            lengths = {"actions": int(actions.shape[0])}
            obs = _group(demo, "obs")
            lengths |= {f"obs/{name}": int(_array(obs, name).shape[0]) for name in self._source.images}
            told = _attribute(demo, "num_samples")
        if told:
            lengths["num_samples"] = int(told) if told.isascii() and told.isdigit() else -1
        if len(set(lengths.values())) > 1 or not 0 < lengths["actions"] <= _MOST_FRAMES:
            told_all = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise DataError(f"{self.where}: its frames are not as many everywhere: {told_all}. {_REMEDY}")
        return lengths["actions"]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Image arrays of `obs`: (T, H, W, 3) uint8."""
        return self._source.images

    @property
    def times(self) -> NDArray[np.float64]:
        """(T,) seconds by the control frequency of `env_args`; 20 a second where it is not told."""
        return np.arange(len(self), dtype=np.float64) / self._source.rate

    @property
    def state(self) -> Signals | None:
        """All numbers of `obs`, in the order of their names; None if there are none."""
        parts, names = [], []
        with self._source.demo(self._demo) as demo:
            obs = _group(demo, "obs")
            for name in sorted(obs):
                values = obs[name] if isinstance(obs.get(name, getlink=True), h5py.HardLink) else None
                if isinstance(values, h5py.Dataset) and values.ndim in (1, 2) and values.dtype.kind in "fiu":
                    parts.append(_numbers(obs, name, len(self), self.where))
                    names += _names(name, parts[-1].shape[1])
        return Signals(np.concatenate(parts, axis=1), tuple(names)) if parts else None

    @property
    def action(self) -> Signals | None:
        """`actions`."""
        with self._source.demo(self._demo) as demo:
            values = _numbers(demo, "actions", len(self), self.where)
        return Signals(values, tuple(_names("action", values.shape[1])))

    @property
    def lacks(self) -> Mapping[str, str]:
        """Depth, camera matrices, key poses and scenes."""
        return _LACKS

    def _outcome(self) -> int:
        return self._source.outcomes.get(self._demo, -1)

    def _paraphrases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(check_text(text, self) for text in self._texts[1:] if text.strip()))

    def _read(self, camera: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        with self._source.demo(self._demo) as demo:
            images = _image_array(_group(demo, "obs"), camera, self.where)
            once = {index: np.asarray(images[index], dtype=np.uint8) for index in dict.fromkeys(indices)}
        return np.stack([self._source.upright(once[index]) for index in indices])

    def _record(self) -> Any:
        middle = len(self) // 2
        with self._source.demo(self._demo) as demo:
            actions = np.ascontiguousarray(_array(demo, "actions")[()])
            obs = _group(demo, "obs")
            images = []
            for camera in self.cameras:
                array = _image_array(obs, camera, self.where)
                frame = np.ascontiguousarray(array[middle])
                images.append([camera, list(array.shape), hashlib.sha256(frame.tobytes()).hexdigest()])
        digest = hashlib.sha256(actions.tobytes()).hexdigest()
        return [self._demo, len(self), str(actions.dtype), digest, images, self._source.flip]


class _Source:
    """One file: what all its demonstrations have in common."""

    def __init__(self, path: Path, options: ReadingOptions) -> None:
        self.path = path
        self._options = options
        self.notes: list[str] = []
        with self._file() as file:
            data = _group(file, "data")
            facts = {name: _attribute(data, name) or _attribute(file, name) for name in _ATTRIBUTES}
            self.demos = sorted((name for name in data if _DEMO.fullmatch(name)), key=natural_key)
            if not self.demos:
                raise DataError(f"{path}: data holds no demo_<N>, but {some(sorted(data), 3) or 'nothing'}")
            first = _group(data, self.demos[0])
            if "obs" not in first:
                raise DataError(f"{path}: {_STATES_ONLY}")
            self.images, left_out = _cameras(_group(first, "obs"))
            self.env = _json(facts["env_args"], f"{path}: attribute env_args")
            problem = _json(facts["problem_info"], f"{path}: attribute problem_info")
            self.is_libero = bool(problem or facts["bddl_file_name"]) or {"agentview_rgb", "eye_in_hand_rgb"} <= set(
                self.images
            )
            self.maker = "LIBERO" if self.is_libero else "robomimic"
            self.flip = self._flip(facts["macros_image_convention"])
            self.partitions = self._partitions(file)
            self.languages = self._languages(data)
        stem = path.stem.removesuffix("_demo")
        self.name = f"{path.resolve().parent.name}/{stem}"
        self.task = stem
        self.texts: tuple[str, ...] = ()
        kwargs = self.env.get("env_kwargs")
        kwargs = kwargs if isinstance(kwargs, dict) else {}
        if self.is_libero:
            scene = _SCENE.fullmatch(stem)
            words = " ".join((scene[2] if scene else stem).split("_"))
            other = problem.get("language_instruction")
            other = " ".join(other) if isinstance(other, list) else other
            self.texts = (words, *([_spoken(other)] if isinstance(other, str) else []))
        else:
            name = self.env.get("env_name")
            self.task = name if isinstance(name, str) and name.strip() else stem
            places = (self.env.get("env_lang"), self.env.get("lang"), kwargs.get("env_lang"), kwargs.get("lang"))
            self.texts = tuple(dict.fromkeys(one for one in places if isinstance(one, str) and one.strip()))[:1]
        rate: Any = kwargs.get("control_freq", self.env.get("control_freq"))
        self.rate = float(rate) if type(rate) in (int, float) and 0 < rate < 1e6 else _CONTROL_RATE
        if left_out:
            self.notes.append(f"{path}: arrays that are no colour images are left out as cameras: {some(left_out)}")
        if not self.images:
            self.notes.append(
                f"{path}: holds no images; robomimic's dataset_states_to_obs.py renders them (--camera_names)"
            )

    def episodes(self) -> list[HDF5Episode]:
        """The demonstrations in the order of their numbers."""
        variations = {text: number for number, text in enumerate(dict.fromkeys(self.languages.values()))}
        made = []
        for demo in self.demos:
            own = self.languages.get(demo)
            made.append(
                HDF5Episode(
                    self,
                    demo,
                    id=f"{self.name}/{demo}",
                    task=self.task,
                    variation=0 if own is None else variations[own],
                    texts=self.texts if own is None else (own,),
                    partition=self.partitions.get(demo, ""),
                    success=None,
                    folder=self.path.parent,
                    where=f"{self.path}, {demo}",
                    overrides=self._options.overrides,
                    decisions=self._options.decisions,
                )
            )
        return made

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """Outcome by demonstration; {} where the file's rewards tell nothing.

        LIBERO writes the same rewards whatever happened. In other files an episode is a success if any reward is above
        0, unless all rewards of the file are one number.
        """
        if self.is_libero:
            return {}
        best: dict[str, float] = {}
        values: set[float] = set()
        with self._file() as file:
            data = _group(file, "data")
            for name in self.demos:
                demo = _group(data, name)
                if "rewards" not in demo:
                    continue
                rewards = np.asarray(_array(demo, "rewards")[()], dtype=np.float64)
                if rewards.size and np.isfinite(rewards).all():
                    best[name] = float(rewards.max())
                    values.update((float(rewards.min()), float(rewards.max())))
        return {name: int(top > 0) for name, top in best.items()} if len(values) > 1 else {}

    @contextmanager
    def demo(self, name: str) -> Iterator[Any]:
        """The group of one demonstration, with the file open."""
        with self._file() as file:
            group = _group(_group(file, "data"), name)
            if "obs" not in group:
                raise DataError(f"{self.path}, {name}: {_STATES_ONLY}")
            yield group

    @contextmanager
    def _file(self) -> Iterator[Any]:
        """The open file; errors of HDF5 become a DataError."""
        if not self.path.is_file():
            raise DataError(f"{self.path}: {'is no file' if self.path.exists() else 'there is no such file'}")
        try:
            with h5py.File(self.path, "r") as file:
                yield file
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            text = " ".join(str(error).split())[:200]
            raise DataError(f"{self.path}: cannot be read as HDF5 ({text}). {_REMEDY}") from error

    def upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a stored image as `flip` says."""
        if self.flip == "vertical":
            return image[::-1]
        return image[::-1, ::-1] if self.flip == "rotate180" else image

    def _flip(self, convention: str) -> str:
        if self._options.flip != "auto":
            return self._options.flip
        if self.is_libero and not convention and self.images:
            self.notes.append(
                f"{self.path}: does not say how its images are stored, so they are taken as they are; LIBERO's own "
                "files are bottom-up (--flip vertical)"
            )
        return "vertical" if convention.strip().lower() == "opengl" else "none"

    def _partitions(self, file: Any) -> dict[str, str]:
        """Partition by demonstration from mask/*; {} unless every demonstration is in one that is known."""
        if "mask" not in file:
            return {}
        mask = _group(file, "mask")
        found: dict[str, str] = {}
        for name in sorted(mask):
            meant = partition_of(name)
            if not meant:
                continue
            for entry in np.atleast_1d(_array(mask, name, kinds="SOU")[()]).tolist():
                demo = _text(entry)
                if found.setdefault(demo, meant) != meant:
                    raise DataError(
                        f"{self.path}: mask puts {demo} into {found[demo]} and {meant}; an episode is in one"
                    )
        if found and set(self.demos) - set(found):
            self.notes.append(f"{self.path}: mask names no partition for {len(set(self.demos) - set(found))} episodes")
            return {}
        if "val" in found.values() and "test" not in found.values():
            found = {demo: "test" if meant == "val" else meant for demo, meant in found.items()}
        return found

    def _languages(self, data: Any) -> dict[str, str]:
        """Instruction by demonstration where each has its own (RoboCasa: attribute ep_meta)."""
        found = {}
        for name in self.demos:
            if "ep_meta" not in _group(data, name).attrs:
                return {}
            where = f"{self.path}, {name}: attribute ep_meta"
            text = _json(_attribute(data[name], "ep_meta"), where).get("lang")
            if not isinstance(text, str) or not text.strip():
                return {}
            found[name] = text.strip()
        return found


def _files(folder: Path) -> list[Path]:
    """HDF5 files of demonstrations below a folder; other HDF5 files (stores of features) are left out."""
    root = folder.resolve()
    found: list[Path] = []
    level = [folder]
    for _ in range(_DEEPEST + 1):
        below: list[Path] = []
        for one in level:
            for path in sorted(one.iterdir()):
                if path.name.startswith("."):
                    continue
                if path.is_dir():
                    if not path.is_symlink():
                        below.append(path)
                elif path.suffix.lower() in _SUFFIXES:
                    require_inside(path, root)
                    if not _is_store(path):
                        found.append(path)
                if len(found) + len(below) > _MOST_FILES:
                    raise DataError(f"dataset {folder}: over {_MOST_FILES} files; give a folder nearer to the files")
        level = below
    return found


def _is_store(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return "data" not in file and "layers" in file
    except OSError:
        return False  # the reader says what is wrong


def _cameras(obs: Any) -> tuple[tuple[str, ...], list[str]]:
    """Names of the colour images of `obs`, and of other arrays that look like images."""
    images, others = [], []
    for name in sorted(obs):
        link = obs.get(name, getlink=True)
        array = obs[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(array, h5py.Dataset) or array.ndim not in (3, 4):
            continue
        if array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8:
            images.append(name)
        else:
            others.append(name)
    return tuple(images), others


def _group(parent: Any, name: str) -> Any:
    """A group stored in this file."""
    found = _own(parent, name)
    if not isinstance(found, h5py.Group):
        raise DataError(f"{_place(parent, name)}: must be a group, found an array. {_REMEDY}")
    return found


def _array(parent: Any, name: str, kinds: str = "biuf") -> Any:
    """An array stored in this file, with elements of the given kinds."""
    found = _own(parent, name)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{_place(parent, name)}: must be an array, found a group. {_REMEDY}")
    if found.is_virtual or found.external:
        raise DataError(f"{_place(parent, name)}: its data lie outside this file, which is not read")
    if found.shape is None or not found.ndim or found.dtype.kind not in kinds:
        raise DataError(f"{_place(parent, name)}: has the type {found.dtype}, shape {found.shape}, which is not read")
    if found.chunks is not None and int(np.prod(found.chunks)) * found.dtype.itemsize > _LARGEST_CHUNK:
        raise DataError(
            f"{_place(parent, name)}: is stored in pieces of over {_LARGEST_CHUNK} bytes, which is not read"
        )
    return found


def _image_array(obs: Any, name: str, where: str) -> Any:
    array = _array(obs, name)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise DataError(
            f"{where}: obs/{name} has shape {array.shape}, type {array.dtype}; images are (T, H, W, 3) uint8"
        )
    check_image_size(array.shape[1], array.shape[2], f"{where}: obs/{name}")
    return array


def _numbers(parent: Any, name: str, frames: int, where: str) -> NDArray[Any]:
    array = _array(parent, name)
    if array.ndim not in (1, 2) or array.shape[0] != frames:
        raise DataError(f"{where}: {name} has shape {array.shape}, expected ({frames}, D). {_REMEDY}")
    values: NDArray[Any] = np.asarray(array[()]).reshape(frames, -1)
    return values


def _names(name: str, width: int) -> list[str]:
    return [name] if width == 1 else [f"{name}.{i}" for i in range(width)]


def _own(parent: Any, name: str) -> Any:
    link = parent.get(name, getlink=True)
    if link is None:
        raise DataError(
            f"{_place(parent, name)}: is missing; there are {some(sorted(parent), 8) or 'no entries'}. {_REMEDY}"
        )
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{_place(parent, name)}: is a link to another place, which is not followed")
    return parent[name]


def _place(parent: Any, name: str) -> str:
    return f"{parent.file.filename}: {parent.name.rstrip('/')}/{name}"


def _attribute(group: Any, name: str) -> str:
    """A single text or number among the attributes of a group, as text; '' where there is none."""
    if name not in group.attrs:
        return ""
    held = group.attrs.get_id(name)
    if held.shape not in ((), (1,)) or held.get_storage_size() > _LONGEST_TEXT:
        raise DataError(f"{_place(group, name)}: the attribute is no single text of at most {_LONGEST_TEXT} bytes")
    value = group.attrs[name]
    return _text(value[0] if isinstance(value, np.ndarray) and value.shape == (1,) else value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value[:_LONGEST_TEXT].decode("utf-8", "replace")
    return str(value)[:_LONGEST_TEXT]


def _json(text: str, where: str) -> dict[str, Any]:
    """A JSON object of an attribute; {} where there is none."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not readable as JSON ({error}). {_REMEDY}") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: holds a {type(found).__name__}, expected an object with named entries")
    return found


def _spoken(text: str) -> str:
    return " ".join(text.strip().strip('"').split())
