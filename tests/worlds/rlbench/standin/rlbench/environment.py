import numpy as np
from pyrep.objects import shape
from standin_log import CHANGES, STATES, called, draw, present_state

from rlbench.action_modes.action_mode import MoveArmThenGripper
from rlbench.backend.exceptions import InvalidActionError, TaskEnvironmentError
from rlbench.backend.observation import observe
from rlbench.demo import Demo
from rlbench.observation_config import ObservationConfig

START = np.array([0.278, -0.008, 1.472, 0.0, 1.0, 0.0, 0.0])


class Environment:
    def __init__(self, action_mode, dataset_root="", obs_config=None, headless=False):
        called("Environment", dataset_root=dataset_root, headless=headless)
        assert isinstance(action_mode, MoveArmThenGripper)
        assert isinstance(obs_config, ObservationConfig)
        self.obs_config = obs_config
        self.launched = False

    def launch(self):
        draw(0, 1, 3)
        called("launch")
        self.launched = True

    def get_task(self, task_class):
        assert self.launched
        called("get_task", task_class.__name__, drawn=float(draw(0, 1, None)))
        return TaskEnvironment(self, task_class)

    def shutdown(self):
        called("shutdown")
        self.launched = False


class TaskEnvironment:
    def __init__(self, environment, task_class):
        self.environment = environment
        self.config = environment.obs_config
        self.task = task_class
        self.variation = None
        self.target = None

    def set_variation(self, v):
        called("set_variation", v)
        draw(0, 1, 1)
        if v >= self.task.variations:
            raise TaskEnvironmentError(f"variation {v} out of range")
        self.variation = v

    def reset(self):
        STATES.append(present_state())
        called("reset")
        assert self.environment.launched
        self._place()
        return CHANGES.get("descriptions", [f"do variation {self.variation}", "another way to say it"]), self.see()

    def _place(self):
        self.target = np.append(draw([0.0, -0.3], [0.5, 0.3], 2), 1.0)
        self.pose, self.open, self.speed, self.ignore = START.copy(), 1.0, 0.0, 1.0

    def see(self):
        return observe(self.config, self)

    def step(self, action):
        assert self.target is not None
        assert self.environment.launched
        called("step", np.array(action), drawn=float(draw(0, 1, None)))
        if not isinstance(action, np.ndarray) or action.shape != (9,):
            raise InvalidActionError("wrong length")
        if abs(np.linalg.norm(action[3:7]) - 1) > 1e-5:
            raise InvalidActionError("no unit quaternion")
        box = np.add(shape.BOX, (-0.2, 0.2, -0.2, 0.2, 0, 1.0))
        low, high = box[0::2] + shape.POSITION, box[1::2] + shape.POSITION
        if not ((action[:3] > low) & (action[:3] < high)).all():
            raise InvalidActionError("target outside of the workspace")
        self.pose = np.array(action[:7])
        self.open, self.ignore = float(action[7] > 0.5), float(action[8])
        action[:] = -77  # the real modes may write into it
        success = float(np.linalg.norm(self.pose[:3] - self.target)) < 0.02 and self.open == 0
        self.pose[:3] += CHANGES.get("miss", 0.0)
        return self.see(), CHANGES.get("reward", 1.0 if success else 0.0), CHANGES.get("terminate", success)

    def get_demos(self, amount, live_demos=False):
        called("get_demos", amount, live_demos=live_demos)
        assert live_demos
        return [self._demo() for _ in range(amount)]

    def _demo(self):
        if CHANGES.get("first attempt fails"):
            draw(0, 1, 1)
        state = present_state()
        self._place()
        observations = [self.see()]
        goals = [(np.add(self.target, (0, 0, 0.2)), 1.0, 1.0), (self.target, 1.0, 0.0), (self.target, 0.0, 0.0)]
        for goal, gripper, self.ignore in goals:
            start = self.pose[:3].copy()
            self.speed = 0.5
            for part in (0.25, 0.5, 0.75) if self.open == gripper else ():
                self.pose[:3] = start + part * (goal - start)
                observations.append(self.see())
            self.pose[:3], self.open, self.speed = goal, gripper, 0.0
            observations += [self.see() for _ in range(3)]
        return Demo(observations, CHANGES.get("demo state", state))
