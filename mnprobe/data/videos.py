"""Natural videos in class-named folders: discovery and sparse decoding.

    folder/playing_guitar/a.mp4   folder/playing_guitar/b.webm   folder/riding_a_bike/c.gif

Decoding is PyAV's (the extra "video"). Files are untrusted: only video containers are opened, never a playlist or
script that names other files, and links must not point outside the folder.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["SUFFIXES", "FrameList", "Video", "find_videos", "list_frames", "read_listed", "read_numbered", "read_video"]

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
_USUAL_RATE = 25  # frames per second of a file that tells none
_USUAL_KEYS = 12  # frames between key frames where the file has no index


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
    listed = list_frames(path, seconds=False)
    return read_listed(path, listed, [int(index) for index in choose(listed.count)])


def read_listed(path: Path, listed: "FrameList", wanted: Sequence[int]) -> NDArray[np.uint8]:
    """Read frames by index, in any order, of a file whose frames are known; see `read_video`."""
    picked = sorted(set(wanted))
    found = _by_seeking(path, listed.times, listed.keys, picked) if listed.times else None
    if found is None:
        found = _by_counting(path, picked)
    if len(found) < len(picked):
        raise DataError(f"{path}: damaged: of {listed.count} frames, number {picked[len(found)]} cannot be decoded")
    return _stacked(path, [found[bisect_left(picked, index)] for index in wanted])


def read_numbered(
    path: Path, numbers: Sequence[int], *, fps: float, length: int, start: float | None = None, at_least: int = 0
) -> NDArray[np.uint8]:
    """Read frames by number in a part of a video: the number of a frame is `round((time - start) * fps)`.

    Args:
        path: the file.
        numbers: of the frames, 0 .. length - 1, in any order; repetitions are allowed.
        fps: frames per second.
        length: number of frames of the part.
        start: time of the part's first frame in seconds; None if the part is the whole file, which must then have
            exactly `length` frames.
        at_least: number of frames that the file has at least.

    Returns: (n, H, W, 3) uint8.

    Raises:
        DataError: as `read_video`, and for a file with fewer frames, or without one of these numbers.
        ConfigError: when PyAV is not installed.
    """
    picked = sorted(set(numbers))
    found: dict[int, NDArray[np.uint8]] = {}
    with _opened(path) as (container, stream):
        if stream.frames and (stream.frames != length if start is None else stream.frames < at_least):
            raise DataError(
                f"{path}: has {stream.frames} frames, the dataset says {length if start is None else at_least}. "
                "The file or the dataset's table of episodes is damaged or of another version; download both again"
            )
        frames: Iterator[VideoFrame] = iter(())
        clock = _Clock(stream, fps, start)
        last: int | None = None
        for number in picked:
            if last is None or clock.key_between(last, number):
                from_start = last is None and not number and not start
                frames = container.decode(stream) if from_start else _seek(container, stream, clock, number)
            for frame in frames:
                if frame.pts is None:
                    raise DataError(f"{path}: its frames have no times; convert it to MP4")
                last = clock.number(frame.pts)
                if last >= number:
                    break
            else:
                raise DataError(
                    f"{path}: ends before frame {number} of {length} ({number / fps:.2f} s after the episode's start); "
                    "it is truncated, or the dataset's table of episodes is of another version. Download both again"
                )
            if last != number:
                raise DataError(
                    f"{path}: has no frame {number} of {length} ({number / fps:.2f} s after the episode's start): then "
                    f"comes frame {last} at {fps:g} frames a second. Write the video with constant frame rate"
                )
            found[number] = _image(path, frame, number)
    return _stacked(path, [found[number] for number in numbers])


@dataclass(frozen=True, eq=False)
class FrameList:
    """Frames of a file: time stamps of all and of the key frames, ascending, empty if there are none; how many frames
    there are; and their times in seconds from the first."""

    times: list[int]
    keys: list[int]
    count: int
    seconds: NDArray[np.float64]


def list_frames(path: Path, *, seconds: bool = True) -> FrameList:
    """List the frames of a file; nothing is decoded, except in files without time stamps.

    Raises as `read_video`.
    """
    times, keys = _listed(path)
    count = len(times) if times else _counted(path)
    if not seconds:
        return FrameList(times, keys, count, np.zeros(0))
    with _opened(path) as (_, stream):
        base, rate = stream.time_base, stream.average_rate
    if times and base is not None:
        return FrameList(times, keys, count, (np.array(times, dtype=np.float64) - times[0]) * float(base))
    return FrameList(times, keys, count, np.arange(count, dtype=np.float64) / float(rate or _USUAL_RATE))


class _Clock:
    """Converts between the numbers of frames and the time stamps of a stream."""

    def __init__(self, stream: "VideoStream", fps: float, start: float | None) -> None:
        if stream.time_base is None:
            raise DataError(f"{stream}: the video has no time base")
        self._base = float(stream.time_base)
        self._fps = fps
        self._origin = float(stream.start_time or 0) * self._base if start is None else start
        self._index: Any = getattr(stream, "index_entries", None) or None  # of PyAV >= 16

    def number(self, pts: int) -> int:
        return round((pts * self._base - self._origin) * self._fps)

    def pts(self, number: int) -> int:
        return round((self._origin + number / self._fps) / self._base)

    def key_between(self, last: int, number: int) -> bool:
        """Whether a key frame lies after frame `last` and not after `number`, so that seeking saves decoding."""
        if number - last <= 1:
            return False
        if self._index is None:
            return number - last > _USUAL_KEYS
        key = self._index.search_timestamp(self.pts(number), backward=True)
        return bool(key >= 0 and self.number(self._index[key].timestamp) > last)


def _seek(container: "InputContainer", stream: "VideoStream", clock: _Clock, number: int) -> Iterator["VideoFrame"]:
    """Frames from a key frame at or before `number`; from the beginning of the file if seeking does not find one."""
    for earlier in (0.0, 2.0, 20.0):
        container.seek(clock.pts(number) - round(earlier / float(stream.time_base or 1)), stream=stream)
        frames = container.decode(stream)
        first = next(frames, None)
        if first is not None and first.pts is not None and clock.number(first.pts) <= number:
            return chain([first], frames)
    container.seek(stream.start_time or 0, stream=stream)
    return container.decode(stream)


def _stacked(path: Path, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise DataError(f"{path}: its images change their size, from {_size(shapes[0])} to {_size(shapes[-1])}")
    return np.stack(images)


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
            av.open(
                file,
                "r",
                io_open=_refuse,
                container_options={"format_whitelist": _CONTAINERS},
                metadata_errors="replace",
            ) as container,
        ):
            moving = [stream for stream in container.streams.video if not stream.disposition & attached]
            if not moving:
                other = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise DataError(f"{path}: there is no video in it, only {other}")
            if moving[0].codec_context is None:
                raise DataError(
                    f"{path}: its codec is not known to PyAV, so it cannot be decoded. Convert the video, for example "
                    "with ffmpeg -i FILE -c:v libx264 NEW.mp4"
                )
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
