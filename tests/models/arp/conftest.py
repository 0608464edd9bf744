"""Golden arrays of ARP, and how closely they must be met."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mnprobe.models.arp.config import ARPConfig


class Piece(NamedTuple):
    """One golden piece: arrays, settings, weights (float32), and the configuration that the settings mean."""

    arrays: dict[str, Tensor]
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    config: ARPConfig


def _config(settings: dict[str, Any]) -> ARPConfig:
    vision, policy = settings.get("mvt", settings), settings.get("policy", settings)
    names = {
        "vision_width": vision.get("attn_dim"),
        "vision_heads": vision.get("attn_heads"),
        "vision_head_width": vision.get("attn_dim_head"),
        "vision_depth": vision.get("depth"),
        "language_length": vision.get("lang_len"),
        "language_width": vision.get("lang_dim"),
        "state_width": vision.get("proprio_dim"),
        "patch_size": vision.get("img_patch_size", policy.get("upscale_ratio")),
        "image_size": settings.get("img_size", policy.get("img_size")),
        "width": policy.get("n_embd", 2 * vision.get("im_channels", 0)),
        "heads": policy.get("n_head", 4),
        "mlp_ratio": policy.get("mlp_ratio"),
        "cross_blocks": policy.get("cross_blocks"),
        "self_blocks": policy.get("self_blocks"),
        "norm_before_modulation": policy.get("norm_before_AdaLN"),
        "upsample_multiplier": policy.get("upsample_hidden_mult"),
        "rotation_bins": policy.get("rotation_classes"),
        "max_sequence": policy.get("max_seq_len"),
        "max_chunk": policy.get("max_chunk_size"),
        "heatmap_sigma": policy.get("heatmap_sigma"),
        "bounds": settings.get("scene_bounds"),
        "zoom": settings.get("zoom"),
        "render_radius": settings.get("render_radius"),
        "waypoint_noise": settings.get("waypoint_label_noise"),
    }
    return ARPConfig.from_dict({"dropout": 0.0} | {name: value for name, value in names.items() if value is not None})


@pytest.fixture(scope="session")
def piece(golden: Path):
    """`piece(name)` reads one golden piece, once."""
    found: dict[str, Piece] = {}

    def read(name: str) -> Piece:
        if name not in found:
            path = golden / "arp-tiny" / name
            settings = json.loads(path.with_suffix(".json").read_text())
            with np.load(path.with_suffix(".npz")) as file:
                arrays = {key: torch.from_numpy(file[key]) for key in file.files}
            weights = {key: value.float() for key, value in load_file(path.with_suffix(".safetensors")).items()}
            found[name] = Piece(arrays, settings, weights, _config(settings))
        return found[name]

    return read


@pytest.fixture(scope="session")
def assert_golden():
    """Equal within 2e-5 of the golden array's largest value (the exact GELU in place of the tanh form shows)."""

    def check(actual: Tensor, expected: Tensor, name: str = "array", tolerance: float = 2e-5) -> None:
        assert actual.shape == expected.shape, name
        error = (actual.detach() - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
        assert error <= tolerance, f"{name}: off by {error:.2e} of the largest value"

    return check
