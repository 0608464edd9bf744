"""The OpenGL renderer beside the ray renderer; skipped where no off-screen OpenGL works."""

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.worlds import make_world
from mnprobe.worlds.tabletop import egl, gl
from mnprobe.worlds.tabletop.hand import HAND_BODIES


def test_a_problem_is_told_where_gl_was_asked_for(monkeypatch):
    monkeypatch.setattr(gl, "probe_gl", lambda: "the system has no libEGL")
    with pytest.raises(ConfigError, match=r"the system has no libEGL.*renderer='rays'"):
        make_world("tabletop", renderer="gl")
    assert make_world("tabletop", renderer="auto").describe()["renderer"] == "rays"


def test_a_missing_library_is_an_error_for_people(monkeypatch):
    monkeypatch.setattr(egl.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(ConfigError, match="no libEGL"):
        egl._library()


def test_the_probe_tells_how_a_child_process_ended(monkeypatch):
    monkeypatch.setattr(gl, "sys", type("System", (), {"executable": "/bin/false"}))
    assert gl.probe_gl.__wrapped__() == "an attempt ended with exit code 1"


@pytest.fixture(scope="module")
def worlds():
    if problem := gl.probe_gl():
        pytest.skip(f"no off-screen OpenGL: {problem}")
    pair = [make_world("tabletop", renderer=name, image_size=128) for name in ("rays", "gl")]
    yield pair
    for world in pair:
        world.close()


@pytest.mark.parametrize(
    ("task", "seed"), [("push_buttons", 3), ("open_drawer", 1), ("slide_block_to_color_target", 2)]
)
def test_both_renderers_show_the_same(worlds, play, task, seed):
    frames = []
    for world in worlds:
        assert play(world, task, 0, seed).success
        frames.append([world.frames()[key] for key in (0, *world.key_frames)])
    hands = [worlds[0]._sim.model.body(name).id for name in HAND_BODIES]
    for ours, theirs in zip(*frames, strict=True):
        for name in ours.rgb:
            assert theirs.rgb[name].std() > 5
            off = np.abs(ours.depth[name] - theirs.depth[name])
            assert np.median(off) < 2e-5
            assert (off > 2e-3).mean() < 0.01  # edges, and curved things drawn as polygons
            fingers = np.isin(ours.mask[name], hands) & np.isin(theirs.mask[name], hands)  # one inside the other
            assert ((ours.mask[name] != theirs.mask[name]) & ~fingers).mean() < 0.02
            assert np.abs(ours.rgb[name].astype(int) - theirs.rgb[name]).mean() < 25


def test_images_of_later_episodes_are_not_blank(worlds):
    world = worlds[1]
    seen = [world.reset("push_buttons", variation, 0).frame.rgb["front"] for variation in (0, 1, 0)]
    assert all(picture.std() > 10 for picture in seen)
    np.testing.assert_array_equal(seen[0], seen[2])
    assert (seen[0] != seen[1]).any()


def test_two_worlds_in_turn_do_not_disturb_each_other(worlds):
    other = make_world("tabletop", renderer="gl", image_size=64)
    first = worlds[1].reset("open_drawer", 0, 0).frame
    second = other.reset("push_buttons", 0, 0).frame
    assert second.rgb["front"].shape == (64, 64, 3)
    assert second.rgb["front"].std() > 10
    assert first.rgb["front"].std() > 10
    other.close()
    assert first.rgb["wrist"].std() > 5


def test_masks_can_be_left_out(worlds):
    lean = make_world("tabletop", renderer="gl", masks=False)
    frame = lean.reset("open_drawer", 0, 0).frame
    assert not frame.mask
    full = worlds[1].reset("open_drawer", 0, 0).frame
    np.testing.assert_array_equal(frame.rgb["front"], full.rgb["front"])
    lean.close()


def test_shadows_are_the_ray_renderers(worlds):
    with pytest.raises(ConfigError, match="shadow is an option of the ray renderer"):
        make_world("tabletop", renderer="gl", shadow=True)
