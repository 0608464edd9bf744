"""Videos beside a table: parts of files, frames in any order, and tables that no one should trust."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import describe, open_dataset

HEADER = "id,video,instruction,task,success,partition,start,end"


def write_video(path, count, *, codec="libx264", pixels="yuv420p", fps=20, keys=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 32, 48, pixels, keys
        for number in range(count):
            image = np.full((32, 48, 3), 8 * (number % 32), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def number_of(image):
    return round(float(image.mean()) / 8)


@pytest.fixture
def folder(tmp_path):
    """Two videos of 30 frames at 20 a second, and a table of three episodes in them."""
    write_video(tmp_path / "clips" / "a.mp4", 30)
    write_video(tmp_path / "b.avi", 30, codec="mpeg4")
    table(
        tmp_path,
        "one,clips/a.mp4,open it,,1,,,",
        "two,b.avi,close it,door,0,,0.5,1.25",
        "three,b.avi,open it,door,,,1,",
    )
    return tmp_path


def table(folder, *rows, header=HEADER):
    (folder / "episodes.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_rows_are_episodes(folder):
    dataset = open_dataset(folder)
    assert dataset.kind == dataset.format == "videos"
    assert [(one.id, one.task, one.variation, one.success) for one in dataset] == [
        ("one", "open it", 0, 1),
        ("two", "door", 0, 0),
        ("three", "door", 1, -1),
    ]
    assert [len(episode) for episode in dataset] == [30, 15, 10]
    assert [number_of(dataset[1].image("video", index)) for index in (0, 7, -1)] == [10, 17, 24]
    assert [number_of(image) for image in dataset[2].images("video", [9, 0, 9])] == [29, 20, 29]
    assert dataset[1].times[:2] == pytest.approx([0, 0.05])
    assert dataset[0].state is dataset[0].action is None
    assert open_dataset(folder / "episodes.csv").fingerprint() == dataset.fingerprint()


def test_a_table_may_have_the_needed_columns_only_and_others(folder):
    table(folder, "x,b.avi,open it,anna", header="id, video,instruction,operator")
    dataset = open_dataset(folder)
    (episode,) = dataset
    assert (episode.task, episode.success, episode.partition, len(episode)) == ("open it", -1, "", 30)
    assert episode.extra == {"operator": "anna"}
    assert dataset.notes == ()


def test_further_columns_are_numbers_or_texts_as_the_whole_column_is_written(folder):
    table(
        folder,
        "x,b.avi,open it, 3 ,0.5,007,,7,no,",
        "y,b.avi,open it,,2,01,,7,no,",
        header="id,video,instruction,scene,mass,code,remark,variation,prediction,",
    )
    dataset = open_dataset(folder)
    assert [dict(episode.extra) for episode in dataset] == [
        {"scene": 3, "mass": 0.5, "code": "007", "remark": ""},
        {"scene": None, "mass": 2.0, "code": "01", "remark": ""},
    ]
    (note,) = dataset.notes
    assert "'variation', 'prediction', '' are left out" in note
    table(folder, "x,b.avi,open it,1,2", header="id,video,instruction,scene,scene")
    with pytest.raises(DataError, match="two columns are called 'scene'"):
        open_dataset(folder)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_frames_in_any_order_are_those_of_reading_all(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("videos")
    keys = data.draw(st.sampled_from([1, 5, 50]))
    write_video(folder / "a.mp4", 20, keys=keys)
    first = data.draw(st.integers(0, 10))
    table(folder, f"x,a.mp4,go,,,,{first / 20},")
    (episode,) = open_dataset(folder)
    wanted = data.draw(st.lists(st.integers(-len(episode), len(episode) - 1), min_size=1, max_size=6))
    expected = [first + index % len(episode) for index in wanted]
    assert [number_of(image) for image in episode.images("video", wanted)] == expected


BROKEN = {  # name -> rows, message
    "no video": (("x,c.mp4,go,,,,,",), r"line 2: .*c\.mp4 is missing; --skip-broken"),
    "a folder": (("x,clips,go,,,,,",), r"line 2: 'clips' is no video that is read"),
    "a path upwards": (("x,../b.avi,go,,,,,",), r"line 2: names the file '\.\./b\.avi'.*without \.\."),
    "an absolute path": (("x,/b.avi,go,,,,,",), r"line 2: names the file '/b\.avi'"),
    "no path": (("x,,go,,,,,",), r"line 2: names the file ''"),
    "no id": ((",b.avi,go,,,,,",), r"line 2: the id is empty"),
    "an id twice": (("x,b.avi,go,,,,,", "x,b.avi,go,,,,,"), r"line 3: the id 'x' is in line 2 already"),
    "an outcome": (("x,b.avi,go,,maybe,,,",), r"line 2: success must be 1, 0 or -1 .*'maybe'"),
    "a partition": (("x,b.avi,go,,,holdout,,",), r"line 2: partition must be train, val or test.*'holdout'"),
    "a start": (("x,b.avi,go,,,,soon,",), r"line 2: start must be a time in seconds from 0, got 'soon'"),
    "an end that is not finite": (("x,b.avi,go,,,,,inf",), r"line 2: end must be a time"),
    "an end before the start": (("x,b.avi,go,,,,1,0.5",), r"line 2: start 1 s is not before end 0\.5 s"),
    "a start after the video": (
        ("x,b.avi,go,,,,9,",),
        r"b\.avi \(x in episodes\.csv\): goes from 9 s to the end, but the video takes 1\.45 s",
    ),
    "an end after the video": (("x,b.avi,go,,,,0,9",), r"goes from 0 to 9 s, but the video takes 1\.45 s"),
    "no instruction": (("x,b.avi,,,,,,",), r"b\.avi \(x in episodes\.csv\): the episode has no instruction"),
    "no rows": ((), r"episodes\.csv: holds no episode, only a header"),
}


def read_all(folder):
    for episode in open_dataset(folder):
        assert episode.instruction
        assert len(episode.images("video", range(len(episode)))) == len(episode)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_table_is_one_message_with_the_line(folder, case):
    rows, message = BROKEN[case]
    table(folder, *rows)
    with pytest.raises(DataError, match=message) as raised:
        read_all(folder)
    assert str(folder) in str(raised.value)


def test_a_missing_column_is_named(folder):
    table(folder, "x,b.avi", header="id,file")
    with pytest.raises(DataError, match=r"column 'video' is missing; .* id,video,instruction\[.*found id, file"):
        open_dataset(folder)


def test_rows_that_cannot_be_read_are_left_out_and_listed(folder):
    table(folder, "x,c.mp4,go,,,,,", "y,b.avi,go,,,,,", "z,b.avi,go,,maybe,,,")
    dataset = open_dataset(folder, skip_broken=True)
    assert [episode.id for episode in dataset] == ["y"]
    assert list(dataset.broken) == ["x", "z"]
    assert describe(dataset)["broken"] == dict(dataset.broken)


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path_factory):
    outside = write_video(tmp_path_factory.mktemp("outside") / "a.mp4", 5)
    (folder / "c.mp4").symlink_to(outside)
    table(folder, "x,c.mp4,go,,,,,")
    with pytest.raises(DataError, match=r"c\.mp4 leads out of the dataset"):
        open_dataset(folder)


def test_a_missing_package_is_named_with_its_command(monkeypatch, folder):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ConfigError, match=r'missing: av\. pip install "mnprobe\[data\]"'):
        open_dataset(folder)
