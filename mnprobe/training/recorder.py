"""Recorder of features inside a training loop, without any effect on the training."""

import hashlib
import os
import random
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.names import PIXELS, FeatureId, Side, as_side, parse_feature_path
from mnprobe.core.registry import import_object, merge_settings, unknown_name
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import TableSchema
from mnprobe.data import Episode
from mnprobe.features import ExtractConfig, Extracted, open_features
from mnprobe.features.extraction import ModuleExtraction
from mnprobe.features.extractors.base import class_name
from mnprobe.features.extractors.hook import HookExtractor, HookTarget
from mnprobe.features.schema import Header
from mnprobe.probe import AlignConfig, StoredPair, align_stores, join_stores

__all__ = ["RECORDER", "FeatureRecorder", "StepAlignment"]

Result = TypeVar("Result")

RECORDER = TableSchema(
    name="recorder",
    columns=("model", "source", "step", "episodes", "seconds", "training_seconds", "share"),
    key=("model", "source", "step"),
    whole=("step", "episodes"),
    real=("seconds", "training_seconds", "share"),
    error=FeatureError,
)
"""results/recorder.csv: what each record cost. `seconds` of the record, `training_seconds` since the record before (or
since the recorder was made), `share` of all seconds so far that went into records and alignments."""

_OWN_SETTINGS = {"models", "checkpoints", "step", "preset", "model_config", "seed", "options", "device"}


@dataclass(frozen=True, kw_only=True)
class StepAlignment:
    """Recall@1 of a recorded step against the other side, as `mnprobe align` writes it.

    `recall` is the mean of both directions (`u2e`, `e2u`), `ci_low` to `ci_high` its 95 % interval, `chance` the recall
    of a random ranking. `n` held-out episodes of `n_groups` groups are tested. `other` is the model of the other side.
    `notes` say what is not to be relied on, such as an interval from few instructions.
    """

    step: int
    other: str
    holdout: str
    recall: float
    chance: float
    ci_low: float
    ci_high: float
    n: int
    n_groups: int
    u2e: float
    e2u: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        interval = f"{self.ci_low:.3f} to {self.ci_high:.3f}"
        return f"Recall@1 {self.recall:.3f} ({interval}), chance {self.chance:.3f}, {self.n} episodes"

    def to_dict(self) -> dict[str, float]:
        """The numbers by name, for a logger."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, int | float)}


class FeatureRecorder:
    """Writes features of a model in training into a run, where `mnprobe align`, `curve` and `report` find them.

    A record leaves the training as it was, also when it fails: weights, buffers and other state of the modules,
    gradients, modes, hooks, random states, autocast. The store of a step equals, value for value, what
    `mnprobe extract --model hook` writes for the saved weights. In a distributed training only process 0 works; the
    others return None at once, and no communication takes place.

    The first error is raised: a wrong layer name ends the program at step 0. After one success an error gives a warning
    and None, and the training goes on; with `strict` every error is raised.

    Args:
        run: run directory, made if it is not there.
        side: "understanding" or "execution".
        name: model name under which the features are stored.
        prepare: makes inputs of the model from episodes, as in `HookTarget`.
        data: probe episodes: a folder of demonstrations or several, a Dataset, or a list of episodes; by default the
            run's demos.
        layers: layers to store, as `--layer` of `--model hook` takes them; empty means the output.
        describe: the model's configuration as JSON, written to the stores.
        training: name of the training, for features of both sides of one training.
        pretrained: whether the weights at step 0 are trained ones. By default step 0 counts as random weights.
        strict: raise every error.
        overwrite: replace stores of the same step that have other weights or another configuration.
        note: called with messages for the user.
        settings: fields of `ExtractConfig` that concern episodes and computation, such as `batch_size`, `dtype`,
            `precision`, `source`, `partitions`, `tasks`, `limit`, `instructions` or `skip_broken`.
    Raises: ConfigError, DataError, FeatureError.
    """

    def __init__(
        self,
        run: RunDir | Path | str,
        *,
        side: Side | str,
        name: str,
        prepare: Callable[[Sequence[Episode]], Any],
        data: Path | str | Sequence[Path | str] | Sequence[Episode] | None = None,
        layers: Sequence[str] = (),
        describe: Mapping[str, Any] | None = None,
        training: str = "",
        pretrained: bool = False,
        strict: bool = False,
        overwrite: bool = False,
        note: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> None:
        for setting in settings:
            if setting in _OWN_SETTINGS:
                raise ConfigError(f"{setting}: is no setting of a recorder, whose model is the one that is recorded")
        if not callable(prepare):
            raise ConfigError(f"prepare must be a function of episodes, got {type(prepare).__name__}")
        options = {"factory": _name_of(prepare), "side": str(side)}
        config = merge_settings(ExtractConfig, None, {**settings, "name": name, "layers": layers, "options": options})
        self.feature = FeatureId(model=name, side=as_side(side), source=config.source, training=training)
        Header.of(self.feature)  # raises for names that cannot be a folder's
        self.failures: dict[int, str] = {}
        """Errors by step, of records and alignments that gave a warning."""
        self._target = partial(HookTarget, prepare=prepare, describe=dict(describe or {}), placed=True)
        self._config, self._data, self._note = config, data, note
        self._pretrained, self._strict, self._overwrite = pretrained, strict, overwrite
        self._worked: set[str] = set()
        self._last: int | None = None
        self.run = run if isinstance(run, RunDir) else RunDir(Path(run))
        if _leads():
            self._extraction  # noqa: B018 - opens the episodes now: what is wrong with them is raised here
        self._spent = self._trained = self._reported = 0.0  # seconds
        self._end = time.perf_counter()

    @cached_property
    def _extraction(self) -> ModuleExtraction:
        RunDir.create(self.run.path)
        episodes = self.run.demos if self._data is None else self._data
        return ModuleExtraction(episodes, self._config, run=self.run, note=self._note)

    def record(self, step: int, model: nn.Module) -> Extracted | None:
        """Write the store of `model` as it is after `step` optimiser steps; one that is there already is kept.

        DistributedDataParallel, DataParallel and torch.compile are taken off: layers are named as in the model itself.
        Raises FeatureError when the step is there with other weights or settings, and whatever the model raises; see
        the class for when errors are raised.
        """
        if not _leads():
            return None
        return self._attempt("record", step, lambda: self._record(as_whole(step, "step", least=0), model))

    def every(self, steps: int, step: int, model: nn.Module) -> Extracted | None:
        """Record when `step` is a multiple of `steps`, and return what was recorded, else None.

        A step that was recorded last is not recorded again, as when a loop over batches accumulates gradients.
        """
        number = as_whole(step, "step", least=0)
        if number % as_whole(steps, "steps", least=1) or number == self._last:
            return None
        return self.record(number, model)

    def align(
        self,
        step: int,
        *,
        other: str | None = None,
        layer: str | None = None,
        other_layer: str | None = None,
        pool: str = "mean",
        other_pool: str = "mean",
        episodes: Literal["equal", "shared"] = "equal",
        config: AlignConfig | None = None,
        **settings: Any,
    ) -> StepAlignment | None:
        """Measure Recall@1 of a recorded step against the other side's features in the run.

        The numbers are those of `mnprobe align`, and are kept in results/alignment.csv, so that no command measures
        them again. None where the recorder does not work (see the class).

        Args:
            step: recorded step.
            other: model of the other side; needed where the run has several, apart from pixels.
            layer, other_layer: by default the recorder's first layer, and u or e or the only one of the other side.
            pool, other_pool: pooling of tokens, as `--pool-u` takes it.
            episodes: "equal" requires the same episodes on both sides; "shared" takes those that both have.
            config: settings of the measurement; by default held-out episodes without the control of shuffled pairs.
            settings: single fields of `AlignConfig`, in place of those of `config`.
        Raises: ConfigError, FeatureError, TooFewSamples; see the class for when errors are raised.
        """
        if not _leads():
            return None
        chosen = merge_settings(AlignConfig, config or AlignConfig(holdout="episodes", shuffled=False), settings)
        if len(chosen.holdouts) > 1 or chosen.split != "all":
            raise ConfigError("align gives one number: holdout must be episodes, instructions or tasks, and split all")

        def measure() -> StepAlignment:
            with _unchanged(), torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
                torch.set_default_dtype(torch.float32)
                feature = replace(self.feature, step=as_whole(step, "step", least=0))
                pair, partner = self._pair(feature, other)
                mine, theirs = (layer or self._first_layer(feature), pool), (other_layer, other_pool)
                u, e = (mine, theirs) if feature.side == Side.UNDERSTANDING else (theirs, mine)
                results = self.run.results("alignment")
                rows, _ = align_stores(
                    [pair],
                    chosen,
                    table=results,
                    heads=self.run.heads,
                    hits=results.parent / "hits",
                    layer_u=u[0],
                    layer_e=e[0],
                    pool_u=u[1],
                    pool_e=e[1],
                    episodes=episodes,
                    n_jobs=1,
                    quiet=True,
                )
                return _step_alignment(rows, feature.step, partner, chosen.holdouts[0])

        return self._attempt("align", step, measure)

    def lightning_callback(self, steps: int) -> Any:
        """Callback for Lightning that records at the start, every `steps` optimiser steps, and at the end."""
        try:
            base = import_object("lightning.pytorch:Callback")
        except ConfigError:
            base = import_object("pytorch_lightning:Callback")

        def regularly(_callback: Any, trainer: Any, module: nn.Module, *_batch: Any) -> None:
            self.every(steps, int(trainer.global_step), module)

        def at_end(_callback: Any, trainer: Any, module: nn.Module) -> None:
            self.every(1, int(trainer.global_step), module)

        methods = {"on_train_start": regularly, "on_train_batch_end": regularly, "on_train_end": at_end}
        return type("RecordFeatures", (base,), methods)()

    def transformers_callback(self, steps: int) -> Any:
        """Callback for the Trainer of transformers; records as that for Lightning does."""
        base = import_object("transformers:TrainerCallback")

        def regularly(_callback: Any, _args: Any, state: Any, _control: Any, *, model: nn.Module, **_rest: Any) -> None:
            self.every(steps, int(state.global_step), model)

        def at_end(_callback: Any, _args: Any, state: Any, _control: Any, *, model: nn.Module, **_rest: Any) -> None:
            self.every(1, int(state.global_step), model)

        methods = {"on_train_begin": regularly, "on_step_end": regularly, "on_train_end": at_end}
        return type("RecordFeatures", (base,), methods)()

    def _attempt(self, kind: str, step: int, work: Callable[[], Result]) -> Result | None:
        start = time.perf_counter()
        self._trained += start - self._end
        try:
            result = work()
        except Exception as error:
            if self._strict or kind not in self._worked:
                raise
            self.failures[step] = f"{type(error).__name__}: {error}"
            text = f"step {step} of {self.feature.model!r}: {kind} failed, and the training goes on. "
            warnings.warn(text + self.failures[step], stacklevel=3)
            return None
        finally:
            self._end = time.perf_counter()
            self._spent += self._end - start
        self._worked.add(kind)
        return result

    def _record(self, step: int, model: nn.Module) -> Extracted:
        start = time.perf_counter()
        module = _bare(model)
        feature = replace(self.feature, step=step, trained=self._pretrained or step > 0)
        with _unchanged(module) as device:
            done = self._extraction.write(
                self._target(module=module),
                feature,
                weights=_weights_digest(module),
                device=device,
                overwrite=self._overwrite,
            )
        self._last = step
        if done.status == "written":
            self._write_cost(done, time.perf_counter() - start)
        return done

    def _write_cost(self, done: Extracted, seconds: float) -> None:
        spent, trained = self._spent + seconds, self._trained - self._reported
        self._reported = self._trained
        row = {"model": done.id.model, "source": done.id.source_name, "step": done.id.step, "episodes": done.episodes}
        row |= {"seconds": seconds, "training_seconds": trained, "share": spent / (spent + self._trained)}
        fresh = RECORDER.frame([row])
        RECORDER.update(self.run.results(RECORDER.stem), lambda table: RECORDER.replace_rows(table, fresh))

    def _first_layer(self, feature: FeatureId) -> str:
        """The first stored layer that the recorder's first layer or pattern means."""
        with open_features(self.run.path / "features" / feature.path) as store:
            for name in self._config.layers:
                for stored in store.layers:
                    if stored == HookExtractor.stored_layer(name) or fnmatchcase(stored, name):
                        return stored
            return store.layers[0]

    def _pair(self, feature: FeatureId, other: str | None) -> tuple[StoredPair, str]:
        """Find the pair that `mnprobe align` would make of this step, and the model of its other side."""
        pieces = self.run.feature_files()
        own = self.run.path / "features" / feature.path
        if not own.is_file():
            raise FeatureError(f"{own}: is not there; record step {feature.step} before it is aligned")
        demos = any(piece.source == "demos" for piece in pieces)
        stored, notes = join_stores([piece.path for piece in pieces], fit_on="demos" if demos else None)
        watching = feature.side == Side.UNDERSTANDING
        partners: dict[str, StoredPair] = {}
        for pair in stored:
            mine, theirs = (pair.u, pair.e) if watching else (pair.e, pair.u)
            place = parse_feature_path(theirs)
            if mine == own and place is not None:
                partners.setdefault(place[0], pair)
        if other is not None:
            if other not in partners:
                raise unknown_name(f"model to align {feature.model!r} at step {feature.step} with:", other, [*partners])
            return partners[other], other
        models = [name for name in partners if name != PIXELS] or list(partners)
        if len(models) != 1:
            told = f"choose with other= among {', '.join(models)}" if models else " ".join(notes) or "none fits"
            raise FeatureError(f"{own}: {len(models)} stores of the other side belong to this step; {told}")
        return partners[models[0]], models[0]


def _step_alignment(rows: pd.DataFrame, step: int, other: str, holdout: str) -> StepAlignment:
    """Pick Recall@1 out of the rows of one pair."""
    means = rows[(rows["statistic"] == "mean") & (rows["metric"] == "recall@1") & (rows["control"] == "none")]
    found = {str(row["direction"]): row for _, row in means.iterrows()}
    numbers = {name: float(found["mean"][name]) for name in ("chance", "ci_low", "ci_high")}
    return StepAlignment(
        step=step,
        other=other,
        holdout=holdout,
        recall=float(found["mean"]["value"]),
        n=int(found["mean"]["n_test"]),
        n_groups=int(found["mean"]["n_groups"]),
        u2e=float(found["u2e"]["value"]),
        e2u=float(found["e2u"]["value"]),
        notes=tuple(rows.attrs["notes"]),
        **numbers,
    )


# ---- processes and wrappers --------------------------------------------------------------------------------------


def _leads() -> bool:
    """Whether this is process 0 of a distributed training, or the only process."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None)
    return class_name(function) if name is None else f"{function.__module__}.{name}"


def _bare(model: nn.Module) -> nn.Module:
    """Take off wrappers of the model; ConfigError where process 0 alone cannot run it."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the model to record must be a torch.nn.Module, got {type(model).__name__}")
    while True:
        inner = model.module if isinstance(model, DataParallel | DistributedDataParallel) else None
        inner = model._modules.get("_orig_mod") if inner is None else inner
        if inner is None:
            break
        model = inner
    for name, part in model.named_modules():
        if isinstance(part, DistributedDataParallel) or type(part).__name__ == "FullyShardedDataParallel":
            raise ConfigError(
                f"submodule {name!r} is a {type(part).__name__}, which only runs in all processes at once. Record the "
                "module inside it, or save the weights and use `mnprobe extract --model hook`"
            )
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(weight):
            raise ConfigError(f"{name} has no values yet; call the model once before it is recorded")
        if type(weight).__name__ == "DTensor" or weight.is_meta:
            raise ConfigError(
                f"{name} is a {type(weight).__name__} on {weight.device}, so process 0 does not have the whole model. "
                "Save the gathered weights and use `mnprobe extract --model hook`"
            )
    return model


def _weights_digest(module: nn.Module) -> str:
    """SHA-256 of the tensors in the state dictionary: names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            total.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
            total.update(_bytes(value).numpy().data)
    return f"state_dict:{total.hexdigest()}"


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


# ---- leaving everything as it was --------------------------------------------------------------------------------


@contextmanager
def _unchanged(module: nn.Module | None = None) -> Iterator[str]:
    """Restore the state of the process and of a module at the end, however it comes; yield the module's device.

    Inside, autocast is off and torch.compile is not used.
    """
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - of the training
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        for name in ("enabled", "benchmark", "deterministic"):
            stack.callback(setattr, torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
        torch.backends.cudnn.benchmark = False  # would choose algorithms by time, and `extract` does not
        for kind in ("cpu", "cuda"):
            stack.callback(torch.set_autocast_enabled, kind, torch.is_autocast_enabled(kind))
            torch.set_autocast_enabled(kind, False)
        stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        torch.set_autocast_cache_enabled(False)  # weights that are cast here carry no gradient
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        device = "cpu"
        if module is not None:
            held = _HeldModule(module)
            stack.callback(held.restore)
            first = next(iter([*module.parameters(), *module.buffers()]), None)
            device = "cpu" if first is None else str(first.device)
            if device.startswith("cuda"):
                stack.enter_context(torch.cuda.device(device))
        yield device


class _HeldTensor:
    """A tensor, the memory it refers to, its bytes, and its part in gradients."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._memory = tensor.data
        dense = tensor.layout == torch.strided and not tensor.is_quantized
        self._saved = self._memory.cpu().clone() if dense else None
        self._requires_grad = tensor.requires_grad
        self._grad = tensor.grad if tensor.is_leaf else None

    def restore(self) -> None:
        tensor, memory = self._tensor, self._memory
        if self._saved is not None and not torch.equal(_bytes(memory), _bytes(self._saved)):
            memory.copy_(self._saved)
        if tensor.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape:
            tensor.data = memory
        if tensor.is_leaf:
            if tensor.requires_grad != self._requires_grad:
                tensor.requires_grad_(self._requires_grad)
            if tensor.grad is not self._grad:
                tensor.grad = self._grad


class _HeldContainer:
    """The entries of a dict, list, set or deque."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._keys = list(container) if isinstance(container, dict) else []
        self.entries = list(container.values() if isinstance(container, dict) else container)

    def restore(self) -> None:
        now = _HeldContainer(self._container)
        if now._keys == self._keys and list(map(id, now.entries)) == list(map(id, self.entries)):
            return
        self._container.clear()
        if isinstance(self._container, dict):
            self._container.update(zip(self._keys, self.entries, strict=True))
        elif isinstance(self._container, set):
            self._container.update(self.entries)
        else:
            self._container.extend(self.entries)


class _HeldModule:
    """State of all submodules: attributes, containers in them, tensors, generators of random numbers.

    Attributes include modes, hooks, and the tables of parameters, buffers and submodules. Tensors are copied to the
    CPU.
    """

    def __init__(self, module: nn.Module) -> None:
        self._attributes = [(part, dict(vars(part))) for part in module.modules()]
        values = [value for _, attributes in self._attributes for value in attributes.values()]
        containers = [_HeldContainer(value) for value in values if isinstance(value, dict | list | set | deque)]
        values += [value for container in containers for value in container.entries]
        held = {id(value): value for value in values}.values()
        tensors = [_HeldTensor(value) for value in held if isinstance(value, Tensor)]
        self._held: list[_HeldContainer | _HeldTensor] = [*containers, *tensors]
        self._torch = [(value, value.get_state()) for value in held if isinstance(value, torch.Generator)]
        self._numpy = [(value, value.bit_generator.state) for value in held if isinstance(value, np.random.Generator)]

    @torch.no_grad()
    def restore(self) -> None:
        """Bring everything back to the state at construction."""
        for part, attributes in self._attributes:
            now = vars(part)
            now.update(attributes)
            for name in now.keys() - attributes.keys():
                del now[name]
        for one in self._held:
            one.restore()
        for generator, state in self._torch:
            generator.set_state(state)
        for numbers, drawn in self._numpy:
            numbers.bit_generator.state = drawn
