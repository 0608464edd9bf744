__version__ = "4.1.0.3"


class PyRep:
    pass
