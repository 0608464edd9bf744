"""Loading ViCLIP weights: the published files and our own checkpoints."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.models.loading import check_strict, detect_model, load_into, read_config, read_state_dict, shapes_of
from mnprobe.models.viclip.config import ViCLIPConfig
from mnprobe.models.viclip.model import ViCLIP

__all__ = ["load_viclip"]


def load_viclip(
    path: str | Path,
    config: ViCLIPConfig | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ViCLIP:
    """Build a ViCLIP from a weights file, strictly: names and shapes must match exactly.

    Takes the published files (`ViClip-InternVid-10M-FLT.pth` and its kin, the safetensors of the `-hf` repositories),
    files of the official training (weights under `model` or `module`), and our own checkpoints. The temperature in the
    file overwrites `temp`: set it again after loading if another one is required.

    Args:
        path: the file.
        config: sizes. By default those stored in our own checkpoints, else those read off the tensors.
        device: target device.
        dtype: of the weights; keep float32 and use autocast for mixed precision.
    Returns: the model in eval mode.
    Raises:
        CheckpointError: for a missing, damaged or incompatible file, and for weights that are not finite.
    """
    stored = read_config(path, model="viclip")
    state = read_state_dict(path)
    config = _choose(config, stored, state, path)
    if config.layers + config.text_layers > len(state):
        raise CheckpointError(
            f"{path}: {len(state)} entries cannot hold the {config.layers} video and {config.text_layers} text blocks"
            " of the configuration. The file is incomplete, or the configuration of another model."
        )
    with torch.device("meta"):
        model = ViCLIP(config)
    load_into(model, state, path=path, model="viclip", dtype=dtype, device=device)
    return model.eval()


def _choose(
    given: ViCLIPConfig | None, stored: Mapping[str, object] | None, state: Mapping[str, Tensor], path: str | Path
) -> ViCLIPConfig:
    if stored is not None:
        try:
            own = ViCLIPConfig.from_dict(stored)
        except ConfigError as error:
            raise CheckpointError(f"{path}: its stored configuration is no ViCLIPConfig: {error}") from error
        if given is not None and replace(given, stochastic_depth=own.stochastic_depth) != own:
            raise CheckpointError(
                f"{path}: was made with another configuration than the one given.\n  stored: {own}\n  given:  {given}\n"
                "Leave config out; to change sizes, load first and call model.resized(...)."
            )
        return given or own
    if given is not None:
        return given
    if detect_model(state) != "viclip":
        with torch.device("meta"):
            check_strict(shapes_of(ViCLIP(ViCLIPConfig.b16())), state, path=path, model="viclip")
    return ViCLIPConfig.from_state_dict(state, path=path)
