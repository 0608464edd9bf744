import numpy as np
from pyrep import PyRep
from pyrep.objects import shape
from standin_log import TREE, called

from rlbench.action_modes.action_mode import MoveArmThenGripper
from rlbench.backend.observation import observe
from rlbench.observation_config import ObservationConfig
from rlbench.task_environment import TaskEnvironment

SCENE = ("workspace", "diningTable", "wall1", "Panda_link7_respondable")
_EVERYTHING = ObservationConfig.__new__(ObservationConfig)  # a default that the log does not hear of


class Environment:
    def __init__(
        self,
        action_mode,
        dataset_root="",
        obs_config=_EVERYTHING,
        headless=False,
        static_positions=False,
        robot_setup="panda",
        randomize_every=None,
        frequency=1,
        visual_randomization_config=None,
        dynamics_randomization_config=None,
        attach_grasped_objects=True,
    ):
        called("Environment", dataset_root=dataset_root, headless=headless)
        assert isinstance(action_mode, MoveArmThenGripper)
        assert isinstance(obs_config, ObservationConfig)
        self._action_mode, self._obs_config = action_mode, obs_config
        self._scene = None

    def launch(self):
        called("launch")
        TREE[:] = [[handle, name, name != "workspace"] for handle, name in enumerate(SCENE, 10)]
        self._scene = Scene(self._obs_config)

    def get_task(self, task_class):
        assert self._scene is not None
        called("get_task", task_class.__name__)
        del TREE[len(SCENE) :]
        TREE.extend([[20, "target", True], [21, "ghost", False]])
        return TaskEnvironment(
            PyRep(), None, self._scene, task_class(PyRep(), None), self._action_mode, "", self._obs_config
        )

    def shutdown(self):
        called("shutdown")
        self._scene = None


class Scene:
    """Arm, gripper and cameras; which cameras there are is settled at the launch, what they show at every look."""

    def __init__(self, obs_config):
        self._config = obs_config
        self._cameras = {
            name: camera
            for name, camera in obs_config._cameras.items()
            if camera.rgb or camera.depth or camera.point_cloud
        }
        box = np.add(shape.BOX, (-0.2, 0.2, -0.2, 0.2, 0, 1.0))
        self._bounds = box[0::2] + shape.POSITION, box[1::2] + shape.POSITION
        self._task = None

    def _look(self):
        return observe(self._config, self)

    def _move_to(self, pose):
        same = np.array_equal(pose, self._pose)
        self._pose = np.full(7, np.nan) if same else np.array(pose)  # PyRep divides by the length of the path
