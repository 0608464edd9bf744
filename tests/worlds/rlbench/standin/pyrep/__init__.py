import os

from pyrep.errors import PyRepError
from pyrep.objects.shape import Shape
from standin_log import TREE

__version__ = "4.1.0.3"


class PyRep:
    def __init__(self):
        if not os.path.exists(os.environ.get("COPPELIASIM_ROOT", "")):
            raise PyRepError("no COPPELIASIM_ROOT")

    def get_objects_in_tree(self, root_object=None, *args, **kwargs):
        assert root_object is None and not args
        assert {name: value.name for name, value in kwargs.items()} == {"object_type": "SHAPE"}
        return [Shape.__new__(Shape)._of(entry) for entry in TREE]
