"""Contact sheets: what is on them, that they are the same each time, and what is refused."""

import numpy as np
import pytest
from matplotlib.text import Text

from mnprobe.analysis.figures.layout import text_collisions
from mnprobe.analysis.tsne.contact_sheet import contact_sheet, draw_sheets
from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import Camera, FrameData, look_at, open_dataset, pinhole, write_episode

SIZE = 12


def _write(
    root, *, poses, number=0, images="keyframes", instruction="open $it$", task="open", cameras=("front", "wrist")
):
    """An episode whose image of frame f is the flat grey f."""
    views = {
        name: Camera(
            name=name,
            intrinsics=pinhole(60, SIZE, SIZE),
            extrinsics=look_at([1.2, 0, 1.6], [0.2, 0, 0.9]),
            near=0.01,
            far=4,
        )
        for name in cameras
    }
    frames = [
        FrameData(
            gripper_pose=[0.2, 0, 1.0, 0, 0, 0, 1],
            gripper_open=float(index < 7),
            joint_velocities=[0.0 if index % 7 == 0 and index else 0.5] * 7,
            gripper_joint_positions=[0.04, 0.04],
            cameras=views,
            rgb={name: np.full((SIZE, SIZE, 3), index, dtype=np.uint8) for name in views},
        )
        for index in range(7 * poses + 1)
    ]
    return write_episode(
        root,
        task=task,
        variation=3,
        episode=number,
        partition="test",
        instructions=[instruction],
        frames=frames,
        images=images,
    )


def _shown(figure):
    """Pictures from left to right, row by row: (grey, column's left edge, row's upper edge)."""
    pictures = figure.axes[0].get_images()
    places = [
        (picture.get_extent()[3], picture.get_extent()[0], int(picture.get_array()[0, 0, 0])) for picture in pictures
    ]
    return sorted(places)


def _texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def _head(figure):
    """Title and subtitle, each on one line."""
    return [text.get_text().replace("\n", " ") for text in figure.texts]


def test_rows_are_cameras_and_columns_are_key_poses(tmp_path):
    _write(tmp_path, poses=3)
    (episode,) = open_dataset(tmp_path, outcomes="successful")
    figure = contact_sheet(episode)
    keys = episode.keyframes
    assert [gray for _, _, gray in _shown(figure)] == [0, *keys[:-1]] * 2  # the last has no image in trimmed data
    rows = sorted({top for top, _, _ in _shown(figure)})
    assert len(rows) == 2
    texts = _texts(figure)
    assert figure.texts[0].get_text() == "open $it$"
    assert (
        figure.texts[1].get_text()
        == f"open, variation 3, test episode 0, {len(episode)} frames, {len(keys)} key poses, success"
    )
    assert {"start", "key pose 1", "front", "wrist", "frame 0, open", f"frame {keys[0]}, closed"} <= set(texts)
    assert f"key pose {len(keys)}" not in texts


def test_a_camera_with_fewer_images_leaves_its_place_empty(tmp_path):
    _write(tmp_path, poses=3, images={"front": "all", "wrist": "keyframes"})
    (episode,) = open_dataset(tmp_path)
    figure = contact_sheet(episode)
    assert [gray for _, _, gray in _shown(figure)] == [0, *episode.keyframes, 0, *episode.keyframes[:-1]]
    assert len(figure.axes[0].get_lines()) == 1  # the empty frame
    assert f"key pose {len(episode.keyframes)}" in _texts(figure)
    assert text_collisions(figure) == []


def test_many_key_poses_go_on_below(tmp_path):
    _write(tmp_path, poses=20, images="all", cameras=("front",))
    (episode,) = open_dataset(tmp_path)
    shown = _shown(contact_sheet(episode))
    assert [gray for _, _, gray in shown] == [0, *episode.keyframes]
    rows = sorted({top for top, _, _ in shown})
    by_row = [sum(top == row for top, _, _ in shown) for row in rows]
    assert len(rows) == 3
    assert max(by_row) - min(by_row) <= 1
    assert contact_sheet(episode).get_size_inches()[0] < 14
    assert text_collisions(contact_sheet(episode)) == []


def test_long_names_of_cameras_and_instructions_stay_apart(tmp_path):
    long = "a_very_long_name_without_any_break_" * 3
    _write(tmp_path, poses=3, instruction=f"{long} " * 3, cameras=("front", long))
    (episode,) = open_dataset(tmp_path)
    assert text_collisions(contact_sheet(episode)) == []


def test_the_seed_is_told_where_it_is_known_and_a_lost_instruction_is_no_obstacle(tmp_path):
    folder = _write(tmp_path, poses=2)
    (folder / "situation.json").write_text(
        '{"schema": "mnprobe.situation/1", "world": "w", "task": "open", "variation": 3, "seed": 41}'
    )
    (folder / "variation_descriptions.pkl").unlink()
    (episode,) = open_dataset(tmp_path)
    title, facts = _head(contact_sheet(episode))
    assert title == "open (its instruction is missing or damaged)"
    assert facts.startswith("open, variation 3, seed 41, test episode 0")


def test_one_sheet_of_each_task_the_same_bytes_each_time(tmp_path):
    for task in ("open", "close"):
        _write(tmp_path / "demos", poses=2, task=task)
        _write(tmp_path / "demos", poses=2, task=task, number=1)
    dataset = open_dataset(tmp_path / "demos")
    first, second = (draw_sheets(dataset, tmp_path / name) for name in ("a", "b"))
    assert [path.relative_to(tmp_path).as_posix() for path in first] == ["a/close.png", "a/open.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    (chosen,) = draw_sheets(dataset, tmp_path, episodes=["open/3/test-episode1"])
    assert chosen == tmp_path / "open-3-test-episode1.png"
    with pytest.raises(
        ConfigError, match=r"unknown episode 'open/3/test-episode2'. Did you mean 'open/3/test-episode1'"
    ):
        draw_sheets(dataset, tmp_path, episodes=["open/3/test-episode2"])


def test_a_dataset_without_key_poses_is_shown_at_its_decisions(golden, tmp_path):
    dataset = open_dataset(golden / "lerobot" / "v30-images", decisions=4)
    figure = contact_sheet(dataset[0])
    texts = [text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_text()]
    assert {"pick the red cube", "v30-images/0/episode0, 17 frames, 1.6 s, success"} <= set(texts)
    assert [text for text in texts if text.startswith("frame ")] == [f"frame {n}" for n in (0, 4, 8, 12, 16)]
    paths = draw_sheets(dataset, tmp_path)
    assert [path.name for path in paths] == ["pick_the_red_cube.png", "open_the_drawer.png"]


def test_without_images_there_is_nothing_to_show(tmp_path):
    _write(tmp_path, poses=2, images=[3])
    (episode,) = open_dataset(tmp_path)
    with pytest.raises(DataError, match="no colour image at the start or at a key pose"):
        contact_sheet(episode)


def test_real_demonstrations(rlbench_data, tmp_path):
    (path,) = draw_sheets(open_dataset(rlbench_data / "rlbench"), tmp_path)
    assert path.stat().st_size > 10_000
