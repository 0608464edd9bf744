"""Fits in processes and on other machines, by joblib and its Dask back end."""

import importlib
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from mnprobe import __version__
from mnprobe.core.errors import ClusterError, ConfigError

__all__ = ["on_cluster", "on_dask", "spread"]

_TRIED = 5.0  # seconds for an address to answer
_AWAITED = 60.0  # seconds for the first worker, which may have to be started


@contextmanager
def on_cluster(option: str | None) -> Iterator[None]:
    """Inside the block, `spread` and joblib work on the cluster that an option names; None changes nothing.

    The option is `dask:tcp://HOST:PORT`, the scheduler of a Dask cluster. An enclosing `joblib.parallel_config` of
    one's own does the same.

    Raises:
        ConfigError: an option of another form, or an extra that is not installed.
        ClusterError: an address that cannot be reached, no worker, or workers without this version of mnprobe.

    >>> with on_cluster("slurm:here"):
    ...     pass
    Traceback (most recent call last):
        ...
    mnprobe.core.errors.ConfigError: --cluster takes dask:tcp://HOST:PORT, got 'slurm:here'
    """
    if option is None:
        yield
        return
    kind, _, address = option.partition(":")
    if kind == "dask" and re.fullmatch(r"(tcp|tls|ws|wss|ucx)://\S+:\d+", address):
        with _dask(option, address):
            yield
    else:
        raise ConfigError(f"--cluster takes dask:tcp://HOST:PORT, got {option!r}")


@contextmanager
def _dask(option: str, address: str) -> Iterator[None]:
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise ConfigError(
            f"--cluster {option} needs the extra 'dask' ({error}): pip install 'mnprobe[dask]'"
        ) from error
    import joblib

    _require_answer(option, address)
    try:
        client = distributed.Client(address, timeout=2 * _TRIED, set_as_default=False)
    except OSError as error:  # also what does not answer in time
        raise ClusterError(f"--cluster {option}: no Dask scheduler answers there ({error})") from error
    try:
        _check_dask_workers(client, option)
        with joblib.parallel_config("dask", client=client):
            yield
    finally:
        client.close(timeout=_TRIED)


def _check_dask_workers(client: Any, option: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_AWAITED)
        versions = client.run(_version)
    except (TimeoutError, OSError) as error:
        raise ClusterError(
            f"--cluster {option}: the scheduler has no worker after {_AWAITED:.0f} s. Start some: "
            f"`dask worker {option.removeprefix('dask:')} --nthreads 1`"
        ) from error
    except ImportError as error:
        raise ClusterError(
            f"--cluster {option}: the workers cannot import mnprobe ({error}). Install mnprobe {__version__} where "
            "they run"
        ) from error
    for worker, version in versions.items():
        if version != __version__:
            raise ClusterError(
                f"--cluster {option}: worker {worker} has mnprobe {version}, this command {__version__}. Numbers are "
                "only the same with the same version: install it where the workers run"
            )


def _version() -> str:
    """The version of mnprobe on a worker."""
    return __version__


def _require_answer(option: str, address: str) -> None:
    """Raise ClusterError for an address where nothing listens, before libraries try it for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TRIED).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"--cluster {option}: {host}:{port} cannot be reached ({error}). Check that the cluster runs and that this "
            "machine sees it"
        ) from error


def on_dask() -> bool:
    """Whether joblib is set to work on a Dask cluster."""
    if "joblib" not in sys.modules:  # then nobody has set it
        return False
    from joblib.parallel import get_active_backend

    return type(get_active_backend()[0]).__name__ == "DaskDistributedBackend"


def spread(
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    *,
    n_jobs: int = 1,
    shared: Sequence[Any] = (),
    unordered: bool = False,
    batch: int | str = "auto",
) -> Iterator[Any]:
    """Results of `function(*call)` for each of `calls`, in their order, wherever `joblib.parallel_config` says.

    By default that is this process for one job, and processes of this machine (loky) for more. On a Dask cluster
    its own number of workers counts, and each of `shared` is sent to every worker once, not with the calls.

    Args:
        function: what to do; importable by workers.
        calls: arguments by place.
        n_jobs: processes; 1 leaves it to an enclosing `joblib.parallel_config`, -1 is one per core.
        shared: objects that are arguments of several calls.
        unordered: give results as they come, where the back end can.
        batch: number of calls that are sent together.

    Raises ClusterError when the cluster goes away, or a call ends worker after worker.
    """
    if not on_dask():
        yield from _here(function, calls, n_jobs, unordered, batch)
        return
    import joblib
    from distributed import KilledWorker
    from distributed.comm import CommClosedError
    from joblib.parallel import get_active_backend

    own = list({id(value): value for value in shared}.values())
    try:
        with joblib.parallel_config("dask", client=get_active_backend()[0].client, scatter=own):
            yield from _joblib(None, unordered, batch, function, calls)
    except (CancelledError, KilledWorker, CommClosedError, TimeoutError, ConnectionError) as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ClusterError(
            f"the Dask cluster is lost ({reason}). What was finished is kept: run the same command again to go on"
        ) from error


def _here(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], n_jobs: int, unordered: bool, batch: int | str
) -> Iterator[Any]:
    workers = None if n_jobs == 1 else n_jobs
    alone = n_jobs == 1 and "joblib" not in sys.modules
    if not alone and len(calls) > 1:
        from joblib import effective_n_jobs  # only when processes are wanted, or somebody has set them

        if effective_n_jobs(workers) > 1:
            yield from _joblib(workers, unordered, batch, function, calls)
            return
    for call in calls:
        yield function(*call)


def _joblib(
    workers: int | None,
    unordered: bool,
    batch: int | str,
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
) -> Iterator[Any]:
    from joblib import Parallel, delayed

    try:
        kind = "generator_unordered" if unordered else "generator"
        parallel = Parallel(n_jobs=workers, batch_size=batch, return_as=kind)
    except ValueError:  # a back end that gives all at once, at the end
        parallel = Parallel(n_jobs=workers, batch_size=batch)
    yield from parallel(delayed(function)(*call) for call in calls)
