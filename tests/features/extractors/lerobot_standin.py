"""A small package `lerobot` with the calls of lerobot 0.6.1 that mnprobe makes; every call is checked."""

import json
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WIDTH = 4
STEPS = 3  # of denoising


@dataclass
class Feature:
    type: str
    shape: tuple


@dataclass
class Config:
    type: str
    input_features: dict
    output_features: dict
    device: str = "cuda"
    chunk_size: int = 5
    horizon: int = 6
    max_action_dim: int = 7
    pretrained_backbone_weights: Any = "ResNet18_Weights.IMAGENET1K_V1"
    load_vlm_weights: bool = True
    compile_model: bool = True
    tokenizer_max_length: int = 9
    other: dict = field(default_factory=dict)

    known: ClassVar[dict] = {}

    @classmethod
    def get_known_choices(cls):
        return cls.known

    @classmethod
    def from_pretrained(cls, folder):
        fields = json.loads((Path(folder) / "config.json").read_text())
        for name in ("input_features", "output_features"):
            fields[name] = {key: Feature(one["type"], tuple(one["shape"])) for key, one in fields[name].items()}
        return cls(**fields)

    @property
    def image_features(self):
        return {name: one for name, one in self.input_features.items() if one.type == "VISUAL"}

    @property
    def action_feature(self):
        return self.output_features["action"]

    @property
    def observation_delta_indices(self):
        return {"diffusion": [-1, 0], "smolvla": [0], "futurist": [-2, 0, 3]}.get(self.type)


class Policy(nn.Module):
    """Base: nothing is downloaded or compiled; `reset`, then `predict_action_chunk` are called, in evaluation mode."""

    def __init__(self, config):
        super().__init__()
        assert config.pretrained_backbone_weights is None, "would be downloaded"
        assert not config.load_vlm_weights, "would be downloaded"
        assert not config.compile_model, "a compiled module runs no hooks"
        assert config.device == "cpu"
        self.config = config
        self.is_reset = False
        self.width = config.input_features["observation.state"].shape[0] + len(config.image_features)

    @classmethod
    def from_pretrained(cls, folder, *, config, strict=False):
        assert strict
        print("Loading weights from local directory")  # as lerobot does; it must not reach the user's output
        policy = cls(config)
        policy.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=strict)
        return policy.eval()

    def save(self, folder, mean=0.0):
        folder.mkdir(parents=True)
        fields = {key: value for key, value in vars(self.config).items() if "features" not in key}
        for name in ("input_features", "output_features"):
            fields[name] = {key: vars(one) for key, one in getattr(self.config, name).items()}
        (folder / "config.json").write_text(json.dumps(fields | {"device": "cuda"}))
        save_file(self.state_dict(), folder / "model.safetensors")
        steps = [{"registry_name": "device_processor", "config": {"device": "cuda"}}]
        (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": steps, "mean": mean}))

    def reset(self):
        self.is_reset = True

    def select_action(self, batch):
        raise AssertionError("answers from a queue")

    def forward(self, batch):
        raise AssertionError("is the loss")

    def seen(self, batch):
        """Check a batch; return (B, [T,] width): the state, and the mean of the images of each camera."""
        assert self.is_reset
        self.is_reset = False
        assert not self.training
        assert not torch.is_grad_enabled()
        time = self.config.observation_delta_indices is not None
        parts = [batch["observation.state"]]
        for name, feature in self.config.image_features.items():
            image = batch[name]
            assert image.dtype == torch.float32
            assert image.ndim == 4 + time
            assert image.shape[-3] == 3
            assert image.min() >= 0
            assert 0.01 < image.max() <= 1
            assert tuple(image.shape[-2:]) == feature.shape[1:] or self.config.type == "smolvla"
            parts.append(image.flatten(-3).mean(-1, keepdim=True))
        seen = torch.cat(parts, dim=-1)
        assert seen.ndim == 2 + time
        return seen


class Swap(nn.Linear):
    """(S, B, D), as LeRobot's ACT has it inside."""

    def forward(self, tokens):
        return super().forward(tokens)


class ACT(Policy):
    def __init__(self, config):
        super().__init__(config)
        self.model = nn.Module()
        self.model.encoder = Swap(self.width, WIDTH)
        self.model.action_head = nn.Linear(WIDTH, config.action_feature.shape[0])

    def predict_action_chunk(self, batch):
        tokens = self.model.encoder(self.seen(batch).expand(self.config.chunk_size, -1, -1))
        return self.model.action_head(tokens.transpose(0, 1))


class Unet(nn.Module):
    def __init__(self, width, actions):
        super().__init__()
        self.mix = nn.Linear(width, WIDTH)
        self.final_conv = nn.Conv1d(WIDTH, actions, 1)

    def forward(self, sample, timestep, global_cond=None):
        hidden = self.mix(global_cond)[:, :, None] + sample.mean(-1)[:, None]
        return self.final_conv(hidden).transpose(1, 2)


class Diffusion(Policy):
    def __init__(self, config):
        super().__init__(config)
        self.diffusion = nn.Module()
        self.diffusion.unet = Unet(2 * self.width, config.action_feature.shape[0])

    def predict_action_chunk(self, batch, noise=None):
        condition = self.seen(batch).flatten(1)
        assert noise.shape == (len(condition), self.config.horizon, self.config.action_feature.shape[0])
        assert (noise == noise[:1]).all()
        for step in range(STEPS):
            change = self.diffusion.unet(noise, step, global_cond=condition)
            noise = noise - 0.1 * change + 0.1 * torch.randn(noise.shape)  # as DDPM, from the global random state
        return noise


class SmolVLA(Policy):
    def __init__(self, config):
        super().__init__(config)
        text_model = nn.Module()
        text_model.words = nn.Embedding(50, WIDTH)
        text_model.norm = nn.Linear(WIDTH, WIDTH)
        self.model = nn.Module()
        self.model.vlm_with_expert = nn.Module()
        self.model.vlm_with_expert.vlm = nn.Module()
        self.model.vlm_with_expert.vlm.model = nn.Module()
        self.model.vlm_with_expert.vlm.model.text_model = text_model
        self.model.state = nn.Linear(self.width, WIDTH)
        self.model.expert = nn.Linear(config.max_action_dim + WIDTH, WIDTH)
        self.model.action_out_proj = nn.Linear(WIDTH, config.max_action_dim)

    def predict_action_chunk(self, batch, noise=None, **kwargs):
        seen = self.model.state(self.seen(batch)[:, -1])
        assert noise.shape == (len(seen), self.config.chunk_size, self.config.max_action_dim)
        assert (noise == noise[:1]).all()
        vlm = self.model.vlm_with_expert.vlm.model.text_model
        words = vlm.words(batch["observation.language.tokens"])
        prefix = vlm.norm(torch.cat([seen[:, None], words, seen[:, None]], dim=1))  # an image, the text, the state
        mask = batch["observation.language.attention_mask"][..., None]
        known = (prefix[:, 1:-1] * mask).sum(1) + prefix[:, 0]
        for _ in range(STEPS):
            hidden = self.model.expert(torch.cat([noise, known[:, None].expand(-1, noise.shape[1], -1)], -1)).tanh()
            noise = noise - self.model.action_out_proj(hidden) / STEPS
        return noise


class Plugin(Policy):
    """A type that mnprobe does not know."""

    def __init__(self, config):
        super().__init__(config)
        self.trunk = nn.Linear(self.width, WIDTH)
        self.action_head = nn.Linear(WIDTH, config.action_feature.shape[0])

    def predict_action_chunk(self, batch):
        seen = self.seen(batch)
        return self.action_head(self.trunk(seen[:, -1] if seen.ndim == 3 else seen))


class Headless(Plugin):
    def __init__(self, config):
        super().__init__(config)
        self.out = self.action_head
        del self.action_head

    def predict_action_chunk(self, batch):
        return self.out(self.trunk(self.seen(batch)))


class Silent(Plugin):
    """Its loader prints that nothing was loaded, and goes on, as one of lerobot does."""

    @classmethod
    def from_pretrained(cls, folder, *, config, strict=False):
        print("Could not load state dict")
        return cls(config).eval()


POLICIES = {
    "act": ACT,
    "diffusion": Diffusion,
    "smolvla": SmolVLA,
    "plugin": Plugin,
    "futurist": Plugin,
    "headless": Headless,
    "silent": Silent,
}


def make_pre_post_processors(config, pretrained_path=None, preprocessor_overrides=None):
    mean = 0.0
    if pretrained_path is not None:
        assert preprocessor_overrides == {"device_processor": {"device": "cpu"}}
        mean = json.loads((Path(pretrained_path) / "policy_preprocessor.json").read_text())["mean"]

    def preprocess(batch):
        assert all(isinstance(text, str) for text in batch["task"])
        batch = batch | {"observation.state": batch["observation.state"] - mean}
        if config.type == "smolvla":
            words = [text.split()[: config.tokenizer_max_length] for text in batch["task"]]
            tokens = torch.zeros(len(words), config.tokenizer_max_length, dtype=torch.long)
            for row, text in enumerate(words):
                tokens[row, : len(text)] = torch.tensor(
                    [1 + sum(map(ord, word)) % 49 for word in text], dtype=torch.long
                )
            batch |= {"observation.language.tokens": tokens, "observation.language.attention_mask": tokens > 0}
        return batch

    return preprocess, None


def install(monkeypatch):
    """Put the package into `sys.modules`."""
    monkeypatch.setattr(Config, "known", POLICIES)
    contents = {
        "lerobot": {},
        "lerobot.configs": {},
        "lerobot.configs.policies": {"PreTrainedConfig": Config},
        "lerobot.policies": {},
        "lerobot.policies.factory": {
            "get_policy_class": POLICIES.__getitem__,
            "make_pre_post_processors": make_pre_post_processors,
        },
        "lerobot.utils": {},
        "lerobot.utils.import_utils": {"register_third_party_plugins": lambda: None},
    }
    for name in [name for name in sys.modules if name == "lerobot" or name.startswith("lerobot.")]:
        monkeypatch.delitem(sys.modules, name)
    for name, members in contents.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
