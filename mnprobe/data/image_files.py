"""Image folders of an episode: listing the images and reading them with checks."""

import re
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import DataError
from mnprobe.data.camera import camera_order
from mnprobe.data.images import KINDS, ImageKind, png_size, read_png
from mnprobe.data.layout import require_inside

__all__ = ["ImageFiles"]

_IMAGE = re.compile(r"([0-9]{1,9})\.png", re.IGNORECASE)
_PICTURES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".exr", ".npy", ".npz")
)
_FOLDER = re.compile(rf"([A-Za-z0-9_.-]+)_({'|'.join(KINDS)})")


class ImageFiles:
    """The `<camera>_<kind>/<frame>.png` files of an episode folder.

    The folder is listed on first access and cached; no image is opened before `read`. Folders and files
    that are links must stay inside `root`.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self._listed: dict[tuple[str, ImageKind], dict[int, Path]] = {}
        self._sizes: dict[str, tuple[int, int, Path]] = {}

    @cached_property
    def kinds(self) -> dict[str, tuple[ImageKind, ...]]:
        """Cameras that have a folder, in PerAct's order, each with the kinds of image it has a folder for."""
        found: dict[str, set[str]] = {}
        for entry in _entries(self.folder):
            if (match := _FOLDER.fullmatch(entry.name)) and entry.is_dir():
                found.setdefault(match[1], set()).add(match[2])
        return {name: tuple(kind for kind in KINDS if kind in found[name]) for name in camera_order(set(found))}

    def frames(self, camera: str, kind: ImageKind) -> tuple[int, ...]:
        """Indices of the frames that have an image, sorted as numbers.

        Leading zeros and the case of the ending do not matter: 7.png, 0007.png and 7.PNG are frame 7.

        Raises DataError for a camera without any folder, for two images of one frame, and for an image whose name is
        not a number and .png: no image is ignored. Hidden files and other files are ignored.
        """
        return tuple(self._images(camera, kind))

    def _images(self, camera: str, kind: ImageKind) -> dict[int, Path]:
        """Paths of the images, by frame."""
        if camera not in self.kinds:
            known = ", ".join(self.kinds) or "none"
            others = [] if self.kinds else sorted(path.name for path in _entries(self.folder) if path.is_dir())
            found = f"; folders there: {', '.join(others[:6])}" if others else ""
            raise DataError(
                f"{self.folder}: no images of camera {camera!r}; cameras here: {known}. Images lie in "
                f"<camera>_rgb/<frame>.png{found}"
            )
        if kind not in self.kinds[camera]:
            return {}
        if (camera, kind) not in self._listed:
            folder = self.folder / f"{camera}_{kind}"
            require_inside(folder, self.root)
            self._listed[camera, kind] = _numbered(folder)
        return self._listed[camera, kind]

    def path(self, camera: str, kind: ImageKind, frame: int) -> Path:
        """Path of an image; DataError naming the folder and its content when that frame is missing."""
        images = self._images(camera, kind)
        frames = tuple(images)
        folder = self.folder / f"{camera}_{kind}"
        if not frames:
            kinds = ", ".join(self.kinds[camera])
            what = "is empty" if kind in self.kinds[camera] else f"is missing; camera {camera!r} has {kinds} here"
            raise DataError(f"{folder}: no {kind} image of frame {frame}, the folder {what}")
        if frame not in frames:
            some = ", ".join(map(str, frames[:8])) + (", ..." if len(frames) > 8 else "")
            raise DataError(
                f"{folder}: no {kind} image of frame {frame}; there are {len(frames)}: {some}. "
                "Is this a dataset trimmed to keyframes?"
            )
        path = images[frame]
        require_inside(path, self.root)
        return path

    def sizes(self, camera: str, kind: ImageKind) -> list[list[object]]:
        """[frame, bytes] of every image; if image names are invalid, [name, bytes] of every file."""
        try:
            return [[frame, path.stat().st_size] for frame, path in self._images(camera, kind).items()]
        except DataError:
            folder = self.folder / f"{camera}_{kind}"
            files = [path for path in _entries(folder) if path.is_file() and not path.name.startswith(".")]
            return [[path.name, path.stat().st_size] for path in sorted(files)]

    def read(self, camera: str, kind: ImageKind, frame: int) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) of one image; all images of a camera in one episode must have one size."""
        path = self.path(camera, kind, frame)
        pixels = read_png(path)
        self._require_size(camera, path, pixels.shape[:2])
        return pixels

    def size(self, camera: str) -> tuple[int, int]:
        """Height and width of this camera's images: those of its first image on disk (only the header is read)."""
        height, width, _ = self._first(camera)
        return height, width

    def check(self, frames: int) -> None:
        """Check a complete episode: every folder has images 0 .. frames - 1, with one size per camera."""
        for camera, kinds in self.kinds.items():
            for kind in kinds:
                have = self.frames(camera, kind)
                if have != tuple(range(frames)):
                    missing = sorted(set(range(frames)).difference(have))
                    detail = f"frame {missing[0]} is missing" if missing else f"frame {have[-1]} is beyond the last"
                    raise DataError(
                        f"{self.folder / f'{camera}_{kind}'}: {len(have)} images for {frames} frames of "
                        f"low_dim_obs.pkl, {detail}. Open the dataset without strict=True if it is trimmed on purpose."
                    )
                for frame in have:
                    path = self.path(camera, kind, frame)
                    self._require_size(camera, path, png_size(path))

    def _require_size(self, camera: str, path: Path, size: tuple[int, ...]) -> None:
        height, width, first = self._first(camera)
        if size != (height, width):
            raise DataError(
                f"{path}: {size[1]} x {size[0]} pixels, but {first} has {width} x {height}; "
                f"all images of camera {camera!r} in one episode must have one size"
            )

    def _first(self, camera: str) -> tuple[int, int, Path]:
        if camera not in self._sizes:
            kinds = (*self.kinds.get(camera, ()), KINDS[0])
            kind = next((kind for kind in kinds if self.frames(camera, kind)), kinds[-1])
            first = self.path(camera, kind, next(iter(self.frames(camera, kind)), 0))
            self._sizes[camera] = (*png_size(first), first)
        return self._sizes[camera]


def _numbered(folder: Path) -> dict[int, Path]:
    """The images of a folder by frame, in order."""
    found: dict[int, Path] = {}
    for path in sorted(_entries(folder)):
        if match := _IMAGE.fullmatch(path.name):
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise DataError(f"{folder}: {other.name} and {path.name} are both frame {int(match[1])}; remove one")
        elif path.suffix.lower() in _PICTURES and not path.name.startswith("."):
            raise DataError(
                f"{folder}: {path.name} is not read: images are PNGs named by the frame's number and .png, from 0, "
                "such as 0.png or 0000.png. Rename (or convert) the images, or move what is none out of the folder"
            )
    return dict(sorted(found.items()))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror or error}") from error
