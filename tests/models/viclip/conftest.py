"""The golden tiny ViCLIP: its weights, inputs and outputs."""

import json

import numpy as np
import pytest
import torch

from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, load_viclip


@pytest.fixture(scope="session")
def folder(golden):
    return golden / "viclip-tiny"


@pytest.fixture(scope="session")
def facts(folder) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def config(facts) -> ViCLIPConfig:
    vision, text = facts["vision"], facts["text"]
    return ViCLIPConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        frames=vision["num_frames"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["heads"],
        embed_dim=vision["output_dim"],
        text_context=text["context_length"],
        vocabulary=text["vocab_size"],
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
    )


@pytest.fixture
def model(folder, config) -> ViCLIP:
    return load_viclip(folder / "weights.safetensors", config)


@pytest.fixture(scope="session")
def gold(folder) -> dict[str, torch.Tensor]:
    with np.load(folder / "model.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="session")
def small() -> ViCLIPConfig:
    """A size with heads of 64, as the published models have, so that it can be read off the tensors."""
    return ViCLIPConfig(
        image_size=32,
        patch_size=16,
        frames=2,
        width=64,
        layers=2,
        heads=1,
        embed_dim=16,
        text_context=8,
        vocabulary=100,
        text_width=64,
        text_layers=1,
        text_heads=1,
    )
