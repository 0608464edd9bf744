"""Zero-shot recognition: choice of the instruction that a clip shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.models.clip.tokenizer import Tokenizer, clean_caption
from mnprobe.models.viclip.model import ViCLIP

__all__ = ["SCALE", "Recognition", "recognise", "zero_shot"]

SCALE = 100.0  # of the cosines in zero-shot use; constant, not 1 / temp


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """Scores of B clips over M classes, best ones first in `labels`."""

    logits: Tensor
    """(B, M): 100 times the (mean) cosine."""
    probabilities: Tensor
    """(B, M): softmax of the logits over the classes."""
    labels: Tensor
    """(B, top): class numbers, best first."""
    top_probabilities: Tensor
    """(B, top): their probabilities."""

    @classmethod
    def of(cls, logits: Float[Tensor, "b m"], *, top: int) -> "Recognition":
        """Rank the classes. Raises: ConfigError if `top` is not between 1 and the number of classes."""
        if not 1 <= top <= logits.shape[1]:
            raise ConfigError(
                f"top must lie between 1 and the number of candidate texts ({logits.shape[1]}), got {top!r}"
            )
        probabilities = logits.softmax(dim=1)
        best = probabilities.topk(top, dim=1)
        return cls(logits=logits, probabilities=probabilities, labels=best.indices, top_probabilities=best.values)


def zero_shot(
    video: Float[Tensor, "b e"],
    text: Float[Tensor, "p e"],
    *,
    classes: Int[Tensor, " p"] | None = None,
    scale: float = SCALE,
) -> Float[Tensor, "b m"]:
    """Logits of each clip over the candidate texts: `scale` times the cosine.

    Args:
        video: video features at any scale.
        text: text features at any scale.
        classes: class number of each text where several texts describe one class, every class from 0 with at least one
            text; the score of a class is the mean of its cosines (not the cosine with a mean feature).
        scale: 100 in the released code.
    Raises: ConfigError if there is no text, or a class without one.
    """
    if not len(text):
        raise ConfigError("zero-shot recognition needs at least one candidate text, got none")
    cosine = F.normalize(video, dim=-1) @ F.normalize(text, dim=-1).T
    if classes is None:
        return scale * cosine
    member = F.one_hot(_checked(classes, len(text)).long()).to(cosine)
    return scale * (cosine @ member) / member.sum(dim=0)


@torch.no_grad()
def recognise(
    model: ViCLIP,
    clips: Float[Tensor, "b t 3 h w"],
    instructions: Sequence[str] | Sequence[Sequence[str]],
    *,
    top: int = 1,
    clean: bool = False,
) -> Recognition:
    """Score each clip against the candidate instructions.

    Args:
        model: its mode (eval or train) is not changed.
        clips: as `preprocess` gives them, on the model's device.
        instructions: one text per class, or several phrasings per class.
        top: how many best classes to rank; 5 in the released code.
        clean: pass the texts through `clean_caption` first, as the training loaders do (the released demo does not).
    Raises: ConfigError for no instructions, `top` above their number, clips that do not fit the model.
    """
    groups = [[entry] if isinstance(entry, str) else list(entry) for entry in instructions]
    texts = [clean_caption(text) if clean else text for group in groups for text in group]
    classes = torch.tensor([number for number, group in enumerate(groups) for _ in group], dtype=torch.int64)
    if not groups or not all(groups):
        raise ConfigError(f"each class needs at least one text; got {len(groups)} classes, one of them may be empty")
    device = model.temp.device
    features = model.encode_text(Tokenizer(model.config.text_context).tokenize(texts).to(device))
    logits = zero_shot(model.encode_video(clips), features, classes=classes.to(device))
    return Recognition.of(logits, top=top)


def _checked(classes: Tensor, texts: int) -> Int[Tensor, " p"]:
    present = sorted(set(classes.tolist()))
    if len(classes) != texts or present != list(range(len(present))):
        raise ConfigError(
            f"classes must give a class number to each of the {texts} texts and leave none of 0..max out, got"
            f" {len(classes)} numbers, among them {present[:10]}"
        )
    return classes
