import numpy as np
import pyrep

__version__ = "1.2.0"

if np.any(np.array(pyrep.__version__.split("."), dtype=int) < [4, 1, 0, 2]):
    raise ImportError("PyRep is too old")
