import numpy as np
from standin_log import CHANGES, called, shape

POSITION = (0.3, 0.0, 0.752)
BOX = (-0.4, 0.4, -0.5, 0.5, 0.0, 0.0)


class Shape:
    def __init__(self, name_or_handle):
        called("Shape", name_or_handle)
        try:
            self._entry = shape(name_or_handle)
        except StopIteration:
            raise RuntimeError("The call failed on the V-REP side. Return value: -1") from None

    def _of(self, entry):
        self._entry = entry
        return self

    def __eq__(self, other):  # and no hash, as the real ones
        return self.get_handle() == other.get_handle()

    def get_handle(self):
        return self._entry[0]

    def get_name(self):
        return self._entry[1]

    def get_position(self, relative_to=None):
        assert relative_to is None
        return np.array(CHANGES.get("position", POSITION))

    def get_bounding_box(self):
        return list(BOX)

    def is_collidable(self):
        return int(self._entry[2])

    def set_collidable(self, value):
        called("set_collidable", self._entry[1], value)
        self._entry[2] = bool(value)
