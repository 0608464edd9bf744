"""What opening a large LeRobot dataset costs, and reading 8 frames of an episode beside plain PyAV doing the same.

    python benchmarks/own_data.py

Metadata of 10,000 episodes with two cameras, generated in the layouts v3.0 (with the columns of statistics that such
tables have) and v2.1, are opened each in a fresh process: at most 3 s and 300 MB at the peak, imports included.

8 frames of episodes in generated videos (H.264, a key frame every 2nd frame as LeRobot writes, and every 250th; AV1
where PyAV has an encoder) are read by `Episode.images` and by the quicker of two plain programs: one that seeks
to every frame, and one that seeks to the episode and decodes on. Rounds alternate; of each episode the shortest time of
all rounds counts, which a busy machine disturbs least. The ratio must be at most 1.2, else the exit code is 1.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnprobe.data import open_dataset
from mnprobe.data.episode import evenly_spaced

EPISODES, SECONDS, MEGABYTES = 10_000, 3.0, 300
RATIO, ROUNDS, FRAMES = 1.2, 10, 8
LENGTH, LONG, SIZE, FPS = 200, 5, 256, 30
CAMERAS = ("observation.images.front", "observation.images.wrist")

Array = np.ndarray[Any, Any]


def info(version: str, episodes: int, cameras: Sequence[str]) -> dict[str, Any]:
    v3 = version == "v3.0"
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [8], "names": None},
        "action": {"dtype": "float32", "shape": [7], "names": None},
    }
    features |= {
        name: {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]} for name in cameras
    }
    return {
        "codebase_version": version,
        "fps": FPS,
        "features": features,
        "total_episodes": episodes,
        "chunks_size": 1000,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if v3
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }


def write_metadata(root: Path, version: str, episodes: int, cameras: Sequence[str] = CAMERAS) -> None:
    """The folder meta of a dataset whose episodes have LENGTH frames each, 50 to a video file."""
    meta = root / "meta"
    meta.mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps(info(version, episodes, cameras)))
    tasks = [f"put object {number} into the box" for number in range(50)]
    if version != "v3.0":
        rows = ({"episode_index": i, "tasks": [tasks[i % 50]], "length": LENGTH} for i in range(episodes))
        (meta / "episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
        lines = ({"task_index": number, "task": text} for number, text in enumerate(tasks))
        (meta / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return
    pq.write_table(pa.table({"task_index": list(range(50)), "task": tasks}), meta / "tasks.parquet")
    number = np.arange(episodes)
    table: dict[str, Any] = {
        "episode_index": number,
        "tasks": [[tasks[i % 50]] for i in number.tolist()],
        "length": np.full(episodes, LENGTH),
        "data/chunk_index": number // 50_000,
        "data/file_index": number // 50,
        "dataset_from_index": number * LENGTH,
        "dataset_to_index": (number + 1) * LENGTH,
    }
    for name in cameras:
        table[f"videos/{name}/chunk_index"] = number // 50_000
        table[f"videos/{name}/file_index"] = number // 50
        table[f"videos/{name}/from_timestamp"] = number % 50 * LENGTH / FPS
        table[f"videos/{name}/to_timestamp"] = (number % 50 + 1) * LENGTH / FPS
        for kind in ("min", "max", "mean", "std"):
            table[f"stats/{name}/{kind}"] = [[[[0.1 * i]], [[0.2]], [[0.3]]] for i in number.tolist()]
    for name in ("observation.state", "action"):
        for kind in ("min", "max", "mean", "std"):
            table[f"stats/{name}/{kind}"] = np.random.default_rng(0).random((episodes, 8)).tolist()
    folder = meta / "episodes" / "chunk-000"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(table), folder / "file-000.parquet")


def measure_opening(root: Path) -> tuple[float, float, float]:
    """Seconds of the call, seconds with imports, and peak megabytes, in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--open", str(root), str(time.monotonic())],
        check=True,
        capture_output=True,
        text=True,
    )
    call, whole, peak = map(float, done.stdout.split())
    return call, whole, peak


def open_and_report(root: str) -> None:
    started = time.perf_counter()
    dataset = open_dataset(root)
    ended = time.perf_counter()
    assert len(dataset) == EPISODES
    assert dataset[EPISODES - 1].instruction == "put object 49 into the box"
    print(ended - started, time.monotonic() - float(sys.argv[3]), peak_megabytes())


def peak_megabytes() -> float:
    """Peak of this process alone; on Linux ru_maxrss counts the parent's size before exec too."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def write_video(path: Path, codec: str, keys: int) -> None:
    rng = np.random.default_rng(0)
    low = rng.integers(0, 255, (LONG * LENGTH // 10 + 2, 8, 8, 3)).astype(np.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = keys
        stream.options = {"preset": "12"} if "av1" in codec else {"crf": "28", "preset": "veryfast"}
        for i in range(LONG * LENGTH):
            mix = low[i // 10] * (1 - i % 10 / 10) + low[i // 10 + 1] * (i % 10 / 10)
            image = np.kron(mix, np.ones((SIZE // 8, SIZE // 8, 1))).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def seek_to_each(path: Path, start: float, indices: Sequence[int]) -> Array:
    images = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        for index in indices:
            wanted = round((start + index / FPS) / float(stream.time_base))
            container.seek(wanted, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= wanted:
                    images.append(frame.to_ndarray(format="rgb24"))
                    break
    return np.stack(images)


def decode_on(path: Path, start: float, indices: Sequence[int]) -> Array:
    images: list[Array] = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        base = float(stream.time_base)
        container.seek(round(start / base), stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and round((frame.pts * base - start) * FPS) == indices[len(images)]:
                images.append(frame.to_ndarray(format="rgb24"))
                if len(images) == len(indices):
                    break
    return np.stack(images)


def compare_reading(root: Path, codec: str, keys: int) -> float:
    """Time of mnprobe as a multiple of that of the quicker plain program."""
    write_metadata(root, "v3.0", LONG, CAMERAS[:1])
    path = root / "videos" / CAMERAS[0] / "chunk-000" / "file-000.mp4"
    write_video(path, codec, keys)
    dataset = open_dataset(root)
    indices = evenly_spaced(LENGTH, FRAMES)
    programs: dict[str, Callable[[int], Array]] = {
        "own": lambda i: dataset[i].images("front", indices),
        "each": lambda i: seek_to_each(path, i * LENGTH / FPS, indices),
        "on": lambda i: decode_on(path, i * LENGTH / FPS, indices),
    }
    best = {name: [float("inf")] * LONG for name in programs}
    for number in range(ROUNDS * LONG):
        episode, images = number % LONG, []
        for name, program in programs.items():
            started = time.perf_counter()
            images.append(program(episode))
            best[name][episode] = min(best[name][episode], time.perf_counter() - started)
        assert all(np.array_equal(images[0], other) for other in images[1:])
    took = {name: sum(times) / LONG * 1e3 for name, times in best.items()}
    ratio = took["own"] / min(took["each"], took["on"])
    print(
        f"{codec}, a key frame every {keys}: 8 of {LENGTH} frames in {took['own']:.1f} ms, {ratio:.2f} x plain PyAV "
        f"({took['each']:.1f} ms seeking to each, {took['on']:.1f} ms decoding on)"
    )
    return ratio


def main() -> int:
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for version in ("v3.0", "v2.1"):
            root = Path(folder) / version
            write_metadata(root, version, EPISODES)
            call, whole, peak = measure_opening(root)
            good &= whole <= SECONDS and peak <= MEGABYTES
            print(
                f"{EPISODES} episodes, {version}: {call:.2f} s ({whole:.2f} s with imports), {peak:.0f} MB at the peak"
            )
        codecs = [("libx264", 2), ("libx264", 250)]
        codecs += [("libsvtav1", 2)] if "libsvtav1" in av.codecs_available else []
        for codec, keys in codecs:
            good &= compare_reading(Path(folder) / f"{codec}-{keys}", codec, keys) <= RATIO
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--open"]:
        open_and_report(sys.argv[2])
    else:
        sys.exit(main())
