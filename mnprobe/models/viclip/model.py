"""ViCLIP as a whole: video encoder, text encoder, temperature."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Int64
from torch import Generator, Tensor, nn

from mnprobe.core.registry import unknown_name
from mnprobe.models.clip.text import TextEncoder
from mnprobe.models.loading import on_meta
from mnprobe.models.viclip.config import ViCLIPConfig
from mnprobe.models.viclip.resizing import resize_spatial, resize_temporal, resize_text
from mnprobe.models.viclip.video import VideoEncoder

__all__ = ["ViCLIP"]


class ViCLIP(nn.Module):
    """Video-text model; its state dict has exactly the published names.

    Initial weights come from a generator (seed 0 by default), never from the global random state. Under
    `torch.device("meta")` no memory is allocated and nothing is sampled. All parameters, including the text encoder,
    require gradients; freeze them as needed.

    >>> model = ViCLIP(ViCLIPConfig.tiny()).eval()
    >>> model.encode_video(torch.zeros(2, 4, 3, 96, 96)).shape
    torch.Size([2, 64])
    """

    def __init__(self, config: ViCLIPConfig, *, generator: Generator | None = None) -> None:
        super().__init__()
        self.config = config
        device = torch.empty(0).device  # of the context; torch before 2.8 tells another default
        with on_meta():  # torch's own initialisation would use the global random state
            self.temp = nn.Parameter(torch.empty(()))
            self.vision_encoder = VideoEncoder(config)
            self.text_encoder = TextEncoder(
                context=config.text_context,
                vocabulary=config.vocabulary,
                width=config.text_width,
                layers=config.text_layers,
                heads=config.text_heads,
                embed_dim=config.embed_dim,
            )
        if device.type != "meta":
            self.to_empty(device=device)
            self.init_weights(generator or Generator(device).manual_seed(0))

    def init_weights(self, generator: Generator) -> None:
        """Initialise all weights for training from scratch (CLIP's rules) and set `temp` to 0.01."""
        self.vision_encoder.init_weights(generator)
        self.text_encoder.init_weights(generator)
        nn.init.constant_(self.temp, 0.01)

    def encode_video(
        self,
        clip: Float[Tensor, "b t 3 h w"] | Float[Tensor, "b 3 h w"],
        *,
        kept: Int64[Tensor, "b k"] | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "b e"]:
        """u, the output feature of the video encoder, not L2-normalised.

        Args:
            clip: RGB frames as `preprocess` gives them. T must be `config.frames`, or 1 (also as (B, 3, H, W)), in
                which case the frame is repeated to fill a tubelet and the mean of the temporal positions is used.
            kept: numbers of the patch tokens to keep, from `draw_mask`; None (the default) keeps all.
            generator: draws the stochastic depth; only needed in training mode with `config.stochastic_depth` > 0.
        Raises:
            ConfigError: for another number of frames, another frame size, or token numbers outside of the clip.
        """
        out: Tensor = self.vision_encoder(_five(clip), kept=kept, generator=generator)
        return out

    def encode_text(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """Text features, not L2-normalised, of ids from `Tokenizer(config.text_context)`.

        Raises: ConfigError for another number of ids per text, or ids outside of the vocabulary.
        """
        out: Tensor = self.text_encoder(ids)
        return out

    @property
    def hidden_names(self) -> tuple[str, ...]:
        """Layers of `video_hidden`: "u", "cls", "blocks.0", ..."""
        return ("u", "cls", *(f"blocks.{i}" for i in range(self.config.layers)))

    def video_hidden(
        self, clip: Float[Tensor, "b t 3 h w"] | Float[Tensor, "b 3 h w"], layers: Sequence[str] = ("u",)
    ) -> dict[str, Float[Tensor, "b _"]]:
        """Class-token states of one forward pass, by name, in the requested order.

        "u" is the output feature (B, E); "cls" the class token after `ln_post`, before `proj` (B, D); "blocks.<i>" the
        class token after block i (B, D). Blocks above the last requested one are not computed.

        Raises: ConfigError for an unknown layer, and as `encode_video`.
        """
        for name in layers:
            if name not in self.hidden_names:
                raise unknown_name("ViCLIP layer", name, list(self.hidden_names))
        depths = [int(name.removeprefix("blocks.")) if name.startswith("blocks.") else -1 for name in layers]
        last = self.config.layers - 1 if -1 in depths else max(depths, default=-1)
        found: dict[str, Tensor] = {}
        if last >= 0:
            for i, state in enumerate(self.vision_encoder.states(_five(clip))):
                found[f"blocks.{i}"] = state[:, 0]
                if i == self.config.layers - 1:
                    found["cls"] = self.vision_encoder.class_vector(state)
                    found["u"] = self.vision_encoder.project(found["cls"])
                if i == last:
                    break
        return {name: found[name] for name in layers}

    @torch.no_grad()
    def clamp_temperature(self, minimum: float = 0.01) -> None:
        """Keep `temp` at `minimum` or above, as the official training does before each step."""
        self.temp.clamp_(min=minimum)

    @torch.no_grad()
    def resized(
        self, *, frames: int | None = None, image_size: int | None = None, text_context: int | None = None
    ) -> "ViCLIP":
        """Copy the model for other input sizes, with position embeddings resized by the rules of the official training.

        Args:
            frames: frames per clip, a multiple of the tubelet.
            image_size: pixels, a multiple of the patch size.
            text_context: ids per text.
        """
        config = replace(
            self.config,
            frames=frames or self.config.frames,
            image_size=image_size or self.config.image_size,
            text_context=text_context or self.config.text_context,
        )
        state = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        video, text = "vision_encoder.", "text_encoder."
        key = video + "temporal_positional_embedding"
        state[key] = resize_temporal(state[key], config.instants)
        if config.grid != self.config.grid:
            key = video + "positional_embedding"
            state[key] = resize_spatial(state[key], config.grid)
        key = text + "positional_embedding"
        state[key] = resize_text(state[key], config.text_context)
        with torch.device("meta"):
            model = ViCLIP(config)
        model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
        return model.train(self.training)


def _five(clip: Tensor) -> Tensor:
    return clip[:, None] if clip.ndim == 4 else clip
