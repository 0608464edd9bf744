"""The whole thing in a process of its own, as a user meets it."""

import json
import os
import subprocess
import sys

import pytest

PLAY = """
import sys
from mnprobe.worlds import make_world, KeyPose
assert "rlbench" not in sys.modules and "pyrep" not in sys.modules and "mujoco" not in sys.modules
world = make_world("rlbench", image_size=8)
observation = world.reset("open_drawer", 2, 0)
print(observation.instruction)
for pose in world.expert():
    result = world.step(pose)
    if result.done:
        break
print(result.reason, len(world.frames()))
import standin_log
print("shutdown" in standin_log.names())
"""


@pytest.fixture
def run(variables, standin_folder):
    def started(*arguments, **changes):
        environment = {**os.environ, **variables, "PYTHONPATH": str(standin_folder), **changes}
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)

    return started


def test_an_episode_is_played_and_the_simulator_shut_down_at_the_end(run, tmp_path):
    note = tmp_path / "ended"
    last = f"import standin_log, atexit, pathlib; _n = pathlib.Path({str(note)!r})\n"
    last += "atexit.register(lambda: _n.write_text(str(standin_log.names()[-1])))\n"  # runs after the world's own
    done = run("-W", "error", "-c", last + PLAY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["do variation 2", "success 4", "False"]
    assert note.read_text() == "shutdown"


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"DISPLAY": ""}, "DISPLAY is not set"), ({"PYTHONPATH": ""}, "PyRep: absent")],
)
def test_what_is_missing_is_one_clear_error(run, changes, text):
    done = run("-c", "from mnprobe.worlds import make_world; make_world('rlbench')", **changes)
    assert done.returncode == 1
    assert "the live RLBench simulator is not usable here" in done.stderr
    assert text in done.stderr


def test_an_unknown_option_is_refused(run):
    done = run("-c", "from mnprobe.worlds import make_world; make_world('rlbench', image_sise=3)")
    assert "ConfigError: world 'rlbench'" in done.stderr
    assert "image_sise" in done.stderr


FEW_PARTS = """
from mnprobe.cli.main import main
from mnprobe.core import environment
environment.NEEDED = ()  # whether each package can be imported takes seconds to try
environment.OPTIONAL = [part for part in environment.OPTIONAL if part.package == "av"]
"""


def test_doctor_tells_the_parts_apart(run):
    found = json.loads(run("-c", "from mnprobe.cli.main import main; main(['doctor', '--json'])").stdout)
    assert found["rlbench"].keys() == {"CoppeliaSim", "PyRep", "RLBench", "X display"}
    assert all(state.startswith("ok") for state in found["rlbench"].values())
    assert "all 18 tasks" in found["rlbench"]["RLBench"]
    assert {"rlbench", "tabletop"} <= set(found["worlds"])
    changes = {"DISPLAY": "", "RLBENCH_ENHANCED_RANDOMNESS": "1"}
    text = run("-c", FEW_PARTS + "main(['doctor'])", **changes).stdout
    assert "X display: absent: DISPLAY is not set" in text
    assert "RLBENCH_ENHANCED_RANDOMNESS is '1'" in text


TWICE = """
import sys
from mnprobe.cli.main import main
for more in ([], ["--json"]):
    try:
        main([*sys.argv[1:], *more])
    except SystemExit as end:
        assert not end.code, end.code
    print("=====")
"""


def test_the_command_line_tells_where_a_scene_is_not_the_recorded_one(run, rlbench_data, tmp_path):
    command = ["rollout", "--world", "rlbench", "--policy", "random", "--from-demos", str(rlbench_data)]
    command += ["--task", "open_drawer", "--episodes", "1", "--image-size", "8", "--max-steps", "2", "--workers", "0"]
    done = run("-c", TWICE, *command, "--out", str(tmp_path / "played"))
    assert done.returncode == 0, done.stderr
    text, found, _ = done.stdout.split("=====\n")
    assert "note: open_drawer/" in text
    assert "its objects have 7 numbers where 101 were expected" in text
    (entry,) = json.loads(found)["rollouts"]  # nothing that RLBench prints is in it
    assert [note.startswith("the scene is not the recording's") for note in entry["notes"].values()] == [True]
