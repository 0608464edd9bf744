"""Trainer: the update loop, checkpoints, exact resumption and the NaN guard."""

import math
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mnprobe.core.errors import ConfigError, TrainingError
from mnprobe.core.names import BLANK
from mnprobe.core.products import describe_products
from mnprobe.core.progress import progress
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import Team, autocast, join_team, prefetch, resolve_device
from mnprobe.core.seeds import derived_seed
from mnprobe.data import Dataset
from mnprobe.training.checkpointing import (
    CheckpointWriter,
    TrainState,
    load_state,
    remove_state,
    restore,
    save_state,
    training_job,
    training_lock,
    write_record,
)
from mnprobe.training.config import TrainConfig
from mnprobe.training.dataset import TrainingInputs, prepare_inputs
from mnprobe.training.initialization import InitialModels, initial_models
from mnprobe.training.metrics_log import RunningMeans, TrainLog, short_losses
from mnprobe.training.model import StepInputs
from mnprobe.training.optimizers import NamedOptimizer, build_optimizers
from mnprobe.training.sampler import BatchLoader

__all__ = ["TrainResult", "train"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SAVE_EVERY = 500
_LOG_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Result of a finished training.

    Attributes:
        name: name of the training.
        status: "trained", or "kept" if an earlier call had finished it.
        steps: steps of the written checkpoints.
        checkpoints: files of the checkpoints.
        own_updates: number of optimizer steps of each part ("viclip", "arp", "heads").
        metrics: last means of losses (nats) and gradient norms.
        seconds: time spent in updates, including waiting for data.
        waiting: share of that time spent waiting for data.
        folder: folder of the training: configuration, losses, TensorBoard files, heads.
    """

    name: str
    status: Literal["trained", "kept"]
    steps: tuple[int, ...]
    checkpoints: tuple[Path, ...]
    own_updates: dict[str, int]
    metrics: dict[str, float]
    seconds: float
    waiting: float
    folder: Path


def train(
    config: TrainConfig,
    dataset: Dataset,
    run: RunDir,
    *,
    name: str | None = None,
    device: str = "auto",
    start_viclip: Path | None = None,
    start_arp: Path | None = None,
    language_weights: Path | None = None,
    save_every: int = _SAVE_EVERY,
    log_every: int = _LOG_EVERY,
    workers: int = 1,
    cache: Path | None = None,
    team: Team | None = None,
    quiet: bool = True,
    note: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train on all episodes of `dataset` and write checkpoints to the run; a finished training is not repeated.

    An interrupted training resumes from its last saved state when called again; on one CPU thread the final weights are
    bit for bit those of an uninterrupted training. All random numbers are functions of the seed and the update index.
    Under torchrun the processes share each batch, and all of them must call this function.

    Args:
        config: configuration of the training. Initial weights, where given, decide the model sizes.
        dataset: the training episodes, such as the training partition of demonstrations.
        run: run directory; checkpoints go to `checkpoints/viclip-<name>` and `checkpoints/arp-<name>`, the rest to
            `training/<name>`.
        name: name of the training; baseline, joint or alone by default.
        device: "auto", "cpu", "cuda", "cuda:<number>".
        start_viclip: initial weights of the video model; random (from the seed) when None.
        start_arp: initial weights of the policy; random (from the seed) when None.
        language_weights: CLIP RN50 weights for the policy's language tokens; random ones when None.
        save_every: updates between two saved states; every checkpoint saves one as well.
        log_every: updates between two logged rows.
        workers: threads that decode images for the cache.
        cache: cache folder of decoded inputs, which several runs may share; the run's own when None.
        team: processes that share each batch; from torchrun's variables when None.
        quiet: show no progress.
        note: called with messages for the user.

    Raises:
        ConfigError: contradictory settings, or a configuration that differs from that of the existing training of this
            name.
        DataError: unsuitable data: no images of a camera, fewer than two instructions, ...
        CheckpointError: invalid weights or state, or missing checkpoints of a finished training.
        TrainingError: a loss or gradient is NaN or infinite. Checkpoints written before are not removed.
    """
    called = _checked_name(name or config.default_name)
    for option, value in (("save_every", save_every), ("log_every", log_every), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{option} must be at least 1, got {value}")
    joined = join_team(accelerators=True) if team is None else nullcontext(team)
    with joined as processes:
        resolved = resolve_device(device, local=processes.local)
        start = initial_models(config, viclip=start_viclip, arp=start_arp, language_weights=language_weights)
        log = note if note is not None and processes.leads else _silent
        folder = run.path / "training" / called
        requested = {
            "training": start.config.measurement(),
            "start": start.origin,
            "data": {"fingerprint": dataset.fingerprint(), "episodes": len(dataset)},
        }
        writer = CheckpointWriter(
            run=run, name=called, folder=folder, start=start, job=training_job(folder, requested, name=called)
        )
        with training_lock(folder) if processes.leads else nullcontext():
            status = writer.job.check()
            if status == "missing":
                writer.check_no_foreign_checkpoints()
            done = writer.finished() if status == "done" else None
            if done is not None:
                writer.check(start.config.checkpoint_steps())
                return _result(writer, "kept", done)
            _warn(start, log)
            inputs = _prepare(
                start, dataset, cache or run.path / "cache", workers=workers, team=processes, quiet=quiet, note=log
            )
            training = _Trainer(writer, inputs, resolved, processes, log_every=log_every, save_every=save_every)
            processes.barrier()  # all processes have read the folder before anything is written
            if processes.leads:
                if status == "missing":
                    write_record(writer.job)
                run.record(f"train-{called}", _run_record(start, dataset, requested, processes, resolved))
            return training.run(quiet=quiet, note=log)


class _Trainer:
    """The trainer: models on their device, optimizers and state."""

    def __init__(
        self,
        writer: CheckpointWriter,
        inputs: TrainingInputs,
        device: str,
        team: Team,
        *,
        log_every: int,
        save_every: int,
    ) -> None:
        start = writer.start
        self.writer, self.team, self.device = writer, team, device
        self.config = start.config
        self.log_every, self.save_every = log_every, save_every
        self.model = start.model.to(device)
        self.optimizers = {entry.name: entry for entry in build_optimizers(self.model, self.config)}
        viclip, arp, language = self.model.viclip, self.model.arp, start.language
        self.loader = BatchLoader(
            inputs,
            self.config,
            viclip=None if viclip is None else viclip.config,
            arp=None if arp is None else arp.config,
            language=None if language is None else language.to(device),
            device=device,
            team=team,
        )
        self.joint: nn.Module = self.model
        if team.size > 1:
            where = [torch.device(device)] if device != "cpu" else None
            self.joint = DistributedDataParallel(
                self.model, device_ids=where, find_unused_parameters=True, broadcast_buffers=False
            )
        self.window, self.latest = RunningMeans(), dict[str, float]()
        self.own = dict.fromkeys(self.optimizers, 0)
        self.seconds = {"total": 0.0, "waiting": 0.0}

    def run(self, *, quiet: bool, note: Callable[[str], None]) -> TrainResult:
        """Run the remaining updates, from the last saved state or from the start."""
        config, writer, team = self.config, self.writer, self.team
        done = self._resume()
        steps = config.checkpoint_steps()
        if done is None:
            done = 0
            if team.leads:
                writer.write(0, self.own, {})
                self._save(0)
        else:
            writer.check([step for step in steps if step <= done])
            note(f"training {writer.name!r}: going on after update {done} of {config.updates}")
        log = TrainLog(writer.folder, done=done) if team.leads else None
        try:
            quiet = quiet or not team.leads
            with (
                progress(f"training {writer.name}", config.updates, done=done, quiet=quiet) as advance,
                closing(self._batches(done)) as batches,
            ):
                for update in range(done, config.updates):
                    clock = time.perf_counter()
                    if self._works(update):
                        self._update(update, next(batches), clock)
                    self.seconds["total"] += time.perf_counter() - clock
                    self._after(update + 1, steps, log)
                    advance(note=short_losses(self.latest))
        finally:
            if log is not None:
                log.close()
        return self._finish()

    def _works(self, update: int) -> bool:
        """Whether this update trains anything: a video model alone skips the updates without understanding."""
        return self.config.trains_arp or self.config.understands(update)

    def _batches(self, done: int) -> Generator[StepInputs]:
        """Yield the inputs of the updates that train something; the next ones are prepared in advance."""
        working = (update for update in range(done, self.config.updates) if self._works(update))
        for _, inputs in prefetch(working, self.loader):
            yield inputs

    def _update(self, update: int, inputs: StepInputs, clock: float) -> None:
        config = self.config
        self.seconds["waiting"] += time.perf_counter() - clock
        parts = self._parts(update)
        rates = {name: self.optimizers[name].set_rate(update, config.updates) for name in parts}
        with _dropout(derived_seed(config.seed, update, "dropout", self.team.rank), self.device):
            with autocast(self.device, config.precision):
                out = self.joint(inputs)
            out.total.backward()
        names = list(out.losses)
        weights = {name: _weights(self.optimizers[name]) for name in parts}
        norms = [nn.utils.get_total_norm([w.grad for w in held if w.grad is not None]) for held in weights.values()]
        means = torch.stack([*(value.detach().float() for value in out.losses.values()), *norms]).tolist()
        values = dict(zip([*names, *(f"norm/{name}" for name in parts)], means, strict=True))
        self._check_finite(update, values)
        for (name, held), norm in zip(weights.items(), norms, strict=True):
            if config.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(held, config.clip_norm, norm)
            self.optimizers[name].optimizer.step()
            self.own[name] += 1
        self.model.zero_grad(set_to_none=True)
        self.window.add(values | {f"rate/{name}": rate for name, rate in rates.items()})

    def _parts(self, update: int) -> list[str]:
        """Parts that this update trains."""
        if self.config.understands(update):
            return list(self.optimizers)
        return [name for name in self.optimizers if name == "arp"]

    def _check_finite(self, update: int, values: Mapping[str, float]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if not broken:
            return
        losses = {name: value for name, value in values.items() if "/" not in name}
        text = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        worst = next((name for name in broken if not name.startswith("norm/")), None)
        if worst is not None:
            what = f"loss {worst!r} is {values[worst]}"
        else:
            part = broken[0].removeprefix("norm/")
            what = f"the gradient of {part} is {values[broken[0]]} ({_first_broken(getattr(self.model, part))})"
        written = [step for step in self.config.checkpoint_steps() if step <= update]
        raise TrainingError(
            f"training {self.writer.name!r} broke at update {update} of {self.config.updates}: {what} (losses: {text})."
            f" The update was not made; the last good checkpoint is {self.writer.files(written[-1])[0]}. Lower the "
            "learning rate, clip gradients (--clip-norm) or compute in float32, under another --name"
        )

    def _after(self, done: int, steps: tuple[int, ...], log: TrainLog | None) -> None:
        """Write what is due after `done` updates: log row, checkpoint, state."""
        is_checkpoint = done in steps
        if done % self.log_every == 0 or is_checkpoint:
            means = self.window.means()
            self.window.clear()
            self.latest |= means
            if log is not None and means:
                log.write(done, means)
        if not self.team.leads:
            return
        if is_checkpoint:
            self.writer.write(done, self.own, self.latest)
        if is_checkpoint or done % self.save_every == 0:
            self._save(done)

    def _save(self, done: int) -> None:
        state = TrainState(
            update=done,
            model=self.model.state_dict(),
            optimizers={name: entry.optimizer.state_dict() for name, entry in self.optimizers.items()},
            own_updates=self.own,
            window=self.window.sums,
            latest=self.latest,
            seconds=self.seconds,
        )
        save_state(self.writer.job, state)

    def _resume(self) -> int | None:
        """Restore the saved state; return its number of finished updates, None without a state."""
        state = load_state(self.writer.job, device=self.device)
        self.team.barrier()  # no process writes before all have read
        if state is None:
            return None
        optimizers = {name: entry.optimizer for name, entry in self.optimizers.items()}
        restore(state, self.model, optimizers, folder=self.writer.folder)
        self.own, self.seconds, self.latest = dict(state.own_updates), dict(state.seconds), dict(state.latest)
        self.window = RunningMeans(state.window)
        return state.update

    def _finish(self) -> TrainResult:
        total = self.seconds["total"]
        result = {
            "updates": self.config.updates,
            "own_updates": self.own,
            "metrics": self.latest,
            "seconds": total,
            "waiting": self.seconds["waiting"] / total if total else 0.0,
        }
        if self.team.leads:
            self.writer.finish(result)
            remove_state(self.writer.folder)
        self.team.barrier()
        return _result(self.writer, "trained", result)


def _result(writer: CheckpointWriter, status: Literal["trained", "kept"], result: Mapping[str, Any]) -> TrainResult:
    steps = writer.start.config.checkpoint_steps()
    return TrainResult(
        name=writer.name,
        status=status,
        steps=steps,
        checkpoints=tuple(path for step in steps for path in writer.files(step)),
        own_updates=dict(result["own_updates"]),
        metrics=dict(result["metrics"]),
        seconds=float(result["seconds"]),
        waiting=float(result["waiting"]),
        folder=writer.folder,
    )


def _prepare(
    start: InitialModels,
    dataset: Dataset,
    cache: Path,
    *,
    workers: int,
    team: Team,
    quiet: bool,
    note: Callable[[str], None],
) -> TrainingInputs:
    config, model = start.config, start.model
    return prepare_inputs(
        dataset,
        viclip=None if model.viclip is None else model.viclip.config,
        arp=None if model.arp is None else model.arp.config,
        cache=cache,
        camera=config.camera,
        frames_rule=config.frames_rule,
        kept_views=config.kept_views,
        workers=workers,
        quiet=quiet or not team.leads,
        note=note,
    )


def _run_record(
    start: InitialModels, dataset: Dataset, requested: Mapping[str, Any], team: Team, device: str
) -> dict[str, Any]:
    """Drop None values for run.toml, because TOML has no null."""
    return {
        "data": [str(path) for path in dataset.paths],
        "fingerprint": requested["data"]["fingerprint"],
        "episodes": len(dataset),
        "start": start.origin,
        "device": device,
        "products": describe_products(device.split(":")[0]),
        "processes": team.size,
        "config": _without_none(requested["training"]),
    }


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }


def _warn(start: InitialModels, note: Callable[[str], None]) -> None:
    arp, policy = start.model.arp, start.config.policy
    if arp is not None and arp.zero_gates() and (policy.kind, policy.rule) == ("lamb", "capped"):
        note(
            "the policy starts with modulation layers of zero, which LAMB by the rule 'capped' never moves: its "
            "conditioned blocks will stay blind. From scratch take --set policy.rule=uncorrected, or AdamW"
        )
    if start.language is not None and not start.language.describe()["trained"]:
        note("the policy's language tokens come from random weights: they tell instructions apart, and mean nothing")


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name.endswith(BLANK):
        raise ConfigError(
            f"--name {name!r}: a training is named by letters, digits, '.', '_' and '-', beginning with a letter or "
            "digit, and does not end in '-blank', which marks features without an instruction"
        )
    return name


@contextmanager
def _dropout(seed: int, device: str) -> Iterator[None]:
    """Seed torch's global generators (for dropout) for one update, and restore them."""
    target = torch.device(device)
    with torch.random.fork_rng([target] if target.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _weights(entry: NamedOptimizer) -> list[Tensor]:
    return [weight for group in entry.optimizer.param_groups for weight in group["params"]]


def _first_broken(module: nn.Module) -> str:
    for name, weight in module.named_parameters():
        if weight.grad is not None and not bool(torch.isfinite(weight.grad).all()):
            return f"first in {name}"
    return "in its norm alone: the numbers are too large"


def _silent(text: str) -> None:
    """Discard messages."""
