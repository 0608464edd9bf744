"""What the stand-in was asked, and what it shall raise. The tests read and set these."""

import numpy as np

CALLS = []  # (name, args, kwargs) in order
STATES = []  # numpy's global state at each scene reset
FAULTS = {}  # name of a call -> exception to raise there
CHANGES = {}  # name of something -> what to answer instead of the truth


def called(name, *args, **kwargs):
    CALLS.append((name, args, kwargs))
    fault = FAULTS.get(name)
    if fault is not None:
        raise fault


def names():
    return [name for name, _, _ in CALLS]


def present_state():
    return np.random.get_state()  # noqa: NPY002 - the simulator that this stands for uses the legacy generator


def draw(low, high, size):
    return np.random.uniform(low, high, size)  # noqa: NPY002 - as above
