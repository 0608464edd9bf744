"""Reading ahead: the next batches are prepared in background threads while the model works on this one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["prefetch"]

Item = TypeVar("Item")
Ready = TypeVar("Ready")


def prefetch(
    items: Iterable[Item], prepare: Callable[[Item], Ready], *, threads: int = 1, ahead: int = 1
) -> Iterator[tuple[Item, Ready]]:
    """Yield (item, prepare(item)) in order; up to `ahead` items are prepared while the caller uses the present one.

    An exception of `prepare` is raised where its item would have come. Threads help because decoding images and
    resizing release the interpreter.

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
