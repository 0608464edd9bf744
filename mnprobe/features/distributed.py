"""Sharing work between the processes that torchrun starts; without torchrun there is one process and no torch here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from mnprobe.core.errors import ConfigError, FeatureError

__all__ = ["Team", "join_team"]

_PATIENCE = timedelta(days=7)  # ranks finish at very different times; torchrun ends all when one dies


@dataclass(frozen=True)
class Team:
    """This process among `size` processes; rank 0 leads. `local` is the number of the process on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process decides, merges and talks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes; FeatureError when one of them has stopped."""
        if self.size > 1:
            import torch.distributed as dist

            with self._peers():
                dist.barrier()

    def agree(self, value: int) -> int:
        """The value that rank 0 gave, on all ranks."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        shared = torch.tensor([value])
        with self._peers():
            dist.broadcast(shared, src=0)
        return int(shared.item())

    @contextmanager
    def _peers(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo raises when the other end is gone
            raise FeatureError(
                f"process {self.rank} of {self.size}: another process of the team has stopped; its message says why. "
                "What was finished is kept: run the same command again to go on"
            ) from error


@contextmanager
def join_team(*, accelerators: bool = False) -> Iterator[Team]:
    """The team that the environment variables of torchrun describe (RANK, WORLD_SIZE, LOCAL_RANK), or a team of one.

    Processes talk through gloo: mostly they exchange nothing but barriers and single numbers, whatever the device.
    Within a team this gives the same team again, so that a job may be part of a larger one.
    With `accelerators` they also exchange what lies on GPUs, through NCCL, and each takes the GPU of its number.
    Raises ConfigError when the variables contradict each other.
    """
    if "RANK" not in os.environ:
        yield Team()
        return
    try:
        rank, size, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}") from None
    if not 0 <= rank < size:
        raise ConfigError(f"RANK={rank} does not fit WORLD_SIZE={size}; start with torchrun, or unset RANK")
    if size == 1:
        yield Team(rank, size, local)
        return
    import torch.distributed as dist

    if dist.is_initialized():  # a team cannot be left and joined again: its meeting place remembers the first time
        yield Team(rank, size, local)
        return
    dist.init_process_group(_backend(local) if accelerators else "gloo", timeout=_PATIENCE)
    try:
        yield Team(rank, size, local)
    finally:
        dist.destroy_process_group()


def _backend(local: int) -> str:
    """gloo for what lies on CPUs and NCCL for what lies on GPUs, where there are some."""
    import torch
    import torch.distributed as dist

    count = torch.cuda.device_count()
    if not count or not dist.is_nccl_available():
        return "gloo"
    torch.cuda.set_device(local % count)  # NCCL talks through the present device
    return "cpu:gloo,cuda:nccl"
