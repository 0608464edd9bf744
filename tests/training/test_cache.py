"""Kept arrays: made once, whole or not there, whoever is killed and however many ask."""

import os
import signal
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from mnprobe.core.errors import DataError
from mnprobe.training.cache import cached_arrays


def _pieces(kinds, *, scale=1.0):
    """Three items of 2, 0 and 3 rows."""
    row = 0
    for number, count in enumerate((2, 0, 3)):
        rows = np.arange(row, row + count)
        both = {
            "steps": {"x": scale * rows[:, None] * np.ones(4), "n": rows.astype(np.int32)},
            "clips": {"v": np.full((1, 2, 2), number, dtype=np.uint8)},
        }
        yield f"item {number}", {kind: both[kind] for kind in kinds}
        row += count


WANTED = {"steps": {"a": 1}, "clips": {"b": [2, 3]}}


def _never(kinds):
    pytest.fail(f"{kinds} made again")


def _visible(cache):
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_what_was_made_is_found_again(tmp_path):
    made = cached_arrays(tmp_path / "cache", WANTED, _pieces)
    found = cached_arrays(tmp_path / "cache", WANTED, _never)
    for arrays in (made, found):
        assert isinstance(arrays["steps"]["x"], np.memmap)
        assert not arrays["steps"]["x"].flags.writeable
        np.testing.assert_array_equal(arrays["steps"]["x"], np.arange(5.0)[:, None] * np.ones(4))
        np.testing.assert_array_equal(arrays["steps"]["n"], np.arange(5))
        assert arrays["steps"]["n"].dtype == np.int32
        np.testing.assert_array_equal(arrays["clips"]["v"][:, 0, 0], [0, 1, 2])


def test_only_the_missing_kind_is_made(tmp_path):
    asked = []

    def make(kinds):
        asked.append(list(kinds))
        return _pieces(kinds)

    cached_arrays(tmp_path, {"steps": WANTED["steps"]}, make)
    cached_arrays(tmp_path, WANTED, make)
    cached_arrays(tmp_path, {**WANTED, "clips": {"b": [2, 4]}}, make)
    assert asked == [["steps"], ["clips"], ["clips"]]
    assert [name.split("-")[0] for name in _visible(tmp_path)] == ["clips", "clips", "steps"]


@pytest.mark.parametrize("damage", ["cut", "grown", "lost", "manifest", "no manifest", "outside", "other type"])
def test_damaged_arrays_are_made_again(tmp_path, damage):
    cached_arrays(tmp_path, WANTED, _pieces)
    (folder,) = tmp_path.glob("steps-*")
    file, manifest = folder / "x.npy", folder / "manifest.json"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "grown":
        file.write_bytes(file.read_bytes() + b"\0")
    elif damage == "lost":
        file.unlink()
    elif damage == "manifest":
        manifest.write_text("[]")
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "outside":
        manifest.write_text(manifest.read_text().replace('"x"', '"../x"'))
    else:
        np.save(file, np.zeros((5, 4), dtype=np.int64))  # of the same length
    told = []
    again = cached_arrays(tmp_path, WANTED, _pieces, note=told.append)
    np.testing.assert_array_equal(again["steps"]["x"][:, 0], np.arange(5))
    assert told == [f"{folder} is damaged; it is made again"]
    assert len(_visible(tmp_path)) == 2


@pytest.mark.parametrize("wrong", [np.zeros((1, 5)), np.zeros((1, 4), np.float32)])
def test_rows_of_another_size_are_refused(tmp_path, wrong):
    def pieces(kinds):
        yield "a/0/episode0", {"steps": {"x": np.zeros((1, 4))}}
        yield "a/0/episode1", {"steps": {"x": wrong}}

    with pytest.raises(DataError, match=r"a/0/episode1: its x .* a/0/episode0 .* one size only"):
        cached_arrays(tmp_path, {"steps": {}}, pieces)
    assert _visible(tmp_path) == []


def test_nothing_to_keep_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to prepare"):
        cached_arrays(tmp_path, {"steps": {}}, lambda kinds: [])


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path):
    def deadly(kinds):
        yield from list(_pieces(kinds))[:2]
        os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside torch's threads; the child starts none
        child = os.fork()
    if child == 0:
        try:
            cached_arrays(tmp_path, WANTED, deadly)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert {Path(name).suffix for name in _visible(tmp_path)} == {".part"}
    found = cached_arrays(tmp_path, WANTED, _pieces)
    assert found["steps"]["x"].shape == (5, 4)
    assert [name.split("-")[0] for name in _visible(tmp_path)] == ["clips", "steps"]


def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(tmp_path, largest_file):
    def large(kinds):
        for number in range(100):
            yield str(number), {"steps": {"x": np.zeros((1, 1000))}}

    with largest_file(20_000), pytest.raises(OSError, match=r"too large.*x\.npy"):
        cached_arrays(tmp_path, {"steps": {}}, large)
    assert _visible(tmp_path) == []


def test_who_comes_second_waits_and_takes_what_is_there(tmp_path):
    begun, go_on, told, results = threading.Event(), threading.Event(), [], {}

    def slow(kinds):
        begun.set()
        assert go_on.wait(30)
        return _pieces(kinds)

    def second(note):
        told.append(note)
        go_on.set()

    first = threading.Thread(target=lambda: results.update(cached_arrays(tmp_path, WANTED, slow)))
    first.start()
    assert begun.wait(30)
    found = cached_arrays(tmp_path, WANTED, _never, note=second)
    first.join()
    assert len(told) == 1
    assert "another process prepares" in told[0]
    np.testing.assert_array_equal(found["steps"]["x"], results["steps"]["x"])


def test_a_damaged_folder_in_use_can_be_replaced(tmp_path):
    """Whoever has mapped the old files keeps them."""
    old = cached_arrays(tmp_path, WANTED, _pieces)["steps"]["x"]
    (folder,) = tmp_path.glob("steps-*")
    (folder / "manifest.json").unlink()
    new = cached_arrays(tmp_path, WANTED, lambda kinds: _pieces(kinds, scale=2.0))["steps"]["x"]
    np.testing.assert_array_equal(2 * old, new)
