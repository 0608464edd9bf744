"""Videos written by PyAV and read back frame by frame; files that no one should trust."""

import os
import re
import struct

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data.videos import find_videos, read_video

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mnprobe[data]'")

WRITERS = {  # file ending -> codec, pixel format, largest error of a channel (of 255)
    "mkv": ("ffv1", "bgr0", 0),
    "avi": ("mpeg4", "yuv420p", 5),
    "mp4": ("libx264", "yuv420p", 5),
    "webm": ("libvpx-vp9", "yuv420p", 5),
    "mpg": ("mpeg2video", "yuv420p", 5),
    "gif": ("gif", "rgb8", 30),  # eight shades of red and green, four of blue, dithered
}


def picture(number, size=(48, 64)):
    """Its colours tell the number: a brighter right half, top and bottom."""
    image = np.zeros((*size, 3), np.uint8)
    image[:, :, 0] = 10 + 10 * number
    image[:, size[1] // 2 :, 1] = 120
    image[size[0] // 2 :, :, 2] = 240 - 10 * number
    return image


def write(path, codec, pixels, images, *, rate=25, options=None):
    available = codec in av.codecs_available
    if not available:
        pytest.skip(f"this build of FFmpeg cannot write {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.bit_rate = 4_000_000
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def middle(image):
    """Mean colours of the four quarters, edges left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    corners = [(y, x) for y in (0, height) for x in (0, width)]
    return np.array([image[y + 6 : y + height - 6, x + 6 : x + width - 6].mean(axis=(0, 1)) for y, x in corners])


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("wanted", [(0, 3, 9, 21), (21,), (7, 8, 8, 9), (20, 20)])
def test_frames_are_those_that_were_written(tmp_path, ending, wanted):
    codec, pixels, tolerance = WRITERS[ending]
    images = [picture(number) for number in range(22)]
    options = {} if codec in ("gif", "ffv1") else {"g": "6"}  # several key frames, so that there is something to seek
    path = write(tmp_path / f"a.{ending}", codec, pixels, images, options=options)
    lengths = []

    def choose(count):
        lengths.append(count)
        return wanted

    found = read_video(path, choose)
    assert lengths == [22]
    assert found.dtype == np.uint8
    assert found.shape == (len(wanted), 48, 64, 3)
    for number, frame in zip(wanted, found, strict=True):
        assert np.abs(middle(frame) - middle(images[number])).max() <= tolerance
        if codec != "gif":  # no other frame is as near
            errors = [np.abs(middle(frame) - middle(image)).sum() for image in images]
            assert int(np.argmin(errors)) == number


@pytest.mark.parametrize("options", [{"g": "5", "bf": "2"}, {"g": "5", "bf": "3", "sc_threshold": "0"}, {"g": "250"}])
def test_frames_shown_in_another_order_than_stored_are_found(tmp_path, options):
    images = [picture(number) for number in range(22)]
    path = write(tmp_path / "b.mp4", "libx264", "yuv420p", images, options=options)
    found = read_video(path, lambda count: range(0, count, 3))
    for number, frame in zip(range(0, 22, 3), found, strict=True):
        errors = [np.abs(middle(frame) - middle(image)).sum() for image in images]
        assert int(np.argmin(errors)) == number


def test_a_container_without_times_is_counted_through(tmp_path):
    images = [picture(number) for number in range(9)]
    path = write(tmp_path / "a.h264", "libx264", "yuv420p", images, options={"bf": "0"})
    moved = path.rename(tmp_path / "a.mpg")
    with pytest.raises(DataError, match=r"a\.mpg: cannot be decoded as a video"):
        read_video(moved, lambda count: (0,))  # a bare stream is no container of videos
    # an AVI with reordered frames tells no presentation times
    path = write(tmp_path / "a.avi", "mpeg4", "yuv420p", images, options={"bf": "2", "g": "4"})
    found = read_video(path, lambda count: (0, 4, 7))
    for number, frame in zip((0, 4, 7), found, strict=True):
        errors = [np.abs(middle(frame) - middle(image)).sum() for image in images]
        assert int(np.argmin(errors)) == number


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright: shown turned clockwise
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((1, 0, 0, 1), lambda image: image),
    ],
)
def test_a_video_is_turned_as_it_is_to_be_shown(tmp_path, matrix, turned):
    image = picture(3)
    image[:24, :32] = (250, 250, 250)  # the four quarters differ
    path = write(tmp_path / "a.mp4", "libx264", "yuv420p", [image] * 3)
    turn(path, matrix)
    found = read_video(path, lambda count: (1,))[0]
    assert found.shape == turned(image).shape
    assert np.abs(middle(found) - middle(turned(image))).max() <= 10


def test_a_crooked_turn_is_refused(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", "yuv420p", [picture(3)] * 3)
    half = 2**-0.5
    turn(path, (half, half, -half, half))
    with pytest.raises(DataError, match=r"a\.mp4: is to be shown turned by -?45.* only quarter turns"):
        read_video(path, lambda count: (0,))


def turn(path, matrix):
    """Write (a, b, c, d) into the track's display matrix: x' = a x + c y, y' = b x + d y."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    a, b, c, d = (round(value * 65536) for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))


def audio(path, codec="aac"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def broken_files(folder):
    """Name of each kind of broken file, and what the message says."""
    good = write(folder / "good.avi", "mpeg4", "yuv420p", [picture(number) for number in range(12)])
    content = good.read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video")
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{good}\n#EXT-X-ENDLIST\n")
    (folder / "script.avi").write_text(f"ffconcat version 1.0\nfile '{good}'\n")
    (folder / "head.avi").write_bytes(content[:900])
    whole = write(folder / "whole.mp4", "libx264", "yuv420p", [picture(number) for number in range(12)])
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[:-200])  # the index at the end is lost
    audio(folder / "sound.mp4")
    os.mkfifo(folder / "pipe.mp4")
    return {
        "empty.mp4": "the file is empty",
        "text.mp4": "cannot be decoded",
        "list.mp4": "cannot be decoded",
        "script.avi": "cannot be decoded",
        "head.avi": "(holds no frame|cannot be decoded|there is no video)",
        "cut.mp4": "(holds no frame|cannot be decoded)",
        "sound.mp4": "there is no video in it, only audio",
        "pipe.mp4": "is no regular file",
        "absent.mp4": "there is no such file",
    }


def test_what_cannot_be_read_is_named_in_one_message(tmp_path, capfd):
    for name, message in broken_files(tmp_path).items():
        with pytest.raises(DataError, match=rf"{name}: {message}"):
            read_video(tmp_path / name, lambda count: (0,))
    assert capfd.readouterr().err == ""  # FFmpeg does not talk past us


def test_damage_is_told_where_no_frame_is_left(tmp_path):
    images = [np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8) for number in range(12)]
    path = write(tmp_path / "a.mkv", "libx264", "yuv420p", images, options={"g": "4", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)]
    content = bytearray(path.read_bytes())
    for packet in packets[8:12]:  # the last group of pictures
        start = content.index(packet)
        content[start : start + len(packet)] = b"\xff" * len(packet)
    path.write_bytes(bytes(content))
    assert len(read_video(path, lambda count: (0, 7))) == 2  # what is not needed may be damaged
    with pytest.raises(DataError, match=r"a\.mkv: (damaged|cannot be decoded)"):
        read_video(path, lambda count: (0, 9))


def test_a_message_says_how_to_get_the_decoder(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnprobe\[data\]'"):
        read_video(tmp_path / "a.mp4", lambda count: (0,))


def folder_of(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def test_classes_are_folders_and_their_names_are_words(tmp_path):
    root = folder_of(
        tmp_path / "videos",
        "playing_the__guitar/b.MP4",
        "playing_the__guitar/a.webm",
        "riding_a_bike/c.gif",
        "riding_a_bike/notes.txt",
        "riding_a_bike/.hidden.mp4",
        "empty_class/readme.md",
        ".cache/x/a.mp4",
    )
    found = find_videos(root)
    assert [(video.name, video.label) for video in found] == [
        ("playing_the__guitar/a.webm", "playing the guitar"),
        ("playing_the__guitar/b.MP4", "playing the guitar"),
        ("riding_a_bike/c.gif", "riding a bike"),
    ]
    assert all(video.path.is_file() for video in found)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.mp4"], r"at least two classes, found 1 of a\. .* ending in \.3gp"),
        (["a/x.txt", "b/y.txt"], "at least two classes, found 0 of none"),
        (["a/x.mp4", "b/x.mp4", "loose.mp4"], "loose.mp4 lies beside the class folders"),
        (["a/x.mp4", "b/x.mp4", "loose.mp4", "more.avi"], "loose.mp4 and 1 more videos lie beside"),
        (["a_b/x.mp4", "a b/x.mp4", "c/x.mp4"], "'a b' and 'a_b' mean one class, 'a b'; join them"),
    ],
)
def test_a_folder_that_is_no_set_of_classes_is_refused(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        find_videos(folder_of(tmp_path / "videos", *names))


def test_a_missing_folder_is_told_from_a_file(tmp_path):
    with pytest.raises(DataError, match="absent: there is no such folder"):
        find_videos(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: is a file"):
        find_videos(tmp_path / "file")


def test_no_link_leads_out_of_the_folder(tmp_path):
    root = folder_of(tmp_path / "videos", "a/x.mp4", "b/y.mp4")
    outside = folder_of(tmp_path / "elsewhere", "c/secret.mp4")
    (root / "b" / "inside.mp4").symlink_to(root / "a" / "x.mp4")
    assert len(find_videos(root)) == 3
    (root / "a" / "link.mp4").symlink_to(outside / "c" / "secret.mp4")
    with pytest.raises(DataError, match=r"link\.mp4: leads out of .* to .*secret\.mp4.*--skip-broken"):
        find_videos(root)
    (root / "c").symlink_to(outside / "c")  # a whole folder
    left_out = []
    assert [video.name for video in find_videos(root, skip=left_out.append)] == ["a/x.mp4", "b/inside.mp4", "b/y.mp4"]
    assert len(left_out) == 2
    (tmp_path / "way").symlink_to(root)  # the folder itself may be reached by a link
    assert len(find_videos(tmp_path / "way", skip=left_out.append)) == 3


@pytest.mark.parametrize("name", ["a/x.mts", "a/x.VOB", "a/deeper/x.mp4", "a/deeper/x.m2ts"])
def test_a_video_in_another_wrapping_or_deeper_is_not_passed_over(tmp_path, name):
    root = folder_of(tmp_path / "videos", "a/x.mp4", "b/y.mp4", "a/thumbs/x.jpg", "b/x.srt", name)
    message = rf"{name}: is not read; videos lie right in the folder of their class, ending in \.3gp .*"
    with pytest.raises(DataError, match=message + "--skip-broken"):
        find_videos(root)
    told = []
    assert [video.name for video in find_videos(root, skip=told.append)] == ["a/x.mp4", "b/y.mp4"]
    assert len(told) == 1
    assert re.search(message, told[0])
