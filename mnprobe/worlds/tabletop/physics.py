"""Physics of one episode: queries for tasks, and execution of key poses.

A key pose is a straight line with a slerp under a smoothstep profile (0.48 m/s on average, at most 3.6 rad/s), 0.1 s of
rest, and 0.25 s for the fingers if they change. States are stored 20 times a second (specs/tabletop.md ii).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.tabletop.hand import ACTUATOR, CLOSED, HAND_BODIES, HOME, OPEN, pointing_down
from mnprobe.worlds.tabletop.palette import Colour

__all__ = ["FRAME_SECONDS", "Instant", "Motion", "Simulation", "settle"]

FRAME_SECONDS = 0.05
"""Time between two stored states, seconds (as in RLBench)."""

_STEPS_PER_FRAME = 25
_STEPS_PER_CHUNK = 5
_SPEED = 0.48  # metres per second, mean
_TURNING = 3.6  # radians per second, peak
_SHORTEST = 0.15  # seconds; with the rest five frames, the closest that two stops can be found
_REST_FRAMES = 2
_FINGER_FRAMES = 5
_MOVING = 0.2  # least speed written into a frame of a motion; up to 0.1 counts as rest
_LAG = 0.01  # metres that the hand is behind where it should be, from which on it is held up; moving freely 0.007
_TOUCH = 10.0  # newtons of a contact that counts as a collision


@dataclass(frozen=True, kw_only=True, eq=False)
class Instant:
    """One stored state.

    Attributes:
        qpos: all joint positions; the first seven are the hand's pose (position, quaternion w x y z), the next two its
            fingers'.
        colours: (geoms, 3) RGB in 0 .. 1.
        velocities: (7,) in place of joint speeds: of the hand m/s (3) and rad/s (3), of the fingers m/s; zero at rest,
            the largest at least 0.2 during a motion.
        gripper_open: state of the gripper; it changes at the end of the key pose that changes it.
        ignore_collisions: of the key pose that is being carried out.
    """

    qpos: NDArray[np.float64]
    colours: NDArray[np.float32]
    velocities: NDArray[np.float64]
    gripper_open: bool
    ignore_collisions: bool


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How carrying out a key pose went.

    Attributes:
        instants: states stored on the way, the last one at rest.
        reached: within 5 mm and 3 degrees of the pose.
        collided: the hand hit something while it was not to; the motion ended there.
        broken: the simulation became unstable; the episode cannot go on.
        success: the task was solved at some moment.
    """

    instants: list[Instant]
    reached: bool
    collided: bool
    broken: bool
    success: bool


class Simulation:
    """The state of one episode. Tasks ask it by the names in their MJCF; an unknown name is a KeyError.

    Attributes:
        model: MuJoCo's model.
        data: MuJoCo's state.
    """

    def __init__(self, xml: str) -> None:
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.gripper_open = True
        self._hand = {self._body(name) for name in HAND_BODIES}
        self._left, self._right = self._body("finger_left"), self._body("finger_right")
        self._mocap = int(self.model.body("mocap").mocapid[0])
        self._fingers = int(self.model.actuator(ACTUATOR).id)
        self._colours: NDArray[np.float32] | None = None
        self._chosen: dict[tuple[str, ...], NDArray[np.int64]] = {}
        self.data.ctrl[self._fingers] = OPEN
        self.data.qpos[7:9] = OPEN
        mujoco.mj_forward(self.model, self.data)

    # Queries of tasks.

    def position(self, body: str) -> NDArray[np.float64]:
        """(3,) world position of a body's origin, metres."""
        return np.array(self.data.xpos[self._body(body)])

    def positions(self, bodies: Sequence[str]) -> NDArray[np.float64]:
        """(n, 3) world positions of several bodies, metres."""
        chosen = tuple(bodies)
        if chosen not in self._chosen:
            self._chosen[chosen] = np.array([self._body(body) for body in chosen])
        return np.array(self.data.xpos[self._chosen[chosen]])

    def rotation(self, body: str) -> NDArray[np.float64]:
        """(3, 3) orientation of a body in the world."""
        return np.array(self.data.xmat[self._body(body)]).reshape(3, 3)

    def yaw(self, body: str) -> float:
        """Direction of a body's x axis about the vertical, radians."""
        x = self.rotation(body)[:, 0]
        return math.atan2(x[1], x[0])

    def site(self, name: str) -> NDArray[np.float64]:
        """(3,) world position of a site, metres."""
        return np.array(self.data.site(name).xpos)

    def geom(self, name: str) -> NDArray[np.float64]:
        """(3,) world position of a geom's centre, metres."""
        return np.array(self.data.geom(name).xpos)

    def joint(self, name: str) -> float:
        """Position of a slide (metres) or hinge (radians) joint."""
        return float(self.data.joint(name).qpos[0])

    def speed(self, body: str) -> float:
        """Speed of a body's centre of mass, m/s."""
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_BODY, self._body(body), velocity, 0)
        return float(np.linalg.norm(velocity[3:]))

    def touching(self, first: str, second: str) -> bool:
        """Whether two bodies touch."""
        pair = {self._body(first), self._body(second)}
        return any({a, b} == pair for a, b in self._contacts().tolist())

    def held(self) -> set[str]:
        """Names of the bodies that both fingers touch."""
        touched: dict[int, set[int]] = {self._left: set(), self._right: set()}
        for a, b in self._contacts().tolist():
            for finger, other in ((a, b), (b, a)):
                if finger in touched:
                    touched[finger].add(other)
        both = (touched[self._left] & touched[self._right]) - self._hand
        return {str(self.model.body(body).name) for body in both}

    def holds(self, body: str) -> bool:
        """Whether both fingers touch the body."""
        return body in self.held()

    def holds_nothing(self) -> bool:
        """Whether no body is touched by both fingers."""
        return not self.held()

    def set_colour(self, geom: str, colour: Colour) -> None:
        """Paint a geom, from now on."""
        self.model.geom(geom).rgba[:3] = colour
        self._colours = None

    # The hand.

    @property
    def hand_position(self) -> NDArray[np.float64]:
        """(3,) where the hand is, metres."""
        return np.array(self.data.qpos[:3])

    @property
    def hand_quaternion(self) -> NDArray[np.float64]:
        """(4,) x y z w, how the hand is turned."""
        return np.array(self.data.qpos[[4, 5, 6, 3]])

    def instant(self, *, velocities: NDArray[np.float64], ignore_collisions: bool) -> Instant:
        """The present state, to keep."""
        if self._colours is None:
            self._colours = np.array(self.model.geom_rgba[:, :3], dtype=np.float32)
        return Instant(
            qpos=np.array(self.data.qpos),
            colours=self._colours,
            velocities=velocities,
            gripper_open=self.gripper_open,
            ignore_collisions=ignore_collisions,
        )

    def carry_out(self, pose: KeyPose, observe: Callable[[], bool]) -> Motion:
        """Move the hand to a key pose, then the fingers.

        `observe` is called every 0.01 s and says whether the task is solved; the motion is carried out to its end all
        the same, so that the last frame shows the requested key pose. A hand that is held up (1 cm behind
        where it should be) stays where it is. One that shall not touch anything ends its motion where it hits something
        with more than 10 N; what it touches at the start, such as a held object, does not count.
        """
        with _no_log_file():
            return self._carry_out(pose, observe)

    def _carry_out(self, pose: KeyPose, observe: Callable[[], bool]) -> Motion:
        way = _Way(self, pose)
        run = _Run(self, observe, pose.ignore_collisions)
        for step in range(way.frames):
            run.frame(way.positions[step], way.quaternions[step])
            if run.ended:
                break
        if not run.ended:
            run.rest(_REST_FRAMES)
        if not run.ended and pose.gripper_open != self.gripper_open:
            self.data.ctrl[self._fingers] = OPEN if pose.gripper_open else CLOSED
            run.rest(_FINGER_FRAMES)
            self.gripper_open = pose.gripper_open
        elif run.ended:
            run.rest(_REST_FRAMES)
        run.stop()
        return Motion(
            instants=run.instants,
            reached=self._near(pose),
            collided=run.collided,
            broken=run.broken,
            success=run.success,
        )

    def _near(self, pose: KeyPose) -> bool:
        away = float(np.linalg.norm(self.hand_position - pose.position))
        return away <= 0.005 and _angle(self.hand_quaternion, pose.quaternion) <= math.radians(3)

    def _body(self, name: str) -> int:
        return int(self.model.body(name).id)

    def _contacts(self) -> NDArray[np.int64]:
        """(n, 2) bodies in contact."""
        pairs: NDArray[np.int64] = self.model.geom_bodyid[self.data.contact.geom]
        return pairs

    def _touched(self, least: float = 0.0) -> set[int]:
        """Bodies that the hand touches with more than `least` newtons."""
        touched = set()
        force = np.zeros(6)
        for index, (a, b) in enumerate(self._contacts().tolist()):
            other = b if a in self._hand else a
            if (a in self._hand) == (b in self._hand) or other in touched:
                continue
            if least:
                mujoco.mj_contactForce(self.model, self.data, index, force)
            if not least or force[0] > least:
                touched.add(other)
        return touched


@contextmanager
def _no_log_file() -> Iterator[None]:
    """Keep MuJoCo from writing a file into the working folder when a state is not finite; `Motion.broken` tells."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def settle(sim: Simulation, frames: int = 4) -> None:
    """Let things come to rest before an episode starts, the hand at home."""
    sim.data.mocap_pos[sim._mocap] = HOME
    sim.data.mocap_quat[sim._mocap] = np.roll(pointing_down(), 1)
    mujoco.mj_step(sim.model, sim.data, frames * _STEPS_PER_FRAME)


class _Way:
    """Where the hand should be at every step, (frames, steps, 3) and (frames, steps, 4) w x y z."""

    def __init__(self, sim: Simulation, pose: KeyPose) -> None:
        start = np.array(sim.data.mocap_pos[sim._mocap])
        turn = np.roll(sim.data.mocap_quat[sim._mocap], -1)
        length = float(np.linalg.norm(pose.position - start))
        angle = _angle(turn, pose.quaternion)
        seconds = max(length / _SPEED, 1.5 * angle / _TURNING, _SHORTEST)
        self.frames = math.ceil(seconds / FRAME_SECONDS - 1e-9)
        share = np.arange(1, self.frames * _STEPS_PER_FRAME + 1) / (self.frames * _STEPS_PER_FRAME)
        share = share * share * (3 - 2 * share)
        shape = (self.frames, _STEPS_PER_FRAME, -1)
        self.positions = (start + share[:, None] * (pose.position - start)).reshape(shape)
        self.quaternions = np.roll(_slerp(turn, pose.quaternion, share), 1, axis=1).reshape(shape)


class _Run:
    """Steps the simulation, watches it, keeps an instant per frame."""

    def __init__(self, sim: Simulation, observe: Callable[[], bool], ignore_collisions: bool) -> None:
        self.sim = sim
        self.observe = observe
        self.ignore_collisions = ignore_collisions
        self.instants: list[Instant] = []
        self.collided = self.broken = self.success = self.blocked = False
        self._before = np.array(sim.data.qpos[:9])
        self._known = set() if ignore_collisions else sim._touched()

    @property
    def ended(self) -> bool:
        return self.collided or self.broken or self.blocked

    def frame(self, positions: NDArray[np.float64], quaternions: NDArray[np.float64]) -> None:
        """One frame along the way."""
        sim, data = self.sim, self.sim.data
        for step in range(_STEPS_PER_FRAME):
            data.mocap_pos[sim._mocap] = positions[step]
            data.mocap_quat[sim._mocap] = quaternions[step]
            mujoco.mj_step(sim.model, data)
            if (step + 1) % _STEPS_PER_CHUNK == 0:
                self._watch()
                if self.ended:
                    self._stay()
                    break
        self._keep()

    def rest(self, frames: int) -> None:
        """Frames in which the hand stays."""
        for _ in range(frames):
            for _ in range(_STEPS_PER_FRAME // _STEPS_PER_CHUNK):
                mujoco.mj_step(self.sim.model, self.sim.data, _STEPS_PER_CHUNK)
                self._look()
            self._keep()

    def stop(self) -> None:
        """Make the last instant one of rest, in the gripper's new state."""
        self.instants[-1] = self.sim.instant(velocities=np.zeros(7), ignore_collisions=self.ignore_collisions)

    def _watch(self) -> None:
        sim, data = self.sim, self.sim.data
        self._look()
        lag = data.mocap_pos[sim._mocap] - data.qpos[:3]
        self.blocked = bool(lag @ lag > _LAG**2)
        if not self.ignore_collisions:
            self.collided = bool(sim._touched(_TOUCH) - self._known)

    def _look(self) -> None:
        # MuJoCo counts states that are not finite and restarts from the initial state.
        counts = self.sim.data.warning.number
        self.broken = self.broken or bool(counts[int(mujoco.mjtWarning.mjWARN_BADQPOS) :].any())
        if not self.broken and self.observe():
            self.success = True

    def _stay(self) -> None:
        sim, data = self.sim, self.sim.data
        data.mocap_pos[sim._mocap] = data.qpos[:3]
        data.mocap_quat[sim._mocap] = data.qpos[3:7]

    def _keep(self) -> None:
        now = np.array(self.sim.data.qpos[:9])
        velocities = np.empty(7)
        velocities[:3] = (now[:3] - self._before[:3]) / FRAME_SECONDS
        velocities[3:6] = _turned(self._before[3:7], now[3:7]) / FRAME_SECONDS
        velocities[6] = (now[7] - self._before[7]) / FRAME_SECONDS
        fastest = int(np.argmax(np.abs(velocities)))
        velocities[fastest] = math.copysign(max(abs(velocities[fastest]), _MOVING), velocities[fastest])
        self._before = now
        self.instants.append(self.sim.instant(velocities=velocities, ignore_collisions=self.ignore_collisions))


def _angle(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Angle between two orientations, radians; the same whatever the signs of the quaternions."""
    return 2 * math.acos(min(1.0, abs(float(first @ second))))


def _slerp(start: NDArray[np.float64], end: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) orientations between two, the shorter way round."""
    cosine = float(start @ end)
    if cosine < 0:
        end, cosine = -end, -cosine
    angle = math.acos(min(1.0, cosine))
    if angle < 1e-6:
        return np.repeat(start[None], len(share), axis=0)
    between: NDArray[np.float64] = (
        np.sin((1 - share) * angle)[:, None] * start + np.sin(share * angle)[:, None] * end
    ) / math.sin(angle)
    return between


def _turned(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) the rotation from one orientation (w x y z) to another, radians about its axis."""
    rotation = np.zeros(3)
    mujoco.mju_subQuat(rotation, after, before)
    return rotation
