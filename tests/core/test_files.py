import errno
import hashlib

import pytest

from mnprobe.core.files import require_room, sha256_file, whole_file, write_text


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
