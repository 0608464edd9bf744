import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from mnprobe.core import files
from mnprobe.core.files import locked, require_room, sha256_file, sync, update_table, whole_file, write_text
from mnprobe.core.rundir import RunDir


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "table.csv"
    write_text(target, "old")

    def break_off():
        with whole_file(target) as part:
            part.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        break_off()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_the_target_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "folder" / "a.bin"
    with whole_file(target) as part:
        part.write_bytes(b"12")
        assert not target.exists()
        assert part.parent == target.parent
    assert target.read_bytes() == b"12"
    assert sha256_file(target) == hashlib.sha256(b"12").hexdigest()


def test_others_may_read_what_the_umask_lets_them_read(tmp_path):
    with whole_file(tmp_path / "a.bin") as part:
        part.unlink()
        part.touch(mode=0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_names_the_file(tmp_path):
    require_room(tmp_path / "a.bin", 1)
    with pytest.raises(OSError, match=r"No space left on device \(.* MiB are free, .* are needed\): .*a\.bin"):
        require_room(tmp_path / "a.bin", 2**60)

    def fill_up():
        with whole_file(tmp_path / "b.bin"):
            raise OSError(errno.ENOSPC, "full")  # as a write to an open file says it: without a name

    with pytest.raises(OSError, match=r"No space left on device: .*b\.bin"):
        fill_up()
    assert not list(tmp_path.iterdir())


def test_text_that_is_no_unicode_is_written_as_the_bytes_it_came_from(tmp_path):
    for text, bytes_ in (("l\udcc3\udca4ufe", "läufe".encode()), ("\udcff", b"\\udcff"), ("\ud83d", b"\\ud83d")):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_bytes() == bytes_


def test_folders_that_cannot_be_synced_do_no_harm(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    real = os.open

    def no_folders(path, *given, **named):  # as Windows does
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "no", path)
        return real(path, *given, **named)

    monkeypatch.setattr(os, "open", no_folders)
    sync(tmp_path / "a")
    sync(tmp_path)
    monkeypatch.undo()
    refused = errno.EINVAL

    def fsync(descriptor):
        raise OSError(refused, os.strerror(refused))

    monkeypatch.setattr(os, "fsync", fsync)
    sync(tmp_path)
    with pytest.raises(OSError, match=r"Invalid argument: .*a"):
        sync(tmp_path / "a")
    refused = errno.EIO
    with pytest.raises(OSError, match="Input/output error: "):
        sync(tmp_path)


BREAK = """
import errno, fcntl, sys, warnings
warnings.simplefilter("ignore")
def flock(*given): raise OSError(getattr(errno, sys.argv[1]), "no locks")
if sys.argv[1] != "sound": fcntl.flock = flock
from pathlib import Path
from mnprobe.core.files import locked, update_table, write_text
"""
HOLD = (
    BREAK
    + """
import time
with locked(Path(sys.argv[2]) / ".a.lock"):
    print("held", flush=True)
    time.sleep(60)
"""
)
COUNT = (
    BREAK
    + """
path = Path(sys.argv[2]) / "n.txt"
for _ in range(25):
    update_table(path, lambda path: int(path.read_text()), lambda n: n + 1, lambda path, n: write_text(path, str(n)))
"""
)


@pytest.fixture
def start(tmp_path):
    running = []

    def start(code, how):
        process = subprocess.Popen([sys.executable, "-c", code, how, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture(params=["sound", "ENOSYS", "ENOTSUP", "ENOLCK", "EPERM"])
def how(request, monkeypatch):
    """A file system with locks, and those without, each by the error that it gives."""
    monkeypatch.setattr(files, "_remarks", ["said before"])
    if request.param != "sound":
        import fcntl

        def flock(*given):
            raise OSError(getattr(errno, request.param), "no locks")

        monkeypatch.setattr(fcntl, "flock", flock)
    return request.param


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(how, start, tmp_path):
    def refuse(who):
        return RuntimeError(f"busy{who}")

    lock, holder = tmp_path / ".a.lock", start(HOLD, how)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(RuntimeError, match=rf"^busy \(process {holder.pid} on "),
        locked(lock, refuse=refuse),
    ):
        pass
    told = []

    def end(who):
        told.append(who)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()

    with locked(lock, waiting=end):
        assert told[0].startswith(f" (process {holder.pid} on ")
        with pytest.raises(RuntimeError, match="busy"), locked(lock, refuse=refuse):
            pass
    with locked(lock, refuse=refuse):
        pass


@pytest.mark.parametrize("kind", ["sound", "ENOSYS"])
def test_processes_that_change_one_file_at_once_lose_nothing(kind, start, tmp_path):
    (tmp_path / "n.txt").write_text("0")
    for process in [start(COUNT, kind) for _ in range(4)]:
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "n.txt").read_text() == "100"


def test_a_file_system_without_locks_is_said_once_with_the_folder(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(files, "_remarks", [])

    def flock(*given):
        raise OSError(errno.ENOSYS, "Function not implemented")

    (tmp_path / "r").mkdir()
    with locked(tmp_path / "r" / ".run.toml.lock"):  # leaves a file that is no lock of the other kind
        pass
    monkeypatch.setattr(fcntl, "flock", flock)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = RunDir.create(tmp_path / "r" / "one")
        run.record("init", {"seed": 1})
    assert [str(one.message).split(":")[0] for one in told] == [str(run.path)]
    assert RunDir(run.path).config["init"] == {"seed": 1}
    assert not list(run.path.glob("*.soft"))


def test_other_errors_of_locking_name_the_file(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*given):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(OSError, match=r"the lock cannot be had \(Input/output error\): .*\.a\.lock"),
        locked(tmp_path / ".a.lock"),
    ):
        pass


def test_who_waits_is_told_for_whom(tmp_path, monkeypatch):
    begun, told = threading.Event(), threading.Event()
    warn = warnings.warn

    def work():
        with locked(tmp_path / ".a.lock"):
            begun.set()
            told.wait(120)

    def warn_and_tell(*given, **named):
        told.set()
        warn(*given, **named)

    monkeypatch.setattr(files.warnings, "warn", warn_and_tell)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(120)
    with (
        pytest.warns(UserWarning, match=rf"waiting for another process \(process {os.getpid()} on .*\.a\.lock"),
        locked(tmp_path / ".a.lock"),
    ):
        pass
    thread.join()


def test_a_lock_file_can_be_removed_by_the_one_who_holds_it(tmp_path):
    for _ in range(2):
        with locked(tmp_path / ".lock", leave=False):
            assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        assert not list(tmp_path.iterdir())
    assert update_table(tmp_path / "a.txt", lambda path: "", lambda old: old + "new", write_text) == "new"
