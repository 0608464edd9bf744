"""ARP: the chunking causal transformer policy, with official weight names."""

from mnprobe.models.arp.augment import SE3Draws
from mnprobe.models.arp.blank import blank_instruction
from mnprobe.models.arp.config import CAMERAS, ARPConfig
from mnprobe.models.arp.drawing import Drawing, drawing_settings
from mnprobe.models.arp.load import ZeroGateWarning, load_arp, save_arp
from mnprobe.models.arp.model import ARP, ActOutput, TrainOutput
from mnprobe.models.arp.noise import TrainNoise
from mnprobe.models.arp.observation import Batch, FrameArrays, Observation, Target, observation_from_frames
from mnprobe.models.arp.optim import Lamb, learning_rate
from mnprobe.models.arp.renderer import network_input, render_views

__all__ = [
    "ARP",
    "CAMERAS",
    "ARPConfig",
    "ActOutput",
    "Batch",
    "Drawing",
    "FrameArrays",
    "Lamb",
    "Observation",
    "SE3Draws",
    "Target",
    "TrainNoise",
    "TrainOutput",
    "ZeroGateWarning",
    "blank_instruction",
    "drawing_settings",
    "learning_rate",
    "load_arp",
    "network_input",
    "observation_from_frames",
    "render_views",
    "save_arp",
]
