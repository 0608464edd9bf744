"""CLIP's text encoder: token ids to token states or one text feature."""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from mnprobe.core.errors import ConfigError
from mnprobe.models.clip.blocks import Transformer

__all__ = ["TextEncoder"]


class TextEncoder(nn.Module):
    """Causal transformer over token ids, in the names of CLIP's state dict.

    Weights are empty until `init_weights` or a state dict fills them. There is no padding mask: padding follows the end
    token, and the causal mask hides it from all used positions.

    Source: arXiv 2103.00020, section 2.4; specs of the released ViCLIP for the pooling rule.
    """

    def __init__(self, *, context: int, vocabulary: int, width: int, layers: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.context = context
        self.vocabulary = vocabulary
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = Transformer(width, layers, heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))

    def encode_tokens(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        """One state per token, after the final layer norm and before the projection.

        Args:
            ids: exactly `context` ids per text, as `Tokenizer` gives them.
        Raises:
            ConfigError: for another number of ids per text, or an id outside of the vocabulary.
        """
        if ids.shape[1] != self.context:
            raise ConfigError(
                f"this text encoder reads {self.context} ids per text, got {ids.shape[1]}. Use"
                f" Tokenizer(context_length={self.context})."
            )
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.vocabulary):
            raise ConfigError(
                f"token ids must lie in 0..{self.vocabulary - 1} for this text encoder, got {int(ids.min())}.."
                f"{int(ids.max())}. Was it made with another vocabulary?"
            )
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding, causal=True)
        out: Tensor = self.ln_final(x)
        return out

    def forward(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """One feature per text, not L2-normalised: the projected state at the first position of the largest id (the
        end).

        Raises: ConfigError as `encode_tokens`.
        """
        states = self.encode_tokens(ids)
        rows = torch.arange(len(ids), device=ids.device)
        return states[rows, ids.argmax(dim=1)] @ self.text_projection

    def init_weights(self, generator: Generator) -> None:
        """Initialise weights as CLIP does."""
        width = self.transformer.width
        nn.init.normal_(self.token_embedding.weight, std=0.02, generator=generator)
        nn.init.normal_(self.positional_embedding, std=0.01, generator=generator)
        nn.init.normal_(self.text_projection, std=width**-0.5, generator=generator)
        self.transformer.init_weights(generator)
        self.ln_final.reset_parameters()
