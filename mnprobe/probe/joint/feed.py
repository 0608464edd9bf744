"""What one update is given, put together from the prepared inputs: clips with their texts, steps with their noise."""

import numpy as np
import torch
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.core.seeds import derived_seed
from mnprobe.features.distributed import Team
from mnprobe.models.arp import ARPConfig
from mnprobe.models.clip import END
from mnprobe.models.viclip import Tokenizer, ViCLIPConfig
from mnprobe.probe.joint.config import TrainConfig
from mnprobe.probe.joint.draws import Draws, part
from mnprobe.probe.joint.inputs import Language, TrainingInputs
from mnprobe.probe.joint.noise import draw_noise
from mnprobe.probe.joint.objective import StepInputs, StepSettings

__all__ = ["Feed"]


class Feed:
    """Makes the inputs of any update, on `device`: a pure function of the seed and the update's number.

    Args:
        inputs: what `prepare_inputs` gave.
        config: of the training.
        viclip: sizes of the video model; None when it is not trained.
        arp: configuration of the policy; None when it is not trained.
        language: gives the policy's language tokens.
        device: where the inputs go.
        team: the processes that share each batch.

    Raises:
        ConfigError: the batch cannot be shared equally, or the text encoder does not know CLIP's tokens.
        DataError: the data have nothing to tell apart, see `Draws`.
    """

    def __init__(
        self,
        inputs: TrainingInputs,
        config: TrainConfig,
        *,
        viclip: ViCLIPConfig | None,
        arp: ARPConfig | None,
        language: Language | None,
        device: str,
        team: Team,
    ) -> None:
        clips = config.clips_drawn if viclip is not None else 0
        draws = Draws(inputs, batch=config.batch, clips=clips, pairing=config.pairing, seed=config.seed)
        part(draws.at(0, understanding=clips > 0), team.rank, team.size)  # refused now, not at the first update
        self._inputs, self._draws, self._config = inputs, draws, config
        self._viclip, self._arp, self._language = viclip, arp, language
        self._device, self._team = device, team
        self._tokens = None if viclip is None else _tokens(inputs.texts, viclip)

    def __call__(self, update: int) -> StepInputs:
        """The share of this process in update number `update`, from 0."""
        config = self._config
        understanding = self._viclip is not None and config.understands(update)
        draw = part(self._draws.at(update, understanding), self._team.rank, self._team.size)
        found = StepInputs(
            settings=StepSettings(
                understanding=understanding,
                lambda_ee=config.lambda_ee,
                lambda_align=config.lambda_align if config.aligns else 0.0,
                tau=config.tau,
                temperature=config.temperature,
                positives=config.positives,
            )
        )
        given: dict[str, object] = {}
        if understanding:
            given |= self._clips(draw.clips)
            given["generator"] = torch.Generator(self._device).manual_seed(
                derived_seed(config.seed, update, "depth", self._team.rank)
            )
        if self._arp is not None and self._language is not None:
            batch = self._inputs.policy_batch(draw.transitions, self._language, device=self._device)
            given["batch"] = batch
            given["noise"] = draw_noise(
                self._arp,
                rows=draw.positions,
                batch=config.batch,
                points=sum(batch.observation.rgb[camera][0, 0].numel() for camera in self._arp.cameras),
                augment=config.augment,
                colour=config.colour_noise,
                seed=config.seed,
                update=update,
            )
            if understanding:
                episodes = self._inputs.transition_episode[draw.transitions[: draw.pairs]]
                given["pair_groups"] = torch.from_numpy(self._draws.groups[episodes])
        return StepInputs(**(vars(found) | given)).to(self._device)

    def _clips(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[str, Tensor]:
        numbers = self._inputs.instruction_of[rows]
        distinct, text_of = np.unique(numbers, return_inverse=True)
        assert self._tokens is not None  # there is a video model
        return {
            "clips": self._inputs.clips(rows, device=self._device),
            "text_ids": self._tokens[torch.from_numpy(distinct)],
            "text_of": torch.from_numpy(text_of),
            "clip_ids": torch.from_numpy(numbers),
        }


def _tokens(texts: tuple[str, ...], config: ViCLIPConfig) -> Tensor:
    """Ids of all instructions, made as recognition makes them."""
    if config.vocabulary <= END:
        raise ConfigError(
            f"the text encoder knows {config.vocabulary} tokens, CLIP's tokenizer gives ids up to {END}: instructions "
            f"cannot be read. Set the vocabulary of the video model to {END + 1}"
        )
    return Tokenizer(config.text_context).tokenize(texts)
