"""Devices, precision, torchrun processes, and prefetching of batches."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from mnprobe.core.arrays import Whole, as_whole
from mnprobe.core.errors import ConfigError, FeatureError

__all__ = ["Team", "autocast", "join_team", "prefetch", "resolve_device", "torch_threads"]


def resolve_device(wish: str, *, local: int = 0) -> str:
    """ "auto" selects CUDA if available and the CPU otherwise; other values are used as given or raise.

    `local` is the local rank: under torchrun "auto" and "cuda" mean the GPU of that rank.
    Raises ConfigError for an unknown device, or CUDA if unavailable.
    """
    count = torch.cuda.device_count()
    if wish == "auto":
        return f"cuda:{local % count}" if count else "cpu"
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise ConfigError(f"unknown device {wish!r}; use auto, cpu, cuda or cuda:<number>") from None
    if device.type == "cuda":
        number = local if device.index is None else device.index
        if number >= count:
            raise ConfigError(
                f"--device {wish}: this machine offers torch {count} CUDA devices; use --device cpu or auto"
            )
        return f"cuda:{number}"
    if device.type != "cpu":
        raise ConfigError(f"--device {wish}: extraction runs on cpu or cuda")
    return "cpu"


@contextmanager
def torch_threads(threads: Whole) -> Iterator[None]:
    """Use this number of torch threads inside the block, so that sums do not depend on the machine's cores."""
    number = as_whole(threads, "threads", least=1)
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """bfloat16 mixed precision for "bf16", nothing for "float32"."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")


_PATIENCE = timedelta(days=7)  # ranks finish at very different times; torchrun stops all when one fails


@dataclass(frozen=True)
class Team:
    """This process among `size` processes; rank 0 leads. `local` is its local rank."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process decides, merges and prints (rank 0)."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes; FeatureError when one of them has stopped."""
        if self.size > 1:
            import torch.distributed as dist

            with self._peers():
                dist.barrier()

    def agree(self, value: int) -> int:
        """Broadcast the value of rank 0 to all ranks."""
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
        except RuntimeError as error:  # gloo raises these when the other process has stopped
            raise FeatureError(
                f"process {self.rank} of {self.size}: another process of the team has stopped; its message says why. "
                "What was finished is kept: run the same command again to go on"
            ) from error


@contextmanager
def join_team(*, accelerators: bool = False) -> Iterator[Team]:
    """Join the processes of torchrun (RANK, WORLD_SIZE, LOCAL_RANK), or return a team of one process.

    Processes communicate by gloo: mostly barriers and single numbers, on any device. Inside a team the same team is
    returned, so that a job may be part of a larger one.
    With `accelerators` they also exchange GPU tensors by NCCL, and each process uses the GPU of its local rank.
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

    if dist.is_initialized():  # a process group cannot be joined twice: its rendezvous store is used up
        yield Team(rank, size, local)
        return
    dist.init_process_group(_backend(local) if accelerators else "gloo", timeout=_PATIENCE)
    try:
        yield Team(rank, size, local)
    finally:
        dist.destroy_process_group()


def _backend(local: int) -> str:
    """Backend: gloo for CPU tensors, and NCCL for GPU tensors if there are GPUs."""
    import torch
    import torch.distributed as dist

    count = torch.cuda.device_count()
    if not count or not dist.is_nccl_available():
        return "gloo"
    torch.cuda.set_device(local % count)  # NCCL uses the current device
    return "cpu:gloo,cuda:nccl"


Item = TypeVar("Item")
Ready = TypeVar("Ready")


def prefetch(
    items: Iterable[Item], prepare: Callable[[Item], Ready], *, threads: int = 1, ahead: int = 1
) -> Iterator[tuple[Item, Ready]]:
    """Yield (item, prepare(item)) in order; up to `ahead` items are prepared in advance in threads.

    An exception of `prepare` is raised at the position of its item. Threads help because decoding and resizing images
    release the GIL.

    >>> list(prefetch([1, 2, 3], lambda x: x * x, threads=2, ahead=2))
    [(1, 1), (2, 4), (3, 9)]
    """
    source = iter(items)
    waiting: deque[tuple[Item, Future[Ready]]] = deque()
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="mnprobe-read")
    try:
        for item in source:
            waiting.append((item, pool.submit(prepare, item)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
