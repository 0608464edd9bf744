"""ARP as a closed-loop policy: from an observation to the next key pose."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name
from mnprobe.core.runtime import torch_threads
from mnprobe.features.inputs import ARPInputs, arrays_of_frame_data, language_encoder_for
from mnprobe.models.arp import load_arp
from mnprobe.worlds import KeyPose, Observation
from mnprobe.worlds.policy import PolicySpec

__all__ = ["ARPPlayer"]

_DEFAULTS: dict[str, Any] = {
    "blank_instruction": False,
    "language_weights": None,
    "language_seed": 0,
    "device": "cpu",
}


class ARPPlayer:
    """ARP as a policy for `mnprobe rollout`: greedy actions from the images of the world's cameras.

    Frames are converted to inputs as in `ARPExtractor`, so extracted features of a rollout equal the states of the
    policy during the rollout. Inference always uses one thread, so that an episode does not depend on the process that
    runs it.

    Options: `blank_instruction` gives the policy "" for every task; `language_weights` (CLIP RN50) or `language_seed`
    select the language encoder; `device`.

    Raises:
        ConfigError: no checkpoint, or an unknown option.
        CheckpointError: another model's weights, or a language encoder that is not the policy's.
    """

    name = "arp"

    def __init__(self, spec: PolicySpec) -> None:
        for option in spec.options:
            if option not in _DEFAULTS:
                raise unknown_name("option of policy 'arp':", option, list(_DEFAULTS))
        options = _DEFAULTS | dict(spec.options)
        if spec.checkpoint is None:
            raise ConfigError("policy 'arp' needs weights: give --checkpoint FILE, or a run that has some of ARP")
        device = str(options["device"])
        self.policy = load_arp(spec.checkpoint, device=device)
        weights = options["language_weights"]
        language = language_encoder_for(
            self.policy.config,
            weights=Path(weights) if weights else None,
            seed=int(options["language_seed"]),
            checkpoint=spec.checkpoint,
        )
        self._inputs = ARPInputs(self.policy.config, language, device=device, blank=bool(options["blank_instruction"]))

    def describe(self) -> dict[str, Any]:
        """Configuration of the policy and its language encoder."""
        return {"policy": self.name, "config": self.policy.config.to_dict(), **self._inputs.describe()}

    def start(self, observation: Observation, seed: int) -> None:
        """Do nothing: the policy has no state and no randomness."""

    def act(self, observation: Observation) -> KeyPose:
        """Return the greedy key pose; its numbers are not checked here."""
        arrays = arrays_of_frame_data(observation.frame, self.policy.config.cameras)
        with torch_threads(1), torch.inference_mode():
            output = self.policy.act(self._inputs.observation([arrays], [observation.instruction]))
        numbers = output.action[0].double().cpu().numpy()
        return KeyPose(
            position=np.array(numbers[:3]),
            quaternion=np.array(numbers[3:7]),
            gripper_open=bool(numbers[7] > 0.5),
            ignore_collisions=bool(numbers[8] > 0.5),
        )
