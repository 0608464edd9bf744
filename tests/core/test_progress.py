import json
import time
from contextlib import suppress

import pytest

from mnprobe.core import progress as module
from mnprobe.core.progress import PROGRESS_FILE, ProgressState, progress


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_state_is_in_the_file_at_the_start_at_times_and_at_the_end(path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now)
    with progress("drawing", 10, done=2) as advance:
        assert ProgressState.read(path) == ProgressState(
            what="drawing", total=10, done=2, before=2, started=now, time=now
        )
        advance(3)
        assert ProgressState.read(path).done == 2  # not a second has passed
        now += 1.5
        advance(2)
        state = ProgressState.read(path)
        assert (state.done, state.left(now)) == (7, pytest.approx(0.9, abs=1e-6))
        advance(3)
    assert ProgressState.read(path).done == 10
    assert [one.name for one in path.parent.iterdir()] == ["state"]


def test_a_quiet_bar_leaves_the_state_alone(path):
    with progress("quiet", 3, quiet=True):
        assert ProgressState.read(path) is None
    with progress("next", 4):
        assert ProgressState.read(path).what == "next"


def test_an_inner_bar_is_a_part_of_the_unit_of_the_outer_one(path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_OFTEN", 0.0)
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now)

    def done():
        return ProgressState.read(path).done

    with progress("outer", 3) as outer:
        with progress("inner", 4, done=1) as advance:
            advance(1)
            assert done() == 0.5
            with progress("innermost", 2) as part:
                part()
                assert done() == 0.625  # half a unit of the inner one, which is a quarter
            advance(1)
            assert done() == 0.75
        with progress("afterwards", 2) as advance:
            advance()
            assert done() == 0.75  # it does not go back
            now += 61
            advance()
            assert done() == 1
        outer()
        assert done() == 1
        now += 61
        outer(2)
        assert ProgressState.read(path) == ProgressState(
            what="outer", total=3, done=3, before=0, started=now - 122, time=now
        )
    assert capsys.readouterr().err.splitlines() == [
        "outer: 3 to do",
        "outer: 1 of 3, about 2 min left",
        "outer: 3 of 3",
    ]


def test_after_an_error_inside_the_next_bar_is_its_own(path):
    with suppress(KeyError), progress("outer", 3), progress("inner", 5):
        raise KeyError
    with progress("next", 4):
        assert ProgressState.read(path).what == "next"


def test_time_left_is_that_of_the_units_done_here():
    state = ProgressState(what="x", total=10, done=4, before=2, started=100.0, time=108.0)
    assert state.left(108.0) == 24
    assert state.left(200.0) == 0
    assert ProgressState(what="x", total=9, done=2, before=2, started=0, time=9).left(9) is None


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"what": "x"})])
def test_what_is_no_state_reads_as_none(path, text):
    path.write_text(text)
    assert ProgressState.read(path) is None


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "absent" / "state"))
    with progress("drawing", 1) as advance:
        advance()


def test_a_log_has_one_line_of_a_short_bar_and_one_a_minute_of_a_long_one(capsys, monkeypatch):
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now)
    with progress("drawing", 100, done=10) as advance:
        for _ in range(5):
            now += 25
            advance(5)
    assert capsys.readouterr().err.splitlines() == [
        "drawing: 100 to do, 10 of them done before",
        "drawing: 25 of 100, about 6 min left",
    ]
