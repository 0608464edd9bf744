"""Which fork it was: commits read from git's own files and pip's note, hashes of what the tasks are made of."""

import json
import shutil
import subprocess
import sys

import pytest

from mnprobe.worlds.rlbench_identity import find_commit, identify_pyrep, identify_rlbench

COMMIT = "587a6a0e" + "0123456789abcdef" * 2


@pytest.fixture
def installed(tmp_path, standin_folder, monkeypatch, simulator):
    """A copy of the stand-in's rlbench in a folder of its own."""
    shutil.copytree(standin_folder / "rlbench", tmp_path / "place" / "rlbench")
    monkeypatch.syspath_prepend(str(tmp_path / "place"))
    return tmp_path / "place" / "rlbench"


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(installed):
    git(installed.parent, "init", "-q", "-b", "peract")
    git(installed.parent, "add", ".")
    git(installed.parent, "commit", "-q", "-m", "A fork")
    return installed


def test_a_checkout_tells_its_commit(checkout):
    commit = git(checkout.parent, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert identify_rlbench()["rlbench-commit"] == commit
    git(checkout.parent, "pack-refs", "--all")
    assert identify_rlbench()["rlbench-commit"] == commit
    git(checkout.parent, "checkout", "-q", "--detach")
    assert identify_rlbench()["rlbench-commit"] == commit


def test_a_worktree_tells_its_commit(checkout, tmp_path):
    git(checkout.parent, "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "-q", "--allow-empty", "-m", "Another")
    commit = git(tmp_path / "tree", "rev-parse", "HEAD")
    assert find_commit("rlbench", tmp_path / "tree" / "rlbench") == commit
    assert find_commit("rlbench", checkout) != commit


def test_a_repository_around_an_environment_is_not_the_packages(installed, tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "A project with an environment in it")
    assert identify_rlbench()["rlbench-commit"] == ""


def _noted(folder, note):
    info = folder.parent / "rlbench-1.2.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rlbench\nVersion: 1.2.0\n")
    (info / "direct_url.json").write_text(note)


def test_pip_notes_the_commit(installed):
    _noted(installed, json.dumps({"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}))
    assert identify_rlbench()["rlbench-commit"] == COMMIT


def test_pip_notes_the_checkout(installed, tmp_path):
    source = tmp_path / "a clone"
    source.mkdir()
    git(source, "init", "-q")
    git(source, "commit", "-q", "--allow-empty", "-m", "A fork")
    _noted(installed, json.dumps({"url": source.as_uri(), "dir_info": {}}))
    assert identify_rlbench()["rlbench-commit"] == git(source, "rev-parse", "HEAD")


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"vcs_info": {"commit_id": "main"}, "url": "https://host/x"}'])
def test_a_note_that_names_no_commit_is_passed_over(installed, note):
    _noted(installed, note)
    assert identify_rlbench()["rlbench-commit"] == ""


def test_a_note_about_another_installation_is_passed_over(installed, tmp_path):
    _noted(installed, json.dumps({"vcs_info": {"commit_id": COMMIT}}))
    shutil.copytree(installed, tmp_path / "another" / "rlbench")
    assert find_commit("rlbench", tmp_path / "another" / "rlbench") == ""


def test_tasks_that_were_changed_have_another_hash(installed):
    first = identify_rlbench()["rlbench-tasks"]
    assert len(first) == 16
    (installed / "tasks" / "not_of_the_18.py").write_text("x = 1\n")
    assert identify_rlbench()["rlbench-tasks"] == first
    task = installed / "tasks" / "close_jar.py"
    before = task.read_text()
    task.write_text(before + "\n# the lid need not be released\n")
    second = identify_rlbench()["rlbench-tasks"]
    task.write_text(before)
    (installed / "task_ttms" / "close_jar.ttm").write_bytes(b"another scene")
    third = identify_rlbench()["rlbench-tasks"]
    assert len({first, second, third}) == 3


def test_pyrep_has_a_hash_of_its_python(simulator):
    found = identify_pyrep()
    assert found["pyrep-commit"] == ""
    assert len(found["pyrep-code"]) == 16


def test_what_is_not_there_has_no_identity():
    assert "rlbench" not in sys.modules
    assert identify_rlbench() == {"rlbench-commit": "", "rlbench-tasks": ""}
    assert identify_pyrep() == {"pyrep-commit": "", "pyrep-code": ""}
