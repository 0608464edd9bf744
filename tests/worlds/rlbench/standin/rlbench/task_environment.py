import numpy as np
from standin_log import CHANGES, STATES, called, draw, present_state

from rlbench.backend.exceptions import TaskEnvironmentError
from rlbench.demo import Demo

START = np.array([0.278, -0.008, 1.472, 0.0, 1.0, 0.0, 0.0])


class TaskEnvironment:
    def __init__(
        self,
        pyrep,
        robot,
        scene,
        task,
        action_mode,
        dataset_root,
        obs_config,
        static_positions=False,
        attach_grasped_objects=True,
    ):
        self._scene, self._task, self._action_mode = scene, task, action_mode
        self._variation_number = 0
        self._reset_called = False
        scene._task = task

    def set_variation(self, v):
        called("set_variation", v)
        if v >= self._task.variation_count():
            raise TaskEnvironmentError(f"variation {v} out of range")
        self._variation_number = v

    def reset(self):
        STATES.append(present_state())
        called("reset")
        self._place()
        self._reset_called = True
        texts = [f"do variation {self._variation_number}", "another way to say it"]
        print(f" -> {texts[0]}")  # as ARP's fork does
        return CHANGES.get("descriptions", texts), self._scene._look()

    def _place(self):
        scene, task = self._scene, self._task
        for _ in range(1 + CHANGES.get("discarded placements", 0)):
            task._target = np.append(draw([0.0, -0.3], [0.5, 0.3], 2), 1.0)
        if type(task).__name__ == "PushButtons":  # the order of a set of texts decides
            task._target[2] += 0.01 * list({"maroon", "green", "blue", "navy", "yellow", "cyan"}).index("cyan")
        scene._pose, scene._open, scene._speed, scene._ignore = START.copy(), 1.0, 0.0, 1.0

    def step(self, action):
        if not self._reset_called:
            raise RuntimeError("reset first")
        called("step", np.array(action))
        scene = self._scene
        self._action_mode.action(scene, action)
        success = float(np.linalg.norm(scene._pose[:3] - self._task._target)) < 0.02 and scene._open == 0
        scene._pose[:3] += CHANGES.get("miss", 0.0)
        return scene._look(), CHANGES.get("reward", 1.0 if success else 0.0), CHANGES.get("terminate", success)

    def get_demos(
        self,
        amount,
        live_demos=False,
        image_paths=False,
        callable_each_step=None,
        max_attempts=10,
        random_selection=True,
        from_episode_number=0,
    ):
        called("get_demos", amount, live_demos=live_demos, max_attempts=max_attempts)
        assert live_demos
        return [self._live(max_attempts) for _ in range(amount)]

    def _live(self, attempts):
        failing = CHANGES.get("failing attempts", 0)
        while attempts > 0:
            state = present_state()
            STATES.append(state)
            called("reset of a demonstration")
            self._place()
            if failing == 0:
                return Demo(self._demonstrate(), CHANGES.get("demo state", state))
            failing -= 1
            attempts -= 1
        raise RuntimeError("Could not collect demos. The rest of the text is not relied on")

    def _demonstrate(self):
        scene, target = self._scene, self._task._target
        observations = [scene._look()]
        goals = [(np.add(target, (0, 0, 0.2)), 1.0, 1.0), (target, 1.0, 0.0), (target, 0.0, 0.0)]
        for goal, gripper, scene._ignore in goals:
            start = scene._pose[:3].copy()
            scene._speed = 0.5
            for part in (0.25, 0.5, 0.75) if scene._open == gripper else ():
                scene._pose[:3] = start + part * (goal - start)
                observations.append(scene._look())
            scene._pose[:3], scene._open, scene._speed = goal, gripper, 0.0
            observations += [scene._look() for _ in range(3)]
        return observations
