"""The errors that mnprobe raises for a person to read.

    MnprobeError
    ├── ConfigError        a setting that cannot be (also an unknown name)
    ├── DataError          demonstrations on disk that are missing, damaged or hostile
    ├── CheckpointError    model weights that are missing, damaged or of another model
    ├── FeatureError       a feature store that is missing, damaged or does not fit its partner
    ├── ProbeError         a measurement that cannot be made
    │   ├── TooFewSamples
    │   └── TooLittleMemory
    ├── TrainingError      a training that cannot go on: losses that are no numbers, a state that does not fit
    └── WorldError         a simulator that failed; its own error is the cause

Every message says what was asked, what was found, where, and what to do next. The command line prints it as it is and
ends with exit code 2.
"""

__all__ = [
    "CheckpointError",
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
    """Root of the family: catch this to catch all that mnprobe raises on purpose."""


class ConfigError(MnprobeError, ValueError):
    """A setting is impossible, contradicts another, or names something unknown."""


class DataError(MnprobeError):
    """Demonstration data are missing, damaged, hostile or of another format."""


class CheckpointError(MnprobeError):
    """A weights file is missing, damaged, or belongs to another model."""


class FeatureError(MnprobeError):
    """A feature store is missing, damaged, or does not fit the one it is compared with."""


class ProbeError(MnprobeError):
    """A measurement cannot be made from what was given."""


class TooFewSamples(ProbeError):
    """There are fewer samples than the measurement needs; the message gives both numbers."""


class TooLittleMemory(ProbeError):
    """A measurement needs more memory than there is; the message says how much, and what needs less."""


class TrainingError(MnprobeError):
    """A training cannot go on as asked; what it wrote before is kept, and the message says what that is."""


class WorldError(MnprobeError):
    """A simulator failed or answered what it must not; where it raised something, that is the cause.

    Never for a motion that could not be made: that is how an episode ends, a value and no error.
    """
