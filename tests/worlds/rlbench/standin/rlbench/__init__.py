import pyrep

__version__ = "1.2.0"
assert tuple(int(part) for part in pyrep.__version__.split(".")) >= (4, 1, 0, 2)
