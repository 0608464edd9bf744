"""Demonstrations of a world that a plugin brings: what is written, seeds, resuming after kills, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import FrameData, open_dataset, write_episode
from mnprobe.worlds import WORLDS
from mnprobe.worlds.demos import ATTEMPTS, DemosConfig, write_demos
from mnprobe.worlds.manifest import remove_leftovers
from mnprobe.worlds.record import read_situation, video_instants

TOY = '''
"""A world in which nothing is hard: the hand moves as often as the variation says. Seeds fail by their rest of 7."""
import time
from collections.abc import Mapping
from pathlib import Path
import numpy as np
from mnprobe.data import Camera, FrameData, look_at, pinhole
from mnprobe.worlds import KeyPose, Observation, StepResult, TaskInfo

CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
DRAWN = []

class Drawn(Mapping):
    def __init__(self, kind, frame, size, seed):
        self.kind, self.frame, self.size, self.seed = kind, frame, size, seed
    def __iter__(self):
        return iter(CAMERAS)
    def __len__(self):
        return len(CAMERAS)
    def __getitem__(self, camera):
        DRAWN.append((self.kind, camera, self.frame))
        draw = np.random.default_rng([self.seed, self.frame, CAMERAS.index(camera)])
        shape = (self.size, self.size)
        return draw.integers(0, 256, (*shape, 3), dtype=np.uint8) if self.kind == "rgb" else draw.uniform(1, 2, shape)

def _written(folder):
    return len(list(folder.glob("*/*/*/all_variations/episodes/episode*")))

class Toy:
    name = "toy"
    tasks = {"visit": TaskInfo(name="visit", variations=3), "greet": TaskInfo(name="greet", variations=1)}

    def __init__(self, *, image_size=8, renderer="plain", gate="", wrong="", fails=(3,), revision="1"):
        self.size, self.gate, self.wrong, self.fails = image_size, gate, wrong, fails
        self.renderer, self.revision = ("plain" if renderer == "auto" else renderer), revision

    def describe(self):
        return {"renderer": self.renderer, "image_size": self.size, "versions": {"toy": self.revision}}

    def reset(self, task, variation, seed):
        self.task, self.goal, self.seed = task, variation + 2, seed
        self.low, self.done = [(0.0, True)], 0
        return self._seen()

    def expert(self):
        place = np.array([0.1, 0.2, 1.0])
        return [KeyPose(position=place, quaternion=np.array([0, 0, 0, 1.0]), gripper_open=True)] * self.goal

    def step(self, pose):
        while self.gate and _written(Path(self.gate).parent) >= int(Path(self.gate).read_text()):
            time.sleep(0.01)  # the test has not yet done what it waits for this number of episodes to do
        self.low += [(0.5, True)] * 6 + [(0.5 if self.wrong == "restless" and not self.done else 0.0, True)]
        self.done += 1
        over, fails = self.done == self.goal, self.seed % 7 in self.fails
        reason = ("step limit" if fails else "success") if over else ""
        return StepResult(observation=self._seen(), done=over, reason=reason, reached=True)

    def frames(self):
        return [self._frame(index) for index in range(len(self.low))]

    def close(self):
        pass

    def _seen(self):
        return Observation(frame=self._frame(0), instructions=(f"{self.task} {self.goal}", "do it"), step=self.done)

    def _frame(self, index):
        speed, opened = self.low[index]
        cameras = {
            name: Camera(name=name, intrinsics=pinhole(60, self.size, self.size),
                         extrinsics=look_at([1.0, 0.1, 1.6], [0.2, 0, 0.9]), near=0.01, far=4.5)
            for name in CAMERAS
        }
        return FrameData(
            gripper_pose=[0.01 * index, 0.2, 1.0, 0, 0, 0, 1], gripper_open=float(opened), joint_velocities=[speed] * 7,
            gripper_joint_positions=[0.04, 0.04], ignore_collisions=1.0, cameras=cameras,
            rgb=Drawn("rgb", index, self.size, self.seed), depth=Drawn("depth", index, self.size, self.seed),
        )
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The world above as an installed plugin, here and in processes that are started from here."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "toy-1.dist-info").mkdir()
    (folder / "toy_world.py").write_text(TOY)
    (folder / "toy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (folder / "toy-1.dist-info" / "entry_points.txt").write_text("[mnprobe.worlds]\ntoy = toy_world:Toy\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))
        yield WORLDS.load("toy")
    del sys.modules["toy_world"]


def _write(folder, *, workers=0, told=None, options=None, **config):
    asked = DemosConfig(world="toy", options=options or {}, **config)
    return write_demos(folder, asked, workers=workers, quiet=True, note=None if told is None else told.append)


def _tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def reference(plugin, tmp_path_factory):
    """All of the toy world's tasks: 4 instructions x (2 train + 1 val + 1 test), made without disturbance."""
    written = _write(tmp_path_factory.mktemp("demos") / "reference", train=2, val=1, test=1)
    assert written.partitions == {"train": 8, "val": 4, "test": 4}
    return written.folder


@pytest.fixture(scope="module")
def whole(reference):
    """Every file of the reference."""
    return _tree(reference)


@pytest.fixture
def copied(reference, tmp_path):
    """The reference, to be changed."""
    return shutil.copytree(reference, tmp_path / "copied")


def test_the_ordinary_reader_reads_them(reference):
    found = open_dataset(reference)
    assert (len(found), found.tasks, found.partitions) == (16, ("greet", "visit"), ("train", "val", "test"))
    assert {episode.success for episode in found} == {1}
    for episode in found:
        poses = episode.variation + 2
        assert episode.keyframes == tuple(range(7, 7 * poses + 1, 7))  # the expert's, and no others
        assert episode.instructions == (f"{episode.task} {poses}", "do it")
        seen = (0, *episode.keyframes[:-1])
        for camera in ("left_shoulder", "right_shoulder", "wrist"):
            assert episode.frames_on_disk(camera) == episode.frames_on_disk(camera, "depth") == seen
        assert episode.frames_on_disk("front", "depth") == seen
        video = {*video_instants(len(episode), 16), 0, *episode.keyframes}
        assert episode.frames_on_disk("front") == tuple(sorted(video))


def test_variations_take_turns_and_numbers_have_no_gaps(reference):
    visits = [episode for episode in open_dataset(reference, partitions=["train"]) if episode.task == "visit"]
    assert [episode.variation for episode in visits] == [0, 1, 2] * 2
    assert [episode.number for episode in visits] == list(range(6))


def test_partitions_share_no_seed_and_failing_seeds_are_replaced(reference):
    by_partition = {}
    for episode in open_dataset(reference):
        found = read_situation(episode.folder)
        assert (found["world"], found["task"], found["variation"]) == ("toy", episode.task, episode.variation)
        assert found["renderer"] == "plain"
        assert found["versions"]["toy"] == "1"
        by_partition.setdefault(episode.partition, set()).add(found["seed"])
        assert found["steps"] == len(episode.keyframes)
    assert by_partition == {
        "train": {0, 1, 2, 3_000_003, 4, 5},  # 3 failed
        "val": {1_000_000, 1_000_001, 4_000_002},
        "test": {2_000_000, 5_000_001, 2_000_002},
    }
    manifest = json.loads((reference / "manifest.json").read_text())
    assert manifest["failed_seeds"] == {"visit": [3, 1_000_002, 2_000_001]}
    assert manifest["complete"] is True
    assert manifest["config"]["seeds"] == {"train": 0, "val": 1_000_000, "test": 2_000_000, "retry": 3_000_000}
    assert manifest["config"]["world"]["renderer"] == "plain"


def test_what_failed_is_told(plugin, tmp_path):
    told = []
    written = _write(tmp_path / "out", tasks=("visit",), train=2, told=told)
    assert written.failed_seeds == {"visit": [3]}
    which = "visit, variation 0, seed 3 (train episode3)"
    assert told == [f"{which}: the expert failed (seed 3: step limit); another seed took its place"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"fails": list(range(7))}, "seeds 0, 3000000, .*, 27000000: step limit"),
        ({"wrong": "restless"}, "seeds 0, .*: 2 key poses executed, 1 found by the keyframe rule"),
    ],
)
def test_a_task_that_cannot_be_demonstrated_ends_with_one_error(plugin, tmp_path, options, reason):
    with pytest.raises(DataError, match=rf"greet, variation 0.*failed on all {ATTEMPTS} seeds.*{reason}"):
        _write(tmp_path / "out", tasks=("greet",), train=1, options=options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_only_the_first_variations_of_each_task_are_played(tmp_path):
    written = write_demos(tmp_path, DemosConfig(world="toy", train=1, max_variations=2), workers=1)
    assert written.partitions["train"] == 3
    assert {(episode.task, episode.variation) for episode in open_dataset(tmp_path)} == {
        ("greet", 0),
        ("visit", 0),
        ("visit", 1),
    }


def test_a_variation_alone_starts_from_the_same_seeds(reference, tmp_path):
    _write(tmp_path / "alone", tasks=("visit",), variations=(1,), train=2)
    alone = {read_situation(episode.folder)["seed"] for episode in open_dataset(tmp_path / "alone")}
    both = [read_situation(e.folder)["seed"] for e in open_dataset(reference, partitions=["train"]) if e.variation == 1]
    assert alone == set(both) == {1, 4}


def test_only_images_that_are_written_are_drawn(plugin, tmp_path):
    drawn = sys.modules[plugin.__module__].DRAWN
    drawn.clear()
    _write(tmp_path / "out", tasks=("greet",), train=1, video_frames=3)
    files = {tuple(path.relative_to(tmp_path / "out").parts[-2:]) for path in (tmp_path / "out").rglob("*.png")}
    assert sorted((f"{camera}_{kind}", f"{frame}.png") for kind, camera, frame in drawn) == sorted(files)
    assert {name for folder, name in files if folder == "front_rgb"} == {"0.png", "7.png", "14.png"}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(whole, tmp_path, workers):
    written = _write(tmp_path / "again", train=2, val=1, test=1, workers=workers)
    assert (written.made, written.kept) == (16, 0)
    assert written.cpu_seconds > 0
    assert _tree(tmp_path / "again") == whole


def test_more_of_it_is_added_to_what_is_there(whole, tmp_path):
    out = tmp_path / "grown"
    first = _write(out, tasks=("greet",), train=1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert (first.made, first.kept) == (1, 0)
    more = _write(out, train=2, val=1)
    assert (more.made, more.kept) == (11, 1)
    last = _write(out, tasks=("visit",), test=1)  # asking for less takes nothing away
    assert (last.made, last.kept) == (3, 12)
    assert _write(out, tasks=("greet",), test=1).partitions == {"train": 8, "val": 4, "test": 4}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert _tree(out) == whole
    assert _write(out, train=1).made == 0


def _start(out, *arguments):
    command = [sys.executable, "-m", "mnprobe", "demos", "--world", "toy", "--out", str(out), "--quiet"]
    numbers = ["--train", "2", "--val", "1", "--test", "1"]
    numbers += ["--option", f"gate={out.parent / 'gate'}"] if (out.parent / "gate").exists() else []
    with (out.parent / "log").open("w") as log:
        return subprocess.Popen([*command, *numbers, *arguments], stdout=log, stderr=log, start_new_session=True)


def _allow(out, episodes):
    """Let commands started from now on write this number of episodes and then wait for the next call of this."""
    new = out.parent / "gate.new"
    new.write_text(str(episodes))
    new.replace(out.parent / "gate")


def _await(process, out, episodes):
    end = time.monotonic() + 180
    while not out.exists() or _episodes(out) < episodes:
        assert time.monotonic() < end
        assert process.poll() is None, _log(out)
        time.sleep(0.01)


def _log(out):
    return (out.parent / "log").read_text()


def _episodes(out):
    return len(list(out.glob("*/*/all_variations/episodes/episode*")))


def test_killed_anywhere_it_can_go_on(whole, tmp_path):
    out = tmp_path / "killed"
    for kill, wanted in ((os.kill, 0), (os.killpg, 4), (os.kill, 8)):
        _allow(out, max(wanted, 1))
        process = _start(out, "--workers", "2")
        _await(process, out, wanted)
        kill(process.pid, signal.SIGKILL)
        process.wait()
        if _episodes(out):
            assert {episode.success for episode in open_dataset(out)} == {-1}  # whole episodes, no outcomes yet
    _allow(out, 1000)
    process = _start(out, "--workers", "2")
    assert process.wait(timeout=180) == 0, _log(out)
    end = time.monotonic() + 60
    while _tree(out) != whole and time.monotonic() < end:  # orphans of the last kill tidy up by themselves
        time.sleep(0.1)
    assert _tree(out) == whole


def test_pieces_of_the_dead_are_removed_even_if_nobody_fetched_them(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        child.stdout.read()  # ends with the process, which stays a zombie until it is waited for
        dead, living = (tmp_path / f".episode0.{pid}.part" for pid in (child.pid, os.getpid()))
        dead.mkdir()
        living.mkdir()
        for _ in range(100):
            if remove_leftovers(tmp_path):
                break
            time.sleep(0.05)
        assert (dead.exists(), living.exists()) == (False, True)


def test_a_killed_worker_does_no_harm(whole, tmp_path):
    out = tmp_path / "killed"
    _allow(out, 1)
    process = _start(out, "--workers", "1")
    for episodes, allowed in ((1, 6), (6, 1000)):
        _await(process, out, episodes)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (worker,) = [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
        os.kill(int(worker), signal.SIGKILL)
        _allow(out, allowed)
    assert process.wait(timeout=180) == 0, _log(out)
    assert _tree(out) == whole


def test_two_commands_in_one_folder_do_the_work_together(whole, tmp_path):
    out = tmp_path / "both"
    both = [_start(out, "--workers", "1"), _start(out, "--workers", "1")]
    for process in both:
        assert process.wait(timeout=180) == 0, _log(out)
    assert _tree(out) == whole


def test_commands_with_different_tasks_in_one_folder_keep_each_others(whole, tmp_path):
    out = tmp_path / "both"
    both = [_start(out, "--workers", "1", "--task", task) for task in ("visit", "greet")]
    for process in both:
        assert process.wait(timeout=180) == 0, _log(out)
    assert _tree(out) == whole


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(copied):
    episodes = copied / "train/visit/all_variations/episodes"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for process in (dead, living):
        (episodes / f".episode0.{process.pid}.part").mkdir()
        (copied / f".manifest.json.{process.pid}.part").touch()
    _write(copied, train=1)
    left = [path.name for path in (*episodes.iterdir(), *copied.iterdir()) if path.name.startswith(".")]
    living.communicate(b"\n")
    assert sorted(left) == [f".episode0.{living.pid}.part", f".manifest.json.{living.pid}.part"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"renderer": "other"}}, "world.renderer was 'plain', now 'other'"),
        ({"options": {"image_size": 9}}, "world.image_size was 8, now 9"),
        ({"options": {"revision": "2"}}, "world.versions.toy was '1', now '2'"),
        ({"video_frames": 8}, "images.video_frames was 16, now 8"),
        ({"seed": 5}, "seeds.train was 0, now 5"),
        ({"tasks": ("visit",), "variations": (1,)}, "variations 0, 1, 2 of visit; asked for is 1"),
    ],
)
def test_another_configuration_is_refused_naming_both(copied, change, message):
    before = _tree(copied)
    with pytest.raises(ConfigError, match=message) as caught:
        _write(copied, **({"train": 2} | change))
    one_text = "manifest.json: this folder of demonstrations was made with another configuration ("
    assert (one_text in str(caught.value)) == (", now " in message)
    assert _tree(copied) == before


def test_auto_is_what_it_came_to(plugin, tmp_path):
    _write(tmp_path / "out", tasks=("greet",), train=1, options={"renderer": "auto"})
    assert _write(tmp_path / "out", tasks=("greet",), train=1, options={"renderer": "plain"}).renderer == "plain"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train": 0}, "all 0: there is no demonstration to make"),
        ({"train": -1}, "--train must be 0 or more demonstrations of each variation, got -1"),
        ({"train": 1, "tasks": ("vist",)}, "unknown task 'vist'. Did you mean 'visit'"),
        ({"train": 1, "tasks": ("visit",), "variations": (3,)}, "unknown variation 3 of task 'visit': it has 0 to 2"),
        ({"train": 1, "variations": (2,)}, "unknown variation 2 of task 'greet': it has 0 to 0"),
        ({"train": 1, "seed": -1}, "--seed must be from 0 to 969999999, got -1"),
        ({"train": 1, "video_frames": -2}, "--video-frames must be 0 or more, got -2"),
        ({"train": 1, "max_variations": 0}, "--max-variations must be at least 1, got 0"),
        ({"train": 1, "max_variations": 1, "variations": (0,)}, "give one of them"),
        ({"train": 400_000}, "would share seeds with another partition; at most 333333"),
        ({"train": 1, "options": {"colour": "red"}}, "world 'toy'.*unexpected keyword argument 'colour'"),
    ],
)
def test_what_cannot_be_asked(plugin, tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        _write(tmp_path / "out", **config)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_left_alone(plugin, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"is not empty \(notes.txt\) and has no manifest.json"):
        _write(tmp_path, train=1)
    with pytest.raises(ConfigError, match="is a file; demonstrations need a folder"):
        _write(tmp_path / "notes.txt", train=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read .*manifest.json"),
        (
            '{"schema": "mnprobe.rollouts/1"}',
            "its schema is 'mnprobe.rollouts/1'; demonstrations have 'mnprobe.demos/1'",
        ),
        ('{"schema": "mnprobe.demos/1", "config": {}, "tasks": []}', "tasks is missing or damaged"),
    ],
)
def test_a_damaged_manifest_is_named(copied, text, message):
    (copied / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        _write(copied, train=1)


def test_what_lies_in_an_episodes_place_is_never_overwritten(copied):
    episodes = copied / "train/visit/all_variations/episodes"
    shutil.move(episodes / "episode1", episodes / "episode0_")
    shutil.copytree(episodes / "episode2", episodes / "episode1")
    with pytest.raises(
        DataError, match=r"episode1 holds visit, variation 2, seed 2 .* wants visit, variation 1, seed 1"
    ):
        _write(copied, train=1)
    (episodes / "episode1" / "situation.json").unlink()
    with pytest.raises(DataError, match=r"episode1 has no situation.json, so it is not a demonstration of this folder"):
        _write(copied, train=1)


def test_a_full_disk_is_one_message_and_leaves_nothing_half(whole, tmp_path):
    code = """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        from mnprobe.cli.main import main
        main(sys.argv[1:])
    """
    out = tmp_path / "full"
    numbers = ["--train", "2", "--val", "1", "--test", "1", "--workers", "2", "--quiet"]
    script = tmp_path / "script.py"
    script.write_text("if __name__ == '__main__':\n" + code)
    done = subprocess.run(
        [sys.executable, script, "demos", "--world", "toy", "--out", out, *numbers],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},  # compiled modules are beyond the limit as well
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mnprobe: File too large")
    assert len(done.stderr.splitlines()) == 1
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]
    _write(out, train=2, val=1, test=1)
    assert _tree(out) == whole


def test_a_folder_that_cannot_be_written(plugin, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        _write(tmp_path / "file" / "out", train=1)


def test_a_note_is_a_plain_text_file_of_the_episode(tmp_path):
    frame = FrameData(
        gripper_pose=[0, 0, 1, 0, 0, 0, 1],
        gripper_open=1.0,
        joint_velocities=[0.5] * 7,
        gripper_joint_positions=[0.04, 0.04],
    )
    asked = {"task": "t", "variation": 0, "episode": 0, "instructions": ["do it"], "frames": [frame, frame]}
    folder = write_episode(tmp_path, **asked, notes={"note.txt": "é\n"})
    assert (folder / "note.txt").read_bytes() == b"\xc3\xa9\n"
    for name in ("../note.txt", "note", "low_dim_obs.pkl", ".note.txt"):
        with pytest.raises(ConfigError, match="a note's file name must be like"):
            write_episode(tmp_path, **(asked | {"episode": 1}), notes={name: ""})
