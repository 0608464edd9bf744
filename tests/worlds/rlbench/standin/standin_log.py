"""What the stand-in was asked, and what it shall raise or do. The tests read and set these."""

import numpy as np

CALLS = []  # (name, args, kwargs) in order
STATES = []  # numpy's global state at each scene reset
FAULTS = {}  # name of a call -> exception to raise there
CHANGES = {}  # name of something -> what to answer instead of the truth
DRAWN = {}  # name of a call -> what it drew last, of those in CHANGES["draws in"]
DEPTHS = {}  # camera -> the depths from which the last observation's points were made
RENDERED = []  # camera by camera, each image that was rendered
TREE = []  # the shapes in the scene, as [handle, name, collidable]


def called(name, *args, **kwargs):
    CALLS.append((name, args, kwargs))
    if name in CHANGES.get("draws in", ()):  # the real forks draw in none but reset
        DRAWN.setdefault(name, []).append(float(draw(0, 1, None)))
    fault = FAULTS.get(name)
    if fault is not None:
        raise fault


def names():
    return [name for name, _, _ in CALLS]


def shape(name):
    return next(entry for entry in TREE if entry[1] == name)


def present_state():
    return np.random.get_state()  # noqa: NPY002 - the simulator that this stands for uses the legacy generator


def draw(low, high, size):
    return np.random.uniform(low, high, size)  # noqa: NPY002 - as above
