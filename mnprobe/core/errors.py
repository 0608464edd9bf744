"""Exceptions that mnprobe raises for user errors.

    MnprobeError
    ├── ConfigError        an invalid setting (also an unknown name)
    ├── DataError          missing, damaged or unsafe demonstrations on disk
    ├── CheckpointError    missing or damaged model weights, or those of another model
    ├── FeatureError       a missing, damaged or incompatible feature store
    ├── ProbeError         an impossible measurement
    │   ├── TooFewSamples
    │   └── TooLittleMemory
    ├── TrainingError      a training that cannot continue: losses of NaN, an incompatible state
    ├── WorldError         a failed simulator; its own error is the cause
    └── ClusterError       a cluster that cannot be reached, or is lost

Every message states the request, the problem, its location, and the remedy. The command line prints it and exits with
code 2.
"""

__all__ = [
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "FeatureError",
    "MnprobeError",
    "ProbeError",
    "TooFewSamples",
    "TooLittleMemory",
    "TrainingError",
    "WorldError",
]


class MnprobeError(Exception):
    """Base class of all exceptions that mnprobe raises on purpose."""


class ConfigError(MnprobeError, ValueError):
    """A setting is invalid, contradicts another, or is an unknown name."""


class DataError(MnprobeError):
    """Demonstration data are missing, damaged, unsafe or of another format."""


class CheckpointError(MnprobeError):
    """A weights file is missing, damaged, or belongs to another model."""


class FeatureError(MnprobeError):
    """A feature store is missing, damaged, or incompatible with the one it is compared with."""


class ProbeError(MnprobeError):
    """A measurement is not possible with the given data."""


class TooFewSamples(ProbeError):
    """There are fewer samples than the measurement needs; the message gives both numbers."""


class TooLittleMemory(ProbeError):
    """A measurement needs more memory than available; the message says how much, and what needs less."""


class TrainingError(MnprobeError):
    """A training cannot continue; its earlier files remain, and the message names them."""


class WorldError(MnprobeError):
    """A simulator failed or gave an invalid result; its own exception, if any, is the cause.

    Not raised for an infeasible motion: that ends an episode and is reported as a value.
    """


class ClusterError(MnprobeError):
    """A cluster cannot be reached, has no worker that can be used, or went away; what was finished before is kept."""
