"""ViCLIP's video encoder: all patches of all frames attend to each other."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from mnprobe.core.errors import ConfigError
from mnprobe.models.clip.blocks import Transformer
from mnprobe.models.viclip.config import ViCLIPConfig
from mnprobe.models.viclip.masking import keep_tokens

__all__ = ["VideoEncoder"]


class VideoEncoder(nn.Module):
    """Video transformer in the names of the published state dict.

    Patches of each frame, plus a spatial and a temporal position; one class token per clip, which gets row 0 of the
    spatial positions and no temporal one; token 1 + p * T + t is patch p (row-major) of frame t; full space-time
    attention; `ln_post` of the class token times `proj` is u. With `config.tubelet` k > 1 (no published model), a token
    spans a patch of k successive frames, and T and t count groups of k frames.

    Source: the released ViCLIP as measured (arXiv 2307.06942, section 4).
    """

    def __init__(self, config: ViCLIPConfig) -> None:
        super().__init__()
        self.config = config
        width, block = config.width, (config.tubelet, config.patch_size, config.patch_size)
        self.conv1 = nn.Conv3d(3, width, kernel_size=block, stride=block, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + config.grid**2, width))
        self.temporal_positional_embedding = nn.Parameter(torch.empty(1, config.instants, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.layers, config.heads, stochastic_depth=config.stochastic_depth)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))

    def forward(
        self,
        clip: Float[Tensor, "b t 3 h w"],
        *,
        kept: Int64[Tensor, "b k"] | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "b e"]:
        """u of each clip, not L2-normalised; arguments and errors as `ViCLIP.encode_video`."""
        x = self.ln_pre(self.tokens(clip, kept=kept))
        return self.project(self.class_vector(self.transformer(x, generator=generator)))

    def states(
        self, clip: Tensor, *, kept: Tensor | None = None, generator: Generator | None = None
    ) -> Iterator[Float[Tensor, "b n d"]]:
        """Yield all tokens after each block in turn; later blocks are computed only on demand."""
        yield from self.transformer.states(self.ln_pre(self.tokens(clip, kept=kept)), generator=generator)

    def class_vector(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """The class token after the final layer norm, before the projection."""
        out: Tensor = self.ln_post(x[:, 0])
        return out

    def project(self, vector: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Class vector -> u."""
        return vector @ self.proj

    def patches(self, clip: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b d i gh gw"]:
        """The patch convolution alone, i being the temporal positions: frames over `config.tubelet`.

        Its kernel steps by its own length, so that it runs as a 2-D convolution on groups of frames. A single frame is
        repeated to fill a group.
        """
        span = self.config.tubelet
        if clip.shape[1] == 1:
            clip = clip.expand(-1, span, -1, -1, -1)
        groups = clip.reshape(-1, span * clip.shape[2], *clip.shape[3:])  # channels of a group: frame, then colour
        weight = self.conv1.weight
        weight = weight.squeeze(2) if span == 1 else weight.transpose(1, 2).flatten(1, 2)
        flat = F.conv2d(groups.to(weight.dtype), weight, stride=self.config.patch_size)
        return flat.view(len(clip), -1, *flat.shape[1:]).transpose(1, 2)

    def tokens(self, clip: Float[Tensor, "b t 3 h w"], *, kept: Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Class token and patch tokens with their positions, before the first layer norm."""
        self._check(clip)
        x = self.patches(clip).flatten(3).permute(0, 3, 2, 1)  # (B, patches, T, D)
        x = x + self.positional_embedding[1:, None] + self._temporal(single=clip.shape[1] == 1)
        first = (self.class_embedding + self.positional_embedding[0]).to(x.dtype)
        x = torch.cat([first.expand(len(x), 1, -1), x.flatten(1, 2)], dim=1)
        return x if kept is None else keep_tokens(x, kept)

    def init_weights(self, generator: Generator) -> None:
        """Initialise weights: CLIP's rules for image encoders, also for each frame of a tubelet (frames are alike, and
        patches that weigh more than their positions learn faster); temporal positions like the spatial ones.

        (The official training starts from image CLIP with temporal positions of zero; from scratch, frames would
        then be indistinguishable.)
        """
        width, patch = self.config.width, self.config.patch_size
        nn.init.normal_(self.conv1.weight, std=(3 * patch * patch) ** -0.5, generator=generator)
        for parameter in (
            self.class_embedding,
            self.positional_embedding,
            self.temporal_positional_embedding,
            self.proj,
        ):
            nn.init.normal_(parameter, std=width**-0.5, generator=generator)
        self.transformer.init_weights(generator)
        self.ln_pre.reset_parameters()
        self.ln_post.reset_parameters()

    def _temporal(self, *, single: bool) -> Tensor:
        embedding = self.temporal_positional_embedding[0]
        return embedding.mean(dim=0, keepdim=True) if single else embedding  # one frame: mean temporal position

    def _check(self, clip: Tensor) -> None:
        _, frames, _, height, width = clip.shape
        config = self.config
        if frames not in (1, config.frames):
            raise ConfigError(
                f"this ViCLIP reads {config.frames} frames per clip (or a single one), got {frames}. Sample"
                f" {config.frames} frames, or resize the model: model.resized(frames={frames})."
            )
        if (height, width) != (config.image_size, config.image_size):
            raise ConfigError(
                f"this ViCLIP reads frames of {config.image_size}x{config.image_size}, got {height}x{width}. Use"
                f" preprocess(frames, size={config.image_size}), or model.resized(image_size=...)."
            )
