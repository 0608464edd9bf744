import os
from pathlib import Path

from standin_log import TREE

from pyrep.errors import PyRepError
from pyrep.objects.shape import Shape

__version__ = "4.1.0.3"


class PyRep:
    def __init__(self):
        if not Path(os.environ["COPPELIASIM_ROOT"]).is_dir():
            raise PyRepError("no COPPELIASIM_ROOT")

    def get_objects_in_tree(self, root_object=None, *args, **kwargs):
        assert root_object is None
        assert not args
        assert {name: value.name for name, value in kwargs.items()} == {"object_type": "SHAPE"}
        return [Shape.__new__(Shape)._of(entry) for entry in TREE]
