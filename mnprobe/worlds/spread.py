"""Spacing of key-pose frames, so that the keyframe rule finds them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from mnprobe.data import FrameData

__all__ = ["spread_key_poses"]

_WAY = 4  # after a stop the rule sees no other within this many frames
_STILL = 0.1  # rad/s, the rule's own limit
_MOVING = np.ones(7)


def spread_key_poses(frames: Sequence[FrameData]) -> list[FrameData]:
    """The start, then for every key pose four frames of the way and the key pose itself.

    A frame of the way is the frame before it with joint velocities of 1 rad/s: the way was not seen, only that there
    was one. Velocities at key poses are kept within 0.1 rad/s. In the result `find_keyframes` finds all key poses and
    nothing else: at the frames 5, 10, 15, ...
    """
    spread = [frames[0]]
    for before, key in pairwise(frames):
        spread += [replace(before, joint_velocities=_MOVING)] * _WAY
        spread.append(replace(key, joint_velocities=np.clip(key.joint_velocities, -_STILL, _STILL)))
    return spread
