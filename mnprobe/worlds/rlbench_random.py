"""One episode's stream of numpy's global random generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np

from mnprobe.core.errors import ConfigError
from mnprobe.data.low_dim import RandomState

__all__ = ["LegacyStream", "kept_global_state", "same_state"]


@contextmanager
def kept_global_state() -> Iterator[None]:
    """Leave numpy's global legacy generator after the `with` block as it was before, whatever happens inside."""
    before = np.random.get_state(legacy=False)  # noqa: NPY002 - RLBench draws from the legacy global generator
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002 - restore the caller's state


class LegacyStream:
    """The state of numpy's global legacy generator as one episode sees it.

    RLBench draws from that global generator, so an episode can only be reproduced by setting it (specs/rlbench.md vi).
    Here it is set while RLBench runs and put back afterwards, whatever happens: mnprobe's and the caller's draws do
    not change the episode, and the episode does not change theirs. The stream goes on from one `running` to the next.

    Attributes:
        state: the five parts of `numpy.random.get_state()` with which the next `running` starts.
    """

    def __init__(self, state: RandomState) -> None:
        self.state: RandomState = state

    @classmethod
    def from_seed(cls, seed: int) -> "LegacyStream":
        """The stream that `numpy.random.seed(seed)` starts.

        >>> LegacyStream.from_seed(3).state[0]
        'MT19937'
        """
        return cls(_five(np.random.RandomState(seed)))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Use this stream as the global generator inside the `with` block, and restore the old state afterwards."""
        _present()  # refuse another kind of generator before touching it
        with kept_global_state():
            np.random.set_state(self.state)  # noqa: NPY002 - the only way to reproduce RLBench's scenes
            try:
                yield
            finally:
                self.note()

    def note(self) -> RandomState:
        """Take over the present global state as this stream's, and return it; only inside `running`."""
        self.state = _present()
        return self.state


def same_state(first: RandomState, second: RandomState) -> bool:
    """Whether two states give the same draws.

    >>> same_state(LegacyStream.from_seed(1).state, LegacyStream.from_seed(1).state)
    True
    """
    same = first[0] == second[0] and np.array_equal(first[1], second[1]) and first[2:4] == second[2:4]
    return same and (not first[3] or first[4] == second[4])


def _present() -> RandomState:
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - the stream lives in the legacy global generator
    if isinstance(state, dict) and state["bit_generator"] != "MT19937":
        raise ConfigError(
            f"numpy's global generator is {state['bit_generator']}, RLBench's scenes need MT19937; "
            "do not call numpy.random.set_bit_generator in this process"
        )
    return _checked(np.random.get_state(legacy=True))  # noqa: NPY002 - as above


def _five(generator: np.random.RandomState) -> RandomState:
    return _checked(generator.get_state(legacy=True))


def _checked(state: object) -> RandomState:
    kind, words, position, has_gauss, gauss = cast(tuple[object, ...], state)  # MT19937's are tuples, by numpy's word
    return str(kind), np.array(words, dtype=np.uint32), int(str(position)), int(str(has_gauss)), float(str(gauss))
