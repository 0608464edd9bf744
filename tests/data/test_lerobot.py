"""LeRobot folders against what lerobot 0.6.1 reads, seeking in any order, and folders that no one should trust."""

import hashlib
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import describe, open_dataset, videos

GOLDEN = Path(__file__).parents[1] / "golden" / "lerobot"
REFERENCE = json.loads((GOLDEN / "reference.json").read_text())
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"
ROWS = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"


def agrees(image, row, key, number):
    """Whether an image is lerobot's: by its digest, or by pixels within two levels under another build of FFmpeg."""
    facts = row["frames"][key]
    if hashlib.sha256(image.tobytes()).hexdigest() == facts["sha256"][number]:
        return True
    points = [point for point in facts["pixels"] if point["frame"] == number]
    return all(np.abs(image[p["row"], p["col"]].astype(int) - p["rgb"]).max() <= 2 for p in points)


@pytest.mark.parametrize("name", REFERENCE)
def test_everything_is_as_lerobot_reads_it(name):
    dataset = open_dataset(GOLDEN / name)
    assert dataset.kind == "lerobot"
    assert dataset.format == ("LeRobot v2.1" if name == "v21-h264" else "LeRobot v3.0")
    assert len(dataset) == len(REFERENCE[name]["episodes"]) == 5
    for number, (episode, row) in enumerate(zip(dataset, REFERENCE[name]["episodes"], strict=True)):
        assert (len(episode), episode.instruction, episode.success) == (row["length"], row["task"], row["success"])
        assert episode.id == f"{name}/{number % 2}/episode{number}"
        assert (episode.task, episode.variation, episode.partition) == (row["task"], number % 2, "")
        assert episode.cameras == (FRONT, WRIST)
        assert np.allclose(episode.times, np.arange(row["length"]) / 10)
        assert episode.state.values.shape == (row["length"], 8)
        assert episode.state.names == ("x", "y", "z", "rx", "ry", "rz", "g0", "g1")
        assert episode.action.names == ("dx", "dy", "dz", "drx", "dry", "drz", "g")
        for key in row.get("frames", ()):
            images = episode.images(key, range(row["length"]))
            assert all(agrees(image, row, key, i) for i, image in enumerate(images))


def test_the_old_layout_shows_the_same_pictures():
    new, old = open_dataset(GOLDEN / "v30-av1"), open_dataset(GOLDEN / "v21-h264")
    for one, other in zip(new, old, strict=True):
        apart = one.images(FRONT, range(len(one))).astype(int) - other.images("front", range(len(other)))
        assert np.abs(apart).mean() < 12
        assert np.array_equal(one.state.values, other.state.values)


def test_version_2_0_is_read_as_2_1(copy):
    root = copy("v21-h264")
    edit(root / "meta/info.json", codebase_version="v2.0")
    assert open_dataset(root).format == "LeRobot v2.0"


@pytest.fixture(scope="module")
def decoded():
    return {
        name: [episode.images(WRIST, range(len(episode))) for episode in open_dataset(GOLDEN / name)]
        for name in REFERENCE
    }


@pytest.mark.parametrize("indexed", [True, False])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_frames_in_any_order_are_those_of_reading_all(decoded, indexed, data):
    name = data.draw(st.sampled_from(sorted(REFERENCE)))
    number = data.draw(st.integers(0, 4))
    episode, expected = open_dataset(GOLDEN / name)[number], decoded[name][number]
    wanted = data.draw(st.lists(st.integers(-len(episode), len(episode) - 1), min_size=1, max_size=8))
    with pytest.MonkeyPatch.context() as patch:
        if not indexed:  # PyAV before 16 gives no index of frames
            clock = videos._Clock.__init__
            patch.setattr(videos._Clock, "__init__", lambda self, *args: (clock(self, *args), blind(self))[0])
        assert np.array_equal(episode.images("wrist", wanted), expected[wanted])


def blind(clock):
    clock._index = None


def write_video(path, count, *, fps, keys, start=0, extra=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"bf": "3", "crf": "20"})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 32, 48, "yuv420p", keys
        for number in [*range(count), *extra]:
            image = np.full((32, 48, 3), 255 * (number % 16) // 16, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def grey(image):
    return round(float(image.mean()) * 16 / 255)


@pytest.mark.parametrize("keys", [1, 7, 1000])
@pytest.mark.parametrize("drift", [-0.4, 0.0, 0.4])
def test_a_part_of_a_video_is_found_though_its_start_has_drifted(tmp_path, keys, drift):
    path = write_video(tmp_path / "a.mp4", 90, fps=30, keys=keys)
    wanted = [20, 3, 3, 29, 0, 11]
    read = {"fps": 30, "length": 30, "at_least": 90}
    images = videos.read_numbered(path, wanted, start=(30 + drift) / 30, **read)
    assert [grey(image) for image in images] == [(30 + i) % 16 for i in wanted]
    with pytest.raises(DataError, match=r"a\.mp4: ends before frame 29 of 30"):
        videos.read_numbered(path, [29], start=70 / 30, **read)
    with pytest.raises(DataError, match=r"a\.mp4: has 90 frames, the dataset says 91"):
        videos.read_numbered(path, [0], start=0.0, fps=30, length=30, at_least=91)
    with pytest.raises(DataError, match=r"a\.mp4: has no frame 15 of 180 .* comes frame 16"):
        videos.read_numbered(path, [15], start=0.0, fps=60, length=180)


def test_only_as_many_frames_as_the_episode_has(copy):
    episode = open_dataset(copy("v30-av1"))[1]
    assert episode.frames_on_disk(FRONT) == tuple(range(18))
    for index in (18, -19):
        with pytest.raises(DataError, match=f"episode 1: no frame {index}; the episode has frames 0 to 17"):
            episode.image("front", index)


def test_success_is_any_true_frame_and_unknown_without_the_column(copy):
    root = copy("v30-h264")
    assert [episode.success for episode in open_dataset(root)] == [1, 1, 1, 0, 1]
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["next.success"]
    (root / "meta/info.json").write_text(json.dumps(info))
    assert [episode.success for episode in open_dataset(root)] == [-1] * 5
    assert {episode.success for episode in open_dataset(root, outcomes="successful")} == {1}


def test_paraphrases_are_the_rows_of_style_task_aug(copy):
    root = copy("v30-images")
    table = pq.read_table(root / DATA)
    said = [
        {"role": "user", "content": "take the red cube", "style": "task_aug", "timestamp": 0.0},
        {"role": "assistant", "content": "reach the cube", "style": "subtask", "timestamp": 0.0},
        {"role": "user", "content": "grasp the cube", "style": "task_aug", "timestamp": 0.0},
    ]
    pq.write_table(table.append_column("language_persistent", pa.array([said] * table.num_rows)), root / DATA)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["language_persistent"] = {"dtype": "language", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    episode = open_dataset(root)[0]
    assert episode.instructions == ("pick the red cube", "take the red cube", "grasp the cube")
    assert describe(open_dataset(root))["instructions"] == ["open the drawer", "pick the red cube"]


def test_instructions_of_the_user_replace_the_texts(copy):
    given_texts = {"pick the red cube/0": ["lift it", "take it"]}
    dataset = open_dataset(copy("v30-av1"), instructions=given_texts)
    assert dataset[0].instructions == ("lift it", "take it")
    assert dataset[1].instruction == "open the drawer"
    assert dataset.fingerprint() != open_dataset(GOLDEN / "v30-av1").fingerprint()


def test_the_fingerprint_does_not_depend_on_the_path_but_on_the_files(copy):
    root = copy("v30-av1")
    same = open_dataset(GOLDEN / "v30-av1").fingerprint()
    assert open_dataset(root).fingerprint() == same
    content = bytearray((root / VIDEO).read_bytes())
    content[len(content) // 2] ^= 1
    (root / VIDEO).write_bytes(content)
    assert open_dataset(root).fingerprint() != same
    assert open_dataset(GOLDEN / "v30-av1")[0].fingerprint() != open_dataset(GOLDEN / "v30-av1")[2].fingerprint()


def test_images_may_be_files_of_the_dataset(copy):
    root = copy("v30-images")
    table = pq.read_table(root / DATA)
    entries = table.column(FRONT).to_pylist()
    (root / "images").mkdir()
    for number, entry in enumerate(entries):
        (root / "images" / f"{number}.png").write_bytes(entry["bytes"])
        entries[number] = {"bytes": None, "path": f"images/{number}.png"}
    kind = table.schema.field(FRONT).type
    put = table.set_column(table.column_names.index(FRONT), FRONT, pa.array(entries, kind))
    pq.write_table(put, root / DATA)
    expected = open_dataset(GOLDEN / "v30-images")[4].images("front", [20, 1])
    assert np.array_equal(open_dataset(root)[4].images("front", [20, 1]), expected)
    (root / "images" / "0.png").unlink()
    with pytest.raises(DataError, match=r"episode 0, frame 0: the image .*0\.png cannot be read"):
        open_dataset(root)[0].image("front", 0)


def test_cameras_go_by_type_and_depth_is_left_out_and_told(copy):
    root = copy("v21-h264")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][WRIST]["info"]["is_depth_map"] = True
    info["features"]["scene"] = info["features"].pop(FRONT)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "videos/chunk-000" / FRONT).rename(root / "videos/chunk-000/scene")
    dataset = open_dataset(root)
    assert dataset[0].cameras == ("scene",)
    assert dataset[0].image("scene", 16).shape == (96, 128, 3)
    assert any(f"depth maps are left out: {WRIST}" in note for note in dataset.notes)


def test_splits_of_several_known_names_are_partitions(copy):
    root = copy("v30-av1")
    edit(root / "meta/info.json", splits={"train": "0:3", "test": "3:5"})
    assert [episode.partition for episode in open_dataset(root)] == ["train"] * 3 + ["test"] * 2
    assert len(open_dataset(root, partitions=["test"])) == 2


def test_a_link_into_the_cache_of_the_hub_is_followed(copy, tmp_path):
    root = tmp_path / "hub" / "snapshots" / "abc"
    shutil.copytree(copy("v30-av1"), root)
    blobs = tmp_path / "hub" / "blobs"
    blobs.mkdir()
    (root / VIDEO).rename(blobs / "123")
    (root / VIDEO).symlink_to(blobs / "123")
    assert open_dataset(root)[0].image("front", 3).shape == (96, 128, 3)
    outside = tmp_path / "outside.mp4"
    (blobs / "123").rename(outside)
    (root / VIDEO).unlink()
    (root / VIDEO).symlink_to(outside)
    with pytest.raises(DataError, match="leads out of the dataset"):
        open_dataset(root)[0].image("front", 3)


@pytest.mark.parametrize("name", ["pyarrow", "av"])
def test_a_missing_package_is_named_with_its_command(monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ConfigError, match=rf'missing: {name}\. pip install "mnprobe\[data\]"'):
        open_dataset(GOLDEN / "v30-av1")


# ---- broken folders --------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    """A golden folder that a test may change, under its own name."""

    def make(name):
        return Path(shutil.copytree(GOLDEN / name, tmp_path / "copies" / name))

    return make


def edit(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def edit_line(path, number, **entries):
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | entries)
    path.write_text("\n".join(lines))


def edit_rows(path, name, change):
    table = pq.read_table(path)
    values = pa.array(change(table.column(name).to_pylist()))
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


def without_column(path, name):
    pq.write_table(pq.read_table(path).drop_columns([name]), path)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def no_rows(path):
    pq.write_table(pq.read_table(path).slice(0, 0), path)


def feature(root, name, **entries):
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][name] |= entries
    (root / "meta/info.json").write_text(json.dumps(info))


def rename_camera(root, name):
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][name] = info["features"].pop(FRONT)
    (root / "meta/info.json").write_text(json.dumps(info))


def link_out(root):
    shutil.move(root / VIDEO, root.parent / "elsewhere.mp4")
    (root / VIDEO).symlink_to(root.parent / "elsewhere.mp4")


V21 = "videos/chunk-000/observation.images.front/episode_000001.mp4"
INFO, LINES = "meta/info.json", "meta/episodes.jsonl"
BROKEN = {  # name -> folder, damage, message
    "no info": ("v30-av1", lambda r: edit(r / INFO, codebase_version=None), r"info\.json: codebase_version is None"),
    "not JSON": ("v30-av1", lambda r: halve(r / INFO), r"info\.json: not readable as JSON .*Download"),
    "JSON of another kind": ("v30-av1", lambda r: (r / INFO).write_text("[1]"), r"info\.json: holds a list"),
    "nested JSON": ("v30-av1", lambda r: (r / INFO).write_text("[" * 10**5), r"info\.json: not readable as JSON"),
    "not UTF-8": ("v30-av1", lambda r: (r / INFO).write_bytes(b"\xff\xfe"), r"info\.json: is not UTF-8"),
    "old version": (
        "v30-av1",
        lambda r: edit(r / INFO, codebase_version="v1.6"),
        r"'v1\.6'; read are v2\.0, v2\.1, v3",
    ),
    "new version": ("v30-av1", lambda r: edit(r / INFO, codebase_version="v9.0"), r"'v9\.0'; read are .*Convert"),
    "fps of zero": ("v30-av1", lambda r: edit(r / INFO, fps=0), r"info\.json: fps must be a positive number, got 0"),
    "fps a text": ("v30-av1", lambda r: edit(r / INFO, fps="10"), r"info\.json: fps must be a positive number"),
    "fps not finite": ("v30-av1", lambda r: edit(r / INFO, fps=float("inf")), r"info\.json: fps must be a positive"),
    "another fps": ("v30-av1", lambda r: edit(r / INFO, fps=20), r"its length is 17 frames, but 0 to 1\.7 s .* are 34"),
    "features a list": ("v30-av1", lambda r: edit(r / INFO, features=[]), r"info\.json: features is \[\], expected a"),
    "a feature a text": (
        "v30-av1",
        lambda r: edit(r / INFO, features={"x": "video"}),
        r"feature 'x' must be an object",
    ),
    "null video_path": ("v30-av1", lambda r: edit(r / INFO, video_path=None), r"info\.json: video_path is null, but"),
    "null data_path": ("v30-av1", lambda r: edit(r / INFO, data_path=None), r"info\.json: data_path is None, expected"),
    "path upwards": (
        "v30-av1",
        lambda r: edit(r / INFO, video_path="../{video_key}/{chunk_index}.mp4"),
        r"names the file '\.\./.*without \.\.",
    ),
    "absolute path": ("v30-av1", lambda r: edit(r / INFO, data_path="/etc/passwd"), r"names the file '/etc/passwd'"),
    "path with attribute": (
        "v30-av1",
        lambda r: edit(r / INFO, data_path="{chunk_index.__class__}"),
        r"data_path .* may hold only chunk_index",
    ),
    "path of great width": (
        "v30-av1",
        lambda r: edit(r / INFO, data_path="{chunk_index:09999999999d}"),
        r"data_path .* may hold only chunk_index",
    ),
    "path of another field": ("v30-av1", lambda r: edit(r / INFO, data_path="{user}"), r"data_path .* may hold only"),
    "path unfinished": ("v30-av1", lambda r: edit(r / INFO, data_path="{chunk_index"), r"is no pattern of paths"),
    "camera upwards": (
        "v21-h264",
        lambda r: rename_camera(r, "../../secret"),
        r"names the file .*secret.*without \.\.",
    ),
    "link out": ("v30-av1", link_out, r"file-000\.mp4 leads out of the dataset .*elsewhere\.mp4"),
    "no tasks": ("v30-av1", lambda r: (r / "meta/tasks.parquet").unlink(), r"tasks\.parquet: there is no such file"),
    "tasks that are numbers": (
        "v30-av1",
        lambda r: edit_rows(r / "meta/tasks.parquet", "task", lambda rows: [1] * len(rows)),
        r"tasks\.parquet: a task is a text",
    ),
    "unknown task": (
        "v30-av1",
        lambda r: edit_rows(r / ROWS, "tasks", lambda rows: [["dance"]] * 5),
        r"episode 0 has the task 'dance', which the table of tasks",
    ),
    "no table of episodes": ("v30-av1", lambda r: (r / ROWS).unlink(), r"episodes: holds no chunk-\*/file-\*\.parquet"),
    "no episodes": ("v30-av1", lambda r: (no_rows(r / ROWS), edit(r / INFO, total_episodes=0)), r"holds no episode"),
    "fewer episodes than told": ("v30-av1", lambda r: edit(r / INFO, total_episodes=9), r"has 5 episodes, .* says 9"),
    "table cut": ("v30-av1", lambda r: halve(r / ROWS), r"file-000\.parquet: cannot be read as a parquet file"),
    "column missing": ("v30-av1", lambda r: without_column(r / ROWS, "length"), r"has no column 'length'"),
    "column of texts": (
        "v30-av1",
        lambda r: edit_rows(r / ROWS, "length", lambda rows: ["17"] * 5),
        r"column 'length' holds something else than numbers",
    ),
    "duplicate": (
        "v30-av1",
        lambda r: edit_rows(r / ROWS, "episode_index", lambda rows: [0, 1, 1, 3, 4]),
        r"episode_index 1 is there twice",
    ),
    "wrong length in the rows": (
        "v30-av1",
        lambda r: edit_rows(r / ROWS, "length", lambda rows: [18, *rows[1:]]),
        r"episode 0 has the length 18, but 17 rows",
    ),
    "times that are no times": (
        "v30-av1",
        lambda r: edit_rows(r / ROWS, f"videos/{FRONT}/to_timestamp", lambda rows: [float("nan")] * 5),
        r"episode 0: its video observation\.images\.front is said to go from 0\.0 to nan",
    ),
    "video missing": ("v30-av1", lambda r: (r / VIDEO).unlink(), r"file-000\.mp4: there is no such file"),
    "video cut": ("v30-av1", lambda r: halve(r / VIDEO), r"file-000\.mp4: cannot be decoded as a video"),
    "video empty": ("v30-av1", lambda r: (r / VIDEO).write_bytes(b""), r"file-000\.mp4: the file is empty"),
    "video a playlist": ("v30-av1", lambda r: (r / VIDEO).write_text("#EXTM3U\n/etc/passwd\n"), r"cannot be decoded"),
    "codec unknown": ("v30-h264", lambda r: replace(r / VIDEO, b"avc1", b"zzz9"), r"file-000\.mp4: .*codec"),
    "video of fewer frames": ("v30-av1", lambda r: shorter(r), r"file-000\.mp4: has \d+ frames, the dataset says 95"),
    "data missing": ("v30-av1", lambda r: (r / DATA).unlink(), r"file-000\.parquet: there is no such file"),
    "data cut": ("v30-av1", lambda r: halve(r / DATA), r"data.*file-000\.parquet: cannot be read as a parquet file"),
    "data of fewer frames": (
        "v30-av1",
        lambda r: pq.write_table(pq.read_table(r / DATA).slice(1), r / DATA),
        r"has 16 frames of episode 0, expected are 0 to 16",
    ),
    "state of texts": (
        "v30-av1",
        lambda r: edit_rows(r / DATA, "observation.state", lambda rows: ["x"] * len(rows)),
        r"column 'observation\.state'",
    ),
    "no image": (
        "v30-images",
        lambda r: edit_rows(r / DATA, FRONT, lambda rows: [{"bytes": b"no", "path": "a"}] * len(rows)),
        r"front, episode 0, frame 0: cannot be decoded as an image",
    ),
    "image elsewhere": (
        "v30-images",
        lambda r: edit_rows(r / DATA, FRONT, lambda rows: [{"bytes": None, "path": "/etc/hostname"}] * len(rows)),
        r"frame 0: names the file '/etc/hostname'",
    ),
    "line not JSON": ("v21-h264", lambda r: halve(r / LINES), r"episodes\.jsonl, line \d: not readable as JSON"),
    "line without length": ("v21-h264", lambda r: edit_line(r / LINES, 2, length=None), r"line 3: length is None"),
    "length a text": ("v21-h264", lambda r: edit_line(r / LINES, 2, length="19"), r"line 3: length is '19', expected"),
    "length below one": ("v21-h264", lambda r: edit_line(r / LINES, 2, length=0), r"episode 2: its length is 0 frames"),
    "tasks a number": (
        "v21-h264",
        lambda r: edit_line(r / LINES, 2, tasks=[3]),
        r"line 3: tasks must be a list of texts",
    ),
    "duplicate line": (
        "v21-h264",
        lambda r: edit_line(r / LINES, 2, episode_index=1),
        r"episode_index 1 is there twice",
    ),
    "wrong length": (
        "v21-h264",
        lambda r: edit_line(r / LINES, 1, length=17),
        r"_000001\.parquet: has 18 frames of episode 1",
    ),
    "one video missing": ("v21-h264", lambda r: (r / V21).unlink(), r"episode_000001\.mp4: there is no such file"),
    "one video cut": ("v21-h264", lambda r: halve(r / V21), r"episode_000001\.mp4"),
    "empty table": (
        "v21-h264",
        lambda r: ((r / LINES).write_text(""), edit(r / INFO, total_episodes=0)),
        r"no episode",
    ),
}


def shorter(root):
    write_video(root / VIDEO, 60, fps=10, keys=2)


def read_all(root):
    for episode in open_dataset(root):
        assert episode.instruction
        assert len(episode.times) == len(episode)
        assert len(episode.state.values) == len(episode.action.values) == len(episode)
        assert episode.success in (0, 1)
        for camera in episode.cameras:
            assert len(episode.images(camera, range(len(episode)))) == len(episode)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_message_that_names_the_file(copy, case):
    name, damage, message = BROKEN[case]
    root = copy(name)
    read_all(root)
    damage(root)
    with pytest.raises(DataError, match=message) as raised:
        read_all(root)
    assert str(root) in str(raised.value)
    assert len(str(raised.value)) < 700


def test_a_video_of_another_length_than_the_table_says_is_refused(copy):
    root = copy("v21-h264")
    edit_line(root / LINES, 1, length=17)
    with pytest.raises(DataError, match=r"_000001\.mp4: has 18 frames, the dataset says 17"):
        open_dataset(root)[1].image("front", 0)


def test_episodes_that_contradict_the_table_are_left_out_and_listed(copy):
    root = copy("v21-h264")
    edit_line(root / LINES, 2, length=0)
    with pytest.raises(DataError, match="or leave it out"):
        open_dataset(root)
    dataset = open_dataset(root, skip_broken=True)
    assert [episode.number for episode in dataset] == [0, 1, 3, 4]
    assert list(dataset.broken) == ["v21-h264/0/episode2"]
    assert "its length is 0 frames" in dataset.broken["v21-h264/0/episode2"]


def test_a_camera_that_was_not_downloaded_does_not_hinder_the_others(copy):
    root = copy("v30-av1")
    shutil.rmtree(root / "videos" / WRIST)
    dataset = open_dataset(root)
    assert dataset[0].image("front", 0).shape == (96, 128, 3)
    assert len(dataset.fingerprint()) == 64
    assert any("there is no such file" in problem for problem in describe(dataset)["problems"])
