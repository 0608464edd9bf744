"""Language tokens of policies: CLIP RN50's text branch or word vectors, frozen."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.files import sha256_file
from mnprobe.core.seeds import check_seed, derived_seed
from mnprobe.models.clip.text import TextEncoder
from mnprobe.models.clip.tokenizer import Tokenizer
from mnprobe.models.loading import load_into, on_meta, read_state_dict

__all__ = [
    "LanguageConfig",
    "LanguageEncoder",
    "PolicyLanguage",
    "WordVectors",
    "load_language_encoder",
    "random_language_encoder",
]

_HEAD = 64  # head size of every published CLIP text encoder
_BESIDE_TEXT = ("visual.", "logit_scale", "input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Sizes of a CLIP text branch; the defaults are those of RN50, which ARP uses."""

    context: int = 77
    width: int = 512
    layers: int = 12
    heads: int = 8
    vocabulary: int = 49408
    embed_dim: int = 1024

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ConfigError(f"LanguageConfig.{name} must be at least 1, got {value!r}")
        if self.width % self.heads:
            raise ConfigError(f"LanguageConfig.width ({self.width}) must be a multiple of heads ({self.heads})")

    @classmethod
    def tiny(cls, *, width: int = 64) -> "LanguageConfig":
        """A small text branch with the full vocabulary, for tests and demonstrations on a laptop."""
        return cls(width=width, layers=2, heads=max(width // 32, 1), embed_dim=64)


class LanguageEncoder(nn.Module):
    """Instructions -> all token states after the final layer norm, before CLIP's projection: what ARP reads.

    Frozen (no gradients) and in float32. Made by `load_language_encoder` or `random_language_encoder`.
    """

    def __init__(self, config: LanguageConfig, *, origin: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.text = _empty(config)
        self._origin = origin
        self._tokenizer = Tokenizer(config.context)

    def forward(self, instructions: Sequence[str]) -> Float[Tensor, "b l w"]:
        """Token states (B, context, width), float32, of B instructions; padding positions included, as ARP expects."""
        return self.encode_ids(self._tokenizer.tokenize(instructions))

    @torch.no_grad()
    def encode_ids(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        """As `__call__`, for given token ids."""
        return self.text.encode_tokens(ids.to(self.text.positional_embedding.device))

    def describe(self) -> dict[str, Any]:
        """Describe the encoder, for provenance: configuration, origin, whether the weights were trained."""
        return {"kind": "clip-text", "config": asdict(self.config), **self._origin}


class WordVectors(nn.Module):
    """Instructions -> a fixed random vector for each content word, the words repeated up to the policy's length.

    For policies that are trained without a text encoder: `random_language_encoder` mixes words, padding and position
    into every token, while here each token is one word of CLIP's tokenizer, whatever surrounds it, and there is neither
    padding nor a start or end token. Articles and "to" are left out where other words remain. Vectors have independent
    N(0, 1) entries that depend on seed and word alone. The policy gives language tokens no position, so that the order
    of the words is lost: see `check_distinct`. The empty instruction is all zeros, which no other text gives.

    Args:
        length: tokens per instruction.
        width: of a token.
        seed: equal seeds give equal vectors.

    >>> tokens = WordVectors(length=5, width=8)(["push the red", ""])
    >>> bool((tokens[0, 0] == tokens[0, 2]).all()), bool((tokens[0, 0] == tokens[0, 1]).all()), int(tokens[1].any())
    (True, False, 0)
    """

    def __init__(self, *, length: int, width: int, seed: int = 0) -> None:
        super().__init__()
        for name, value in (("length", length), ("width", width)):
            if value < 1:
                raise ConfigError(f"WordVectors.{name} must be at least 1, got {value!r}")
        self.length, self.width, self.seed = length, width, check_seed(seed, name="language_seed")
        self._tokenizer = Tokenizer()
        self._function_words = frozenset(self._tokenizer.encode("a an the to"))
        self._known: dict[int, Tensor] = {}

    def forward(self, instructions: Sequence[str]) -> Float[Tensor, "b l w"]:
        """Tokens (B, length, width), float32, on the CPU. Raises: ConfigError for more words than `length`."""
        rows = [torch.zeros(0, self.length, self.width)]
        for text in instructions:
            ids = self._words(text)
            if len(ids) > self.length:
                raise ConfigError(
                    f"{text!r} has {len(ids)} words (pieces of words of CLIP's tokenizer), the policy reads "
                    f"{self.length}. Train it with a larger language_length, or shorten the instruction"
                )
            words = [self._vector(ids[i % len(ids)]) for i in range(self.length)] if ids else [torch.zeros(self.width)]
            rows.append(torch.stack(words).expand(1, self.length, -1))
        return torch.cat(rows)

    def check_distinct(self, instructions: Sequence[str]) -> None:
        """Raise ConfigError for two instructions of the same content words: a policy could not tell them apart."""
        first: dict[tuple[int, ...], str] = {}
        for text in instructions:
            other = first.setdefault(tuple(sorted(self._words(text))), text)
            if other != text:
                raise ConfigError(
                    f"{other!r} and {text!r} have the same words, and a policy that reads word vectors sees no order. "
                    "Give --language-weights, or set untrained_language to 'encoder'"
                )

    def describe(self) -> dict[str, Any]:
        """Describe the vectors, for provenance."""
        return {
            "kind": "word-vectors",
            "config": {"length": self.length, "width": self.width},
            "trained": False,
            "seed": self.seed,
        }

    def _words(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text)
        return [word for word in ids if word not in self._function_words] or ids

    def _vector(self, word: int) -> Float[Tensor, " w"]:
        if word not in self._known:
            generator = Generator().manual_seed(derived_seed(self.seed, "word", word))
            self._known[word] = torch.randn(self.width, generator=generator)
        return self._known[word]


PolicyLanguage = LanguageEncoder | WordVectors
"""What gives a policy its language tokens."""


def load_language_encoder(
    path: str | Path, *, config: LanguageConfig | None = None, device: str | torch.device = "cpu"
) -> LanguageEncoder:
    """Build the language encoder from a CLIP weights file, in CLIP's own names.

    The file may contain all of CLIP (its image branch is ignored) or the text branch alone; half precision
    becomes float32. ARP uses CLIP RN50.

    Args:
        path: safetensors, or a state dict saved by `torch.save`. The published `RN50.pt` is a TorchScript archive; the
            error that it gives says how to save its state dict.
        config: sizes, needed only if the head size is not 64.
        device: target device.
    Raises:
        CheckpointError: if the file is not a CLIP, is damaged, or does not match `config`.
    """
    state = {name: value for name, value in read_state_dict(path).items() if not name.startswith(_BESIDE_TEXT)}
    if config is None:
        config = _config_from(state, Path(path))
    origin = {"trained": True, "file": Path(path).name, "sha256": sha256_file(Path(path))}
    encoder = LanguageEncoder(config, origin=origin)
    load_into(encoder.text, state, path=path, model="clip", dtype=torch.float32, device=device)
    return encoder.requires_grad_(False).eval()


def random_language_encoder(config: LanguageConfig | None = None, seed: int = 0) -> LanguageEncoder:
    """Build a language encoder with random weights: equal seeds give equal weights; `describe()` has `trained: False`.

    Its tokens distinguish instructions but carry no meaning; use it for tests and control runs only.
    """
    config = config or LanguageConfig()
    encoder = LanguageEncoder(config, origin={"trained": False, "seed": seed})
    encoder.text.to_empty(device="cpu")
    encoder.text.init_weights(Generator().manual_seed(check_seed(seed, name="language_seed")))
    return encoder.requires_grad_(False).eval()


def _empty(config: LanguageConfig) -> TextEncoder:
    with on_meta():  # no memory and no random numbers are spent on weights that are replaced
        return TextEncoder(
            context=config.context,
            vocabulary=config.vocabulary,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            embed_dim=config.embed_dim,
        )


def _config_from(state: dict[str, Tensor], path: Path) -> LanguageConfig:
    needed = ("positional_embedding", "token_embedding.weight", "text_projection")
    missing = [name for name in needed if name not in state or state[name].ndim != 2]
    if missing:
        names = ", ".join(list(state)[:5]) or "nothing"
        raise CheckpointError(
            f"{path}: no CLIP text branch: {', '.join(missing)} not found in the form expected; the file holds {names}."
            " Give the state dict of CLIP RN50 in its original names."
        )
    context, width = state["positional_embedding"].shape
    if width % _HEAD:
        raise CheckpointError(
            f"{path}: cannot tell the number of heads of a text branch of width {width}."
            " Pass config=LanguageConfig(...)."
        )
    layers = len({name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")})
    return LanguageConfig(
        context=context,
        width=width,
        layers=max(layers, 1),
        heads=width // _HEAD,
        vocabulary=state["token_embedding.weight"].shape[0],
        embed_dim=state["text_projection"].shape[1],
    )
