"""Fits in processes and on other machines, by joblib, Dask and Ray."""

import importlib
import io
import logging
import os
import re
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mnprobe import __version__
from mnprobe.core.errors import ClusterError, ConfigError

__all__ = ["on_cluster", "on_workers", "spread"]

_TRIED = 5.0  # seconds for an address to answer
_AWAITED = 60.0  # seconds for the first worker, which may have to be started
_AHEAD = 4  # calls that wait at the cluster for each worker, so that none is idle
_LEAST_AHEAD = 64  # the same where there are few workers yet: more may come
_AGAIN = 3  # times that Ray does again what a dead worker had; Dask's own number is the same
_FORMS = "--cluster takes dask:tcp://HOST:PORT or ray:ADDRESS (ray:auto)"


@contextmanager
def on_cluster(option: str | None) -> Iterator[None]:
    """Inside the block, `spread` and joblib work on the cluster that an option names; None changes nothing.

    The option is `dask:tcp://HOST:PORT`, the scheduler of a Dask cluster, or `ray:HOST:PORT`, the head of a Ray
    cluster that this machine is part of; `ray:auto` finds it. An enclosing `joblib.parallel_config` of one's own does
    the same.

    Raises:
        ConfigError: an option of another form, or an extra that is not installed.
        ClusterError: an address that cannot be reached, no worker, or workers without this version of mnprobe.

    >>> with on_cluster("slurm:here"):
    ...     pass
    Traceback (most recent call last):
        ...
    mnprobe.core.errors.ConfigError: --cluster takes dask:tcp://HOST:PORT or ray:ADDRESS (ray:auto), got 'slurm:here'
    """
    if option is None:
        yield
        return
    kind, _, address = option.partition(":")
    if kind == "dask" and re.fullmatch(r"(tcp|tls|ws|wss|ucx)://\S+:\d+", address):
        with _dask(option, address):
            yield
    elif kind == "ray" and re.fullmatch(r"auto|[^\s/:]+:\d+", address):
        with _ray(option, address):
            yield
    else:
        raise ConfigError(f"{_FORMS}, got {option!r}")


@contextmanager
def _dask(option: str, address: str) -> Iterator[None]:
    distributed = _extra("distributed", "dask", option)
    import joblib

    _require_answer(option, address)
    with _unlogged("distributed"):  # of a lost connection it writes tracebacks; errors below have their sentence
        client = _dask_client(distributed, option, address)
        try:
            _check_dask_workers(client, option)
            with joblib.parallel_config("dask", client=client):
                yield
        finally:
            client.close(timeout=_TRIED)


@contextmanager
def _unlogged(library: str) -> Iterator[None]:
    """Without what a library logs, by any of its loggers."""
    names = [name for name in logging.root.manager.loggerDict if name == library or name.startswith(f"{library}.")]
    levels = {log: log.level for log in map(logging.getLogger, names)}
    for log in levels:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)


def _dask_client(distributed: Any, option: str, address: str) -> Any:
    try:
        return distributed.Client(address, timeout=2 * _TRIED, set_as_default=False)
    except OSError as error:  # also what does not answer in time
        raise ClusterError(f"--cluster {option}: no Dask scheduler answers there ({_reason(error)})") from error


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
        raise _without_mnprobe(option, error) from error
    for worker, version in versions.items():
        _check_version(option, worker, version)


def _without_mnprobe(option: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"--cluster {option}: the workers cannot import mnprobe ({error}). Install mnprobe {__version__} where they run"
    )


def _check_version(option: str, worker: str, version: str) -> None:
    if version != __version__:
        raise ClusterError(
            f"--cluster {option}: worker {worker} has mnprobe {version}, this command {__version__}. Numbers are only "
            "the same with the same version: install it where the workers run"
        )


def _version() -> str:
    """The version of mnprobe on a worker."""
    return __version__


@contextmanager
def _ray(option: str, address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of a lost cluster its threads tell many times
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a thread that outlives the connection starts a cluster here
    ray = _extra("ray", "ray", option)
    import joblib
    from ray.util.joblib import register_ray

    if address != "auto":
        _require_answer(option, address)
    end = signal.getsignal(signal.SIGTERM)  # Ray sets its own
    try:
        with _hushed():
            ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"--cluster {option}: no Ray cluster answers there ({_reason(error)}). This machine must be part of it, "
            f"with the same versions of Python and Ray (here {ray.__version__}). Where it asks for a token, set "
            "RAY_AUTH_MODE=token and the token as for `ray start`"
        ) from error
    with redirect_stdout(io.StringIO()):  # where Ray tells of every worker that it stops or starts again
        try:
            _check_ray_workers(ray, option)
            register_ray()
            with joblib.parallel_config("ray", n_jobs=-1), ExitStack() as stack:
                joblib.parallel.get_active_backend()[0].pools = _RayPools(stack, {})
                yield
        finally:
            _await_threads("ray.util.multiprocessing.pool")  # they would fail, and say so, after the connection ends
            ray.shutdown()
            signal.signal(signal.SIGTERM, end)


def _await_threads(module: str) -> None:
    """Wait for the threads of a module, each of which waits for one result; for at most half a minute."""
    end = time.monotonic() + 30
    for thread in threading.enumerate():
        if type(thread).__module__ == module:
            thread.join(max(0.0, end - time.monotonic()))


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what compiled code writes to standard error: Ray, that it has taken a level of its log."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_ray_workers(ray: Any, option: str) -> None:
    """Ask one worker of each machine for its version."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    asked = {
        ray.remote(_version)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(): name
        for node, name in names.items()
    }
    try:
        for answer, name in asked.items():
            _check_version(option, name, ray.get(answer, timeout=_AWAITED))
    except ray.exceptions.RayError as error:
        raise _without_mnprobe(option, error) from error


def _extra(module: str, extra: str, option: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--cluster {option} needs the extra {extra!r} ({error}): pip install 'mnprobe[{extra}]'"
        ) from error


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


def on_workers() -> bool:
    """Whether joblib is set to work on a Dask or Ray cluster, by `on_cluster` or by a `parallel_config` of the user."""
    return _cluster() is not None


def _cluster() -> tuple[str, Any] | None:
    """'dask' or 'ray' and joblib's back end, where it is set to work on such a cluster."""
    if "joblib" not in sys.modules:  # then nobody has set it
        return None
    from joblib.parallel import get_active_backend

    backend = get_active_backend()[0]
    kind = {"DaskDistributedBackend": "dask", "RayBackend": "ray"}.get(type(backend).__name__)
    return None if kind is None else (kind, backend)


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

    By default that is this process for one job, and processes of this machine (loky) for more. On a cluster its own
    number of workers counts, and each of `shared` is sent there once, not with the calls.

    Args:
        function: what to do; importable by workers.
        calls: arguments by place.
        n_jobs: processes; 1 leaves it to an enclosing `joblib.parallel_config`, -1 is one per core.
        shared: objects that are arguments of several calls.
        unordered: give results as they come, where the back end can.
        batch: number of calls that are sent together.

    Raises ClusterError when the cluster goes away, or a call ends worker after worker.
    """
    found = _cluster()
    if found is None:
        yield from _here(function, calls, n_jobs, unordered, batch)
    elif found[0] == "dask":
        yield from _by_dask(found[1], function, calls, shared, unordered, batch)
    else:
        yield from _by_ray(found[1], function, calls, shared, unordered, batch)


def _here(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], n_jobs: int, unordered: bool, batch: int | str
) -> Iterator[Any]:
    workers = None if n_jobs == 1 else n_jobs
    alone = n_jobs == 1 and "joblib" not in sys.modules
    if not alone and len(calls) > 1:
        from joblib import Parallel, delayed, effective_n_jobs  # only when processes are wanted, or somebody set them

        if effective_n_jobs(workers) > 1:
            try:
                parallel = Parallel(n_jobs=workers, batch_size=batch, return_as=_order(unordered))
            except ValueError:  # a back end that gives all at once, at the end
                parallel = Parallel(n_jobs=workers, batch_size=batch)
            yield from parallel(delayed(function)(*call) for call in calls)
            return
    for call in calls:
        yield function(*call)


def _order(unordered: bool) -> str:
    return "generator_unordered" if unordered else "generator"


def _by_dask(
    backend: Any,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    shared: Sequence[Any],
    unordered: bool,
    batch: int | str,
) -> Iterator[Any]:
    from distributed import KilledWorker
    from distributed.comm import CommClosedError
    from joblib import Parallel, delayed

    own = type(backend)(client=backend.client, **backend.submit_kwargs)
    try:
        workers = own.effective_n_jobs(-1)
        own.effective_n_jobs = lambda n_jobs: max(2, workers)  # joblib would itself do the work of a single worker
        ahead = max(_AHEAD * workers, _LEAST_AHEAD)
        values = list({id(value): value for value in shared}.values())
        sent = backend.client.scatter(values, broadcast=True, hash=False) if values else []
        given = _replaced(calls, values, sent)
        parallel = Parallel(backend=own, batch_size=batch, pre_dispatch=ahead, return_as=_order(unordered))
        yield from parallel(delayed(_called)(function, *call) for call in given)
    except (CancelledError, KilledWorker, CommClosedError, TimeoutError, ConnectionError) as error:
        left = isinstance(error, CancelledError) and backend.client.status == "running"
        raise _lost("Dask", "no worker has the features any more" if left else _reason(error)) from error


def _replaced(
    calls: Iterable[tuple[Any, ...]], values: Sequence[Any], references: Sequence[Any]
) -> list[tuple[Any, ...]]:
    known = {id(value): reference for value, reference in zip(values, references, strict=True)}
    return [tuple(known.get(id(value), value) for value in call) for call in calls]


def _called(function: Callable[..., Any], *call: Any) -> Any:
    """On a worker: the call, with what `spread` shares in its place; what it spreads in turn stays here."""
    import joblib

    with joblib.parallel_config("sequential"):
        return function(*(_fetched(value.reference) if isinstance(value, _InRay) else value for value in call))


def _by_ray(
    backend: Any,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    shared: Sequence[Any],
    unordered: bool,
    batch: int | str,
) -> Iterator[Any]:
    import ray
    from joblib import delayed

    workers = backend.effective_n_jobs(-1)
    if workers < 2:  # joblib would do this, with references in place of values
        yield from (function(*call) for call in calls)
        return
    try:
        values = list({id(value): value for value in shared}.values())
        given = _replaced(calls, values, [_InRay(ray.put(value)) for value in values])
        with ExitStack() as stack:
            pools = getattr(backend, "pools", None) or _RayPools(stack, {})
            parallel = _ray_pool(pools, backend, workers, unordered, batch)
            yield from parallel(delayed(_called)(function, *call) for call in given)
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise _lost("Ray", _reason(error)) from error


class _RayPools(NamedTuple):
    """Processes on Ray that work for this command, which take seconds to start; they end with `stack`."""

    stack: ExitStack
    opened: dict[tuple[bool, int | str], Any]


def _ray_pool(pools: _RayPools, backend: Any, workers: int, unordered: bool, batch: int | str) -> Any:
    from joblib import Parallel

    key = (unordered, batch)
    if key in pools.opened:
        return pools.opened[key]

    def ended(ensure_ready: bool = True) -> None:
        """Of joblib, after a call that failed; its own would start processes again, on a cluster that may be lost."""
        pools.opened.pop(key, None)
        own.terminate()

    again = {"num_cpus": 0.5, "max_restarts": -1, "max_task_retries": _AGAIN}
    own = type(backend)(ray_remote_args=again | (backend.ray_remote_args or {}))
    own.supports_return_generator = True  # joblib denies it to the pools of processes that Ray's is derived from
    own.abort_everything = ended
    parallel = Parallel(n_jobs=workers, backend=own, batch_size=batch, return_as=_order(unordered))
    pools.opened[key] = pools.stack.enter_context(parallel)
    return parallel


@dataclass(frozen=True)
class _InRay:
    """A value in the object store of Ray, which a machine copies once."""

    reference: Any


@lru_cache(maxsize=4)
def _fetched(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def _lost(name: str, reason: str) -> ClusterError:
    return ClusterError(
        f"the {name} cluster is lost ({reason}). What was finished is kept: run the same command again to go on"
    )


def _reason(error: BaseException) -> str:
    """The first line of what a library says, without names of tasks; or the kind of error, where it says nothing."""
    line = next(iter(str(error).strip().splitlines()), "").rpartition("cancelled for reason: ")[2].rstrip(".")
    return textwrap.shorten(line, 120, placeholder=" ...") or type(error).__name__
