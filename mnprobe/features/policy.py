"""ARP as a closed-loop policy: from an observation to the next key pose."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name
from mnprobe.core.runtime import torch_threads
from mnprobe.features.extractors.arp import states_of
from mnprobe.features.extractors.base import computation_of
from mnprobe.features.inputs import ARPInputs, arrays_of_frame_data, language_encoder_for
from mnprobe.models.arp import ActOutput, load_arp
from mnprobe.models.arp import Observation as Inputs
from mnprobe.worlds import KeyPose, Observation
from mnprobe.worlds.policy import PolicySpec

__all__ = ["BLANKED", "SHOWN", "ARPPlayer"]

SHOWN, BLANKED = "shown", "blank"
"""First parts of the names of traced states: those of the act, and of the same act without an instruction."""

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
        device = self._device = str(options["device"])
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
        with torch_threads(1), torch.inference_mode():
            return _key_pose(self.policy.act(self._look(observation)))

    def act_traced(
        self, observation: Observation, layers: Sequence[str]
    ) -> tuple[KeyPose, Mapping[str, np.ndarray[Any, Any]]]:
        """Return the key pose of `act`, and the states (tokens, width) of each layer with and without the instruction.

        The states are named "shown/<layer>" and "blank/<layer>". They equal, bit for bit, what `ARPExtractor` gives for
        the recorded episode on one thread in passes of one key-to-key step.
        """
        with torch_threads(1), torch.inference_mode():
            inputs = self._look(observation)
            drawing = self.policy.draw(inputs)
            output = self.policy.act(inputs, drawing=drawing)
            blanked = self.policy.act(self._inputs.blanked(inputs), drawing=drawing)
        states = {f"{SHOWN}/{name}": rows[0] for name, rows in states_of(output.hidden, layers).items()}
        states |= {f"{BLANKED}/{name}": rows[0] for name, rows in states_of(blanked.hidden, layers).items()}
        return _key_pose(output), states

    def computation(self) -> dict[str, Any]:
        """Device, size of a pass and versions, as stores record them."""
        return computation_of(self._device, batch_size=1)

    def _look(self, observation: Observation) -> Inputs:
        arrays = arrays_of_frame_data(observation.frame, self.policy.config.cameras)
        return self._inputs.observation([arrays], [observation.instruction])


def _key_pose(output: ActOutput) -> KeyPose:
    numbers = output.action[0].double().cpu().numpy()
    return KeyPose(
        position=np.array(numbers[:3]),
        quaternion=np.array(numbers[3:7]),
        gripper_open=bool(numbers[7] > 0.5),
        ignore_collisions=bool(numbers[8] > 0.5),
    )
