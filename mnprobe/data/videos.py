"""Natural videos in class-named folders: discovery and sparse decoding.

    folder/playing_guitar/a.mp4   folder/playing_guitar/b.webm   folder/riding_a_bike/c.gif

Decoding is PyAV's (the extra "video"). Files are untrusted: only video containers are opened, never a playlist or
script that names other files, and links must not point outside the folder.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["SUFFIXES", "Video", "find_videos", "read_video"]

SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".gif", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv")
)
"""File extensions of videos; other files are ignored."""

# Videos in unsupported containers, which are reported; all other files are ignored.
_OTHER_VIDEOS = frozenset(
    (
        ".mts",
        ".m2ts",
        ".m2v",
        ".vob",
        ".divx",
        ".asf",
        ".f4v",
        ".3g2",
        ".mxf",
        ".rmvb",
        ".mpe",
        ".h264",
        ".h265",
        ".hevc",
    )
)
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif,mpeg,mpegts,mpegvideo,asf,flv,ogg"
_LARGEST = 2**26  # maximum pixels of a frame: allows 8K, rejects a malicious header
_QUARTER = 90


@dataclass(frozen=True, order=True)
class Video:
    """A video file; `name` is "<class folder>/<file>", `label` the class in words."""

    name: str
    label: str
    path: Path


def find_videos(folder: Path, *, skip: Callable[[str], None] | None = None) -> tuple[Video, ...]:
    """Find the videos in class-named folders, by name; underscores of a class become spaces.

    Args:
        folder: folder of one folder per class, with video files directly in it. Hidden and other files are ignored.
        skip: called with one message for each skipped file: a link to outside, an unsupported extension, or a file
            deeper than its class folder.

    Raises:
        DataError: naming the folder or file: no such folder, fewer than two classes with videos, videos next to the
            class folders, two folders of one class, or (without `skip`) a file that would be skipped.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"--videos {root}: {'is a file' if root.exists() else 'there is no such folder'}")
    inside = root.resolve()
    loose = [path.name for path in _visible(root) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    if loose:
        raise DataError(
            f"--videos {root}: {loose[0]} and {len(loose) - 1} more videos lie beside the class folders; put each into "
            "a folder that is named after what it shows"
            if len(loose) > 1
            else f"--videos {root}: {loose[0]} lies beside the class folders; put it into one named after what it shows"
        )
    videos: list[Video] = []
    classes: dict[str, str] = {}
    for group in _visible(root):
        if not group.is_dir():
            continue
        label = " ".join(group.name.replace("_", " ").split())
        files = [path for path in _visible(group) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
        for path in _overlooked(group):
            message = (
                f"{path}: is not read; videos lie right in the folder of their class, ending in "
                f"{' '.join(sorted(SUFFIXES))}"
            )
            if skip is None:
                raise DataError(f"{message}. Move or convert it, or leave it out with --skip-broken")
            skip(message)
        if not files:
            continue
        other = classes.setdefault(label.lower(), group.name)
        if other != group.name:
            raise DataError(f"--videos {root}: {other!r} and {group.name!r} mean one class, {label!r}; join them")
        for path in files:
            if not path.resolve().is_relative_to(inside):
                message = f"{path}: leads out of {root} to {path.resolve()}, which is not read"
                if skip is None:
                    raise DataError(f"{message}; copy the file there, or leave it out with --skip-broken")
                skip(message)
                continue
            videos.append(Video(name=f"{group.name}/{path.name}", label=label, path=path))
    labels = {video.label for video in videos}
    if len(labels) < 2:
        raise DataError(
            f"--videos {root}: recognition needs videos of at least two classes, found {len(videos)} of "
            f"{', '.join(sorted(labels)) or 'none'}. They lie in <class>/<file>, ending in {' '.join(sorted(SUFFIXES))}"
        )
    return tuple(sorted(videos))


def read_video(path: Path, choose: Callable[[int], Sequence[int]]) -> NDArray[np.uint8]:
    """Read frames of a video as displayed, with rotation applied, RGB. Only required frames are decoded.

    Args:
        path: the file.
        choose: maps the number of frames to the selected frame indices, ascending; repetitions are allowed.

    Returns: (T, H, W, 3) uint8.

    Raises:
        DataError: naming the file: empty, without video, not decodable, damaged in a required part, rotated by an angle
            other than a multiple of 90 degrees, or of changing size.
        ConfigError: when PyAV is not installed.
    """
    times, keys = _listed(path)
    count = len(times) if times else _counted(path)
    wanted = [int(index) for index in choose(count)]
    picked = sorted(set(wanted))
    found = _by_seeking(path, times, keys, picked) if times else None
    if found is None:
        found = _by_counting(path, picked)
    if len(found) < len(picked):
        raise DataError(f"{path}: damaged: of {count} frames, number {picked[len(found)]} cannot be decoded")
    shapes = sorted({frame.shape for frame in found})
    if len(shapes) > 1:
        raise DataError(f"{path}: its images change their size, from {_size(shapes[0])} to {_size(shapes[-1])}")
    return np.stack([found[bisect_left(picked, index)] for index in wanted])


def _overlooked(group: Path) -> list[Path]:
    """Files in a class folder that look like videos but would be skipped: other extensions, deeper folders."""
    found = []
    for path in _visible(group):
        if path.is_dir():
            deeper = [inner for inner in _visible(path) if inner.suffix.lower() in SUFFIXES | _OTHER_VIDEOS]
            found += deeper[:1]
        elif path.suffix.lower() in _OTHER_VIDEOS:
            found.append(path)
    return found


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """Open the container and its first video stream; errors of FFmpeg become a DataError."""
    try:
        import av
    except ImportError:
        raise ConfigError(
            "videos are decoded by PyAV, which is not installed: pip install 'mnprobe[video]' (or pip install av)"
        ) from None
    if not path.is_file():
        raise DataError(f"{path}: {'is no regular file' if path.exists() else 'there is no such file'}")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty")
    attached = av.stream.Disposition.attached_pic
    try:
        with (
            path.open("rb") as file,
            av.open(file, "r", io_open=_refuse, container_options={"format_whitelist": _CONTAINERS}) as container,
        ):
            moving = [stream for stream in container.streams.video if not stream.disposition & attached]
            if not moving:
                other = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise DataError(f"{path}: there is no video in it, only {other}")
            size = moving[0].codec_context.width, moving[0].codec_context.height
            if size[0] * size[1] > _LARGEST:
                raise DataError(f"{path}: images of {size[0]} x {size[1]} pixels; at most {_LARGEST} pixels are read")
            yield container, moving[0]
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: cannot be decoded as a video ({error.strerror})") from error


def _refuse(url: str, flags: int, options: dict[str, Any]) -> Any:
    """Forbid containers to open another file."""
    raise PermissionError(f"a video must not open other files, asked was {url!r}")


def _listed(path: Path) -> tuple[list[int], list[int]]:
    """Times of all frames and of the key frames, ascending, without decoding; empty if the file has none."""
    with _opened(path) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        if not packets:
            raise DataError(f"{path}: holds no frame")
        times = [packet.pts for packet in packets if packet.pts is not None]
        if len(times) < len(packets) or len(set(times)) < len(times):
            return [], []
        return sorted(times), sorted(p.pts for p in packets if p.is_keyframe and p.pts is not None)


def _counted(path: Path) -> int:
    """Count the frames of a file without frame times."""
    with _opened(path) as (container, stream):
        count = sum(1 for _ in container.decode(stream))
    if not count:
        raise DataError(f"{path}: holds no frame that can be decoded")
    return count


def _by_seeking(path: Path, times: list[int], keys: list[int], picked: list[int]) -> list[NDArray[np.uint8]] | None:
    """Decode from the key frame before each selected frame; None if seeking fails."""
    found: list[NDArray[np.uint8]] = []
    with _opened(path) as (container, stream):
        frames = container.decode(stream)
        last: int | None = None
        for index in picked:
            time = times[index]
            before = bisect_left(keys, time + 1) - 1
            jump = before > 0 and (last is None or keys[before] > last)
            if jump:
                container.seek(keys[before], stream=stream)
                frames = container.decode(stream)
            reached = _next_from(frames, time)
            if reached is None:
                return found if not jump else None
            frame, first = reached
            if jump and first > time:
                return None
            last = frame.pts
            found.append(_image(path, frame, index))
    return found


def _next_from(frames: Iterator["VideoFrame"], time: int) -> "tuple[VideoFrame, int] | None":
    """Return the first frame displayed at `time` or later, and the time of the first decoded frame."""
    first: int | None = None
    for frame in frames:
        if frame.pts is None:
            continue
        first = frame.pts if first is None else first
        if frame.pts >= time:
            return frame, first
    return None


def _by_counting(path: Path, picked: list[int]) -> list[NDArray[np.uint8]]:
    """Decode from the beginning, up to the number of existing frames."""
    frames: list[NDArray[np.uint8]] = []
    with _opened(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if len(frames) == len(picked):
                break
            if number == picked[len(frames)]:
                frames.append(_image(path, frame, number))
    return frames


def _image(path: Path, frame: "VideoFrame", number: int) -> NDArray[np.uint8]:
    """Convert to RGB (H, W, 3), with the rotation of the file applied."""
    if frame.is_corrupt:
        raise DataError(f"{path}: frame {number} is damaged")
    if frame.width * frame.height > _LARGEST:
        raise DataError(f"{path}: frame {number} has {frame.width} x {frame.height} pixels, too many to be read")
    turns, rest = divmod(round(frame.rotation), _QUARTER)
    if rest:
        raise DataError(f"{path}: is to be shown turned by {frame.rotation} degrees; only quarter turns are read")
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns), dtype=np.uint8)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
