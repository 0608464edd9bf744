"""The policy with a blank instruction: a control for alignment."""

from jaxtyping import Float
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.observation import Observation

__all__ = ["blank_instruction"]


def blank_instruction(observation: Observation, empty: Float[Tensor, "l w"]) -> Observation:
    """Replace the language tokens of an observation by those of the empty instruction.

    Blank means the token features of the empty text "" from the same language encoder as the real instructions: of
    CLIP's text branch those of start token, end token and padding (zeros would be an input that it never produces),
    of word vectors zeros. Two observations that differ only in their instruction become equal.

    Args:
        observation: any batch.
        empty: features of "", e.g. `encoder([""])[0]`.
    Raises:
        ConfigError: `empty` has another size than the observation's language.
    """
    language = observation.language
    if empty.shape != language.shape[1:]:
        raise ConfigError(
            f"features of the empty instruction must be {tuple(language.shape[1:])} like those of the observation, "
            f"got {tuple(empty.shape)}. Make both with one language encoder."
        )
    return observation.with_language(empty.to(language).expand_as(language))
