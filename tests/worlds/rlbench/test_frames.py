import numpy as np
import pytest

from mnprobe.core.errors import WorldError
from mnprobe.data import Camera, depth_to_points, find_keyframes, look_at, open_dataset, pinhole, write_episode
from mnprobe.worlds.rlbench import RLBench
from mnprobe.worlds.rlbench_frames import depth_from_points, frame_from


def test_depth_and_matrices_give_rlbenchs_point_cloud(simulator, pose):
    world = RLBench(image_size=12, cameras=["front", "left_shoulder", "right_shoulder", "wrist", "overhead"])
    world.reset("turn_tap", 0, 0)
    world.step(pose((0.25, 0.05, 1.2), (0.1, 0.9, 0.3, np.sqrt(1 - 0.91))))
    seen = world._task._scene._look()  # what RLBench observed, with the depths from which it made the points
    frame = world.frames()[-1]
    for name, camera in frame.cameras.items():
        assert np.allclose(frame.depth[name], simulator.DEPTHS[name], rtol=0, atol=5e-6)
        points = depth_to_points(frame.depth[name], camera.intrinsics, camera.extrinsics)
        assert np.allclose(points, getattr(seen, f"{name}_point_cloud"), rtol=0, atol=5e-6)
        assert np.array_equal(frame.rgb[name], getattr(seen, f"{name}_rgb"))
    assert len(frame.cameras) == 5
    world.close()


def test_a_frame_keeps_its_own_copy(world, pose):
    world.reset("turn_tap", 0, 0)
    first = world.frames()[0].gripper_pose.copy()
    world.step(pose())
    assert np.array_equal(world.frames()[0].gripper_pose, first)
    assert not np.shares_memory(world.frames()[1].gripper_pose, world._task._scene._pose)


def test_collision_flags_are_those_of_the_key_poses(world, pose):
    world.reset("turn_tap", 0, 0)
    world.step(pose(ignore_collisions=True))
    world.step(pose(ignore_collisions=False))
    assert [frame.ignore_collisions for frame in world.frames()] == [0.0, 1.0, 0.0]


def test_frames_are_the_start_and_the_key_poses(world, pose):
    world.reset("turn_tap", 0, 0)
    for gripper_open in (True, True, False):
        world.step(pose(gripper_open=gripper_open))
    frames = world.frames()
    assert [frame.gripper_open for frame in frames] == [1, 1, 1, 0]
    # Nothing of the way is in them, so that the ordinary rule cannot find all of their key poses.
    assert find_keyframes([f.gripper_open for f in frames], [f.joint_velocities for f in frames]) == (3,)


def test_played_frames_can_be_written_and_read(world, pose, tmp_path):
    world.reset("turn_tap", 0, 0)
    world.step(pose())
    write_episode(
        tmp_path, task="turn_tap", variation=0, episode=0, instructions=["turn left tap"], frames=world.frames()
    )
    episode = open_dataset(tmp_path)[0]
    assert episode.cameras == ("front", "left_shoulder", "right_shoulder", "wrist")
    for index, frame in enumerate(world.frames()):
        assert np.allclose(episode.frame(index).depth["wrist"], frame.depth["wrist"], rtol=0, atol=1e-6)
        assert np.array_equal(episode.frame(index).rgb["front"], frame.rgb["front"])
        assert np.array_equal(episode.joint_positions[index], frame.joint_positions)


@pytest.mark.parametrize(
    "name", ["gripper_pose", "gripper_open", "joint_velocities", "wrist_rgb", "front_point_cloud", "misc"]
)
def test_what_the_observation_lacks_is_named(world, simulator, name):
    simulator.CHANGES["absent"] = [name]
    with pytest.raises(WorldError, match=f"observation has no {name}"):
        world.reset("turn_tap", 0, 0)
    assert simulator.names()[-1] == "shutdown"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.full(7, np.nan), r"gripper_pose is NaN \(\[nan nan.*simulated arm is broken"),
        (np.array([0, 0, np.inf, 0, 0, 0, 1]), "gripper_pose is infinite"),
        (np.zeros(6), r"gripper_pose must have shape \(7,\), got \(6,\)"),
    ],
)
def test_a_pose_that_is_none_is_told_as_what_it_is(world, value, text):
    world.reset("turn_tap", 0, 0)
    seen = world._task._scene._look()
    seen.gripper_pose = value
    with pytest.raises(WorldError, match=text):
        frame_from(seen, world.options.cameras, ignore_collisions=False)


def test_frames_tell_the_poses_of_the_tasks_objects(world, target):
    world.reset("turn_tap", 0, 0)
    assert np.array_equal(world.frames()[0].task_low_dim_state, [*target(world), 0, 0, 0, 1])
    seen = world._task._scene._look()
    for value in (None, np.full(7, np.nan)):
        seen.task_low_dim_state = value
        assert frame_from(seen, world.options.cameras, ignore_collisions=False).task_low_dim_state is None


def test_points_that_contradict_the_matrices_are_refused(world, simulator):
    simulator.CHANGES["cloud"] = np.array([0.0, 0.01, 0.0])
    with pytest.raises(WorldError, match="point cloud and its matrices in misc disagree"):
        world.reset("turn_tap", 0, 0)


@pytest.fixture
def camera():
    return Camera(
        name="c", intrinsics=pinhole(40, 6, 8), extrinsics=look_at([1.3, 0, 1.6], [0, 0, 0.8]), near=0.01, far=3
    )


def test_depth_is_along_the_axis_and_kept_within_near_and_far(camera):
    depth = np.full((6, 8), 1.7)
    depth[2, 3] = 3.0000004  # rounding of RLBench's routine
    points = depth_to_points(depth, camera.intrinsics, camera.extrinsics)
    found = depth_from_points(points, camera)
    assert np.allclose(found, 1.7, rtol=0, atol=1e-9) | (found == 3.0).any()
    assert found.max() == 3.0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda points: points[..., :2], r"finite \(H, W, 3\)"),
        (lambda points: np.where(points > 0.9, np.nan, points), "must be finite"),
        (lambda points: points[:, ::-1], "disagree"),
        (lambda points: points * 1.001 + 0.002, "disagree"),
    ],
)
def test_points_that_are_not_this_cameras_are_refused(camera, change, text):
    points = depth_to_points(np.full((6, 8), 1.7), camera.intrinsics, camera.extrinsics)
    with pytest.raises(WorldError, match=text):
        depth_from_points(change(points), camera)


def test_depths_beyond_far_are_refused(camera):
    points = depth_to_points(np.full((6, 8), 3.2), camera.intrinsics, camera.extrinsics)
    with pytest.raises(WorldError, match="near and far in misc are"):
        depth_from_points(points, camera)
