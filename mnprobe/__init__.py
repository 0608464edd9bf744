"""mnprobe: how far two models see the same action.

Importing this package loads no torch, matplotlib or mujoco: take what you need from `mnprobe.data`, `mnprobe.models`,
`mnprobe.features`, `mnprobe.probe` and `mnprobe.analysis`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
