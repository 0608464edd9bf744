"""Fitting the two heads on frozen features: seeded Adam until the loss is flat."""

import copy
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.adam import adam

from mnprobe.core.arrays import Array, Whole
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.labels import Labels, as_labels, encode_labels
from mnprobe.core.runtime import torch_threads
from mnprobe.core.seeds import check_seed
from mnprobe.probe._arrays import as_device, as_features, row_factors
from mnprobe.probe.config import MOST_STEPS, FitConfig
from mnprobe.probe.heads import AlignmentHeads, ridge_axes
from mnprobe.probe.losses import Positives, gram_step, loss_of_pairs, worth_it
from mnprobe.probe.sampling import Pairing

__all__ = [
    "FitResult",
    "Form",
    "Plateau",
    "StepRecord",
    "Stepper",
    "Validation",
    "fit_heads",
    "stepper_for",
]

Form = Literal["auto", "direct", "gram"]
Noise = tuple[Float[Tensor, " ku"], Float[Tensor, " ke"]]


@runtime_checkable
class Stepper(Protocol):
    """Heads and their Adam optimizer, in one of two equivalent forms."""

    def inputs(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Standardised features of one side in the form that `step` takes."""

    def step(self, u: Float[Tensor, "b du"], e: Float[Tensor, "b de"], groups: Int[Tensor, " b"]) -> float:
        """Update on one batch of pairs; the loss before the update."""

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""

    def settle(self) -> None:
        """Write the parameters into the heads, if they are stored elsewhere."""


def stepper_for(
    heads: AlignmentHeads,
    *,
    tau: float,
    positives: Positives,
    lr: float,
    weight_decay: float,
    batch: int,
    form: Form = "auto",
    noise: Noise | None = None,
) -> Stepper:
    """The Gram form for linear heads where it takes less work (`auto`), else the direct one.

    `noise`, of linear heads only, is the variance of noise on each feature of either side, which lengths count.

    Raises ConfigError if the Gram form is requested for heads that are not linear.
    """
    linear = isinstance(heads.t_u, nn.Linear) and isinstance(heads.t_e, nn.Linear)
    if form == "gram" and not linear:
        raise ConfigError(f"the Gram form is of linear heads, these are {heads.config['kind']!r}")
    sizes = (heads.config["dim_u"], heads.config["dim_e"], heads.config["dim"])
    if form == "gram" or (form == "auto" and linear and worth_it(*sizes, batch)):
        return _Gram(heads, tau, positives, lr, weight_decay, noise)
    return _Direct(heads, tau, positives, lr, weight_decay, noise)


class _Adam:
    """The steps of torch.optim.Adam by torch's function; the class imports torch's compiler, 1.2 s per process."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        self._parameters, self.lr, self._weight_decay = parameters, lr, weight_decay
        self._mean, self._square = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        adam(
            list(self._parameters),
            [p.grad for p in self._parameters if p.grad is not None],
            self._mean,
            self._square,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.lr,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )


class _Direct:
    def __init__(
        self,
        heads: AlignmentHeads,
        tau: float,
        positives: Positives,
        lr: float,
        weight_decay: float,
        noise: Noise | None,
    ) -> None:
        self._heads, self._tau, self._positives, self._noise = heads, tau, positives, noise
        self._adam = _Adam(list(heads.parameters()), lr, weight_decay)

    def inputs(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return features

    def step(self, u: Float[Tensor, "b du"], e: Float[Tensor, "b de"], groups: Int[Tensor, " b"]) -> float:
        z_u, z_e = self._heads.t_u(u), self._heads.t_e(e)
        if self._noise is not None:  # one more coordinate for each side, in which the other side is zero
            far = [_noise_length(*of) for of in zip((self._heads.t_u, self._heads.t_e), self._noise, strict=True)]
            z_u = torch.cat([z_u, far[0].expand(len(u), 1), torch.zeros_like(z_u[:, :1])], dim=1)
            z_e = torch.cat([z_e, torch.zeros_like(z_e[:, :1]), far[1].expand(len(e), 1)], dim=1)
        loss = loss_of_pairs(z_u, z_e, tau=self._tau, groups=groups, positives=self._positives)
        self._heads.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._adam.step()
        return loss.item()

    def set_rate(self, lr: float) -> None:
        self._adam.lr = lr

    def settle(self) -> None:
        pass


class _Gram:
    def __init__(
        self,
        heads: AlignmentHeads,
        tau: float,
        positives: Positives,
        lr: float,
        weight_decay: float,
        noise: Noise | None,
    ) -> None:
        self._heads, self._tau, self._positives = heads, tau, positives
        sides = noise or (None, None)
        self._noise = [None if side is None else nn.functional.pad(side, (0, 1)) for side in sides]  # none on the bias
        self._t_u, self._t_e = (_with_bias(head) for head in (heads.t_u, heads.t_e))
        self._adam = _Adam([self._t_u, self._t_e], lr, weight_decay)

    def inputs(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        padded = nn.functional.pad(features, (0, 1), value=1.0)
        return padded * row_factors(
            padded
        )  # the loss depends on directions only: powers of two rescale huge rows exactly

    def step(self, u: Float[Tensor, "b du"], e: Float[Tensor, "b de"], groups: Int[Tensor, " b"]) -> float:
        result = gram_step(
            self._t_u,
            self._t_e,
            u,
            e,
            tau=self._tau,
            groups=groups,
            positives=self._positives,
            noise_u=self._noise[0],
            noise_e=self._noise[1],
        )
        self._t_u.grad, self._t_e.grad = result.grad_u, result.grad_e
        self._adam.step()
        return result.loss.item()

    def set_rate(self, lr: float) -> None:
        self._adam.lr = lr

    @torch.no_grad()
    def settle(self) -> None:
        for head, values in ((self._heads.t_u, self._t_u), (self._heads.t_e, self._t_e)):
            head.get_parameter("weight").copy_(values[:, :-1])
            head.get_parameter("bias").copy_(values[:, -1])


def _noise_length(head: nn.Module, noise: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Root of the mean square of what a linear head makes of noise alone."""
    return (head.get_parameter("weight").square() @ noise).sum().sqrt()


def _with_bias(head: nn.Module) -> nn.Parameter:
    weight, bias = head.get_parameter("weight"), head.get_parameter("bias")
    return nn.Parameter(torch.cat([weight.detach(), bias.detach()[:, None]], dim=1))


class Plateau:
    """The rule by which a fit ends: whether its training loss is flat.

    Every `EVERY` steps from `LEAST`, the mean loss of the last third of the steps is compared with that of the third
    before it. The loss is flat once the last third is less than `GAIN` nats lower. Thirds, so that a slow rate is not
    taken for the end: the slower the loss falls, the longer are the stretches that are compared. Nothing but the
    training loss is looked at.

    >>> rule = Plateau()
    >>> [step for step in range(1, 1000) if rule.add(max(3.0 - step / 100, 1.0))][0]
    550
    """

    EVERY = 50
    LEAST = 300
    GAIN = 0.02

    def __init__(self) -> None:
        self._sums = [0.0]  # of the losses of the first 0, 1, 2, ... steps
        self.met = False

    def add(self, loss: float) -> bool:
        """Take the loss of one more step; whether it is flat by now, which it then stays."""
        self._sums.append(self._sums[-1] + loss)
        steps = len(self._sums) - 1
        if not self.met and steps >= self.LEAST and steps % self.EVERY == 0:
            third = steps // 3
            last, before, start = (self._sums[steps - third * back] for back in (0, 1, 2))
            self.met = (before - start) - (last - before) < self.GAIN * third
        return self.met


class _Schedule:
    """The rate of each step and the number of steps.

    The rate is constant for the first two thirds and then falls to zero along a line. Where no number of steps is
    given, the constant part ends when the loss is flat.
    """

    def __init__(self, config: FitConfig, items: int) -> None:
        self._lr, self._decay = config.lr, config.decay
        fixed = config.fixed_steps(items)
        self.total = MOST_STEPS if fixed is None else fixed
        self._constant = self._constant_part(self.total)
        self._open = fixed is None
        self._rule = Plateau()

    def _constant_part(self, total: int) -> int:
        return total - total // 3 if self._decay else total

    @property
    def converged(self) -> bool:
        """Whether the loss was flat before the rate fell, or before the end where it does not fall."""
        return self._rule.met

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 1."""
        if step <= self._constant:
            return self._lr
        return self._lr * (self.total - step + 1) / (self.total - self._constant + 1)

    def record(self, step: int, loss: float) -> None:
        """Take the loss of a step, which may set the end."""
        if step > self._constant:
            return
        if self._rule.add(loss) and self._open:
            self._open = False
            self._constant = step
            self.total = min(self.total, step + step // 2) if self._decay else step


class Validation(NamedTuple):
    """Held-out features and groups for early stopping; never the test set."""

    u: Array
    e: Array
    groups_u: Labels
    groups_e: Labels


class StepRecord(NamedTuple):
    """One step: its number (from 1), training loss before its update, validation loss after it where checked."""

    step: int
    loss: float
    validation: float | None


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Fitted heads and how the fit went.

    Attributes:
        heads: T_u and T_e with their standardisation, in evaluation mode.
        history: one record per step.
        steps_run: steps taken.
        best_step: the step whose heads these are (less than steps_run after early stopping).
        batch: pairs per step as used.
        ended: "converged" where the rule set the number of steps, "all steps" where it was given or the most allowed,
            or "early stop".
        lr: learning rate at the start.
        converged: whether the training loss was flat (`Plateau`) while the rate was constant.
    """

    heads: AlignmentHeads
    history: tuple[StepRecord, ...]
    steps_run: int
    best_step: int
    batch: int
    ended: Literal["converged", "all steps", "early stop"]
    lr: float
    converged: bool


def fit_heads(
    u: Array,
    e: Array,
    groups_u: Labels,
    groups_e: Labels | None = None,
    *,
    config: FitConfig | None = None,
    seed: Whole = 0,
    validation: Validation | None = None,
    device: str | torch.device = "cpu",
    threads: Whole = 1,
    form: Form = "auto",
) -> FitResult:
    """Fit T_u and T_e so that observed and executed actions of the same group are close (paper, eq. 4).

    Each epoch pairs every u with a random e of its group and goes through the pairs in random order. All batches have
    the same size, as the loss depends on it: a last smaller batch of an epoch is dropped (its items come again in the
    next epoch's order); with fewer items than `config.batch`, one batch holds them all.

    The same seed, data and machine give the same heads, byte for byte, for any number of cores, since one torch
    thread is used unless `threads` is given. No global random state is read or changed.

    Args:
        u: observed side, one row per item (n, du), numbers of any make that float32 can hold.
        e: executed side, one row per item (m, de); its items need not be those of `u`.
        groups_u: what counts as the same action: episode, instruction or task of each u.
        groups_e: the same for each e; `groups_u` when not given.
        config: all settings; the paper's by default.
        seed: initial weights, order and partners.
        validation: data for early stopping; required with config.early_stop, an error otherwise.
        device: where to fit.
        threads: torch threads on the CPU while fitting.
        form: how gradients are computed: "direct", by autograd through both mapped sides; "gram", through the heads'
            Gram matrices (linear heads); "auto", the cheaper of both. The steps are the same up to rounding.

    Raises:
        FeatureError: shapes, counts or values are wrong, or float32 cannot represent the differences between rows.
        ProbeError: a group is on one side only, or the loss is no longer finite.
        TooFewSamples: fewer than 2 items or than 2 groups.
        ConfigError: `validation` and config.early_stop disagree, or the device does not exist.

    >>> z = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    >>> result = fit_heads(z, z, list("aabbccddeeff"), config=FitConfig(dim=8, steps=3))
    >>> result.steps_run, result.batch, result.ended
    (3, 12, 'all steps')
    """
    config = config or FitConfig()
    seed = check_seed(seed)
    if form not in get_args(Form):
        raise ConfigError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
    if config.early_stop != (validation is not None):
        raise ConfigError(
            f"early_stop={config.early_stop} but validation data were {'' if validation else 'not '}given: "
            "early stopping needs them, and nothing else uses them"
        )
    target = as_device(device)
    x_u, x_e = as_features(u, "u").to(target), as_features(e, "e").to(target)
    labels_u = as_labels(groups_u, len(x_u), "groups_u")
    labels_e = labels_u if groups_e is None else as_labels(groups_e, len(x_e), "groups_e")
    (codes_u, codes_e), names = encode_labels(labels_u, as_labels(labels_e, len(x_e), "groups_e"))
    pairing = Pairing(codes_u, codes_e, names)
    if len(x_u) < 2 or pairing.n_groups < 2:
        raise TooFewSamples(
            f"fitting heads needs at least 2 items of 2 groups, got {len(x_u)} items of {pairing.n_groups} groups"
        )
    with torch_threads(threads):
        return _fit(x_u, x_e, torch.from_numpy(codes_u).to(target), pairing, config, seed, validation, form)


def _fit(
    u: Float[Tensor, "n du"],
    e: Float[Tensor, "m de"],
    groups: Int[Tensor, " n"],
    pairing: Pairing,
    config: FitConfig,
    seed: int,
    validation: Validation | None,
    form: Form,
) -> FitResult:
    generator = torch.Generator().manual_seed(seed)
    ridge = config.ridge if config.heads == "linear" else 0.0
    first = None if ridge else generator
    heads = AlignmentHeads(u.shape[1], e.shape[1], config.dim, config.heads, config.depth, first).to(u.device)
    if config.standardise:
        heads.set_standardization(u, e)
    watch = _Watch(heads, validation, config, seed) if validation is not None else None
    u, e = heads.standardize_u(u), heads.standardize_e(e)
    fitted, axes = heads, None
    if ridge:
        axes = tuple(ridge_axes(side.cpu(), ridge).to(side.device) for side in (u, e))
        u, e = axes[0].of(u), axes[1].of(e)
        fitted = AlignmentHeads(u.shape[1], e.shape[1], config.dim, generator=generator).to(u.device)
    batch = min(config.batch, len(u))
    stepper = stepper_for(
        fitted,
        tau=config.tau,
        positives=config.positives,
        lr=config.lr,
        weight_decay=config.weight_decay,
        batch=batch,
        form=form,
        noise=None if axes is None else (axes[0].noise, axes[1].noise),
    )

    def settle() -> None:
        stepper.settle()
        if axes is not None:
            axes[0].unfold(fitted.t_u, heads.t_u)
            axes[1].unfold(fitted.t_e, heads.t_e)

    u, e = stepper.inputs(u), stepper.inputs(e)
    schedule = _Schedule(config, len(u))
    history: list[StepRecord] = []
    ended: Literal["converged", "all steps", "early stop"] | None = None
    order = partners = torch.empty(0, dtype=torch.int64)
    position = step = 0
    while step < schedule.total:
        step += 1
        if position + batch > len(order):
            order = torch.randperm(len(u), generator=generator).to(u.device)
            partners = pairing.draw(generator).to(u.device)
            position = 0
        rows = order[position : position + batch]
        position += batch
        stepper.set_rate(schedule.rate(step))
        value = stepper.step(u[rows], e[partners[rows]], groups[rows])
        if not math.isfinite(value):
            raise ProbeError(
                f"the loss became {value} at step {step}: lower lr ({config.lr}) or raise tau ({config.tau})"
            )
        schedule.record(step, value)
        checked = None
        if watch and (step % config.check_every == 0 or step == schedule.total):
            settle()
            checked = watch.check(heads, step)
        history.append(StepRecord(step, value, checked))
        if watch and watch.waited >= config.patience and step < schedule.total:
            ended = "early stop"
            break
    settle()
    best = len(history)
    if watch and watch.best_state is not None:
        heads.load_state_dict(watch.best_state)
        best = watch.best_step
    if ended is None:
        ended = "converged" if config.fixed_steps(len(u)) is None and schedule.converged else "all steps"
    heads.requires_grad_(False)
    return FitResult(
        heads=heads.eval(),
        history=tuple(history),
        steps_run=len(history),
        best_step=best,
        batch=batch,
        ended=ended,
        lr=config.lr,
        converged=schedule.converged,
    )


class _Watch:
    """Keeps the heads with the lowest validation loss."""

    def __init__(self, heads: AlignmentHeads, validation: Validation, config: FitConfig, seed: int) -> None:
        device = heads.mean_u.device
        u = as_features(validation.u, "validation u").to(device)
        e = as_features(validation.e, "validation e").to(device)
        if (u.shape[1], e.shape[1]) != (heads.config["dim_u"], heads.config["dim_e"]):
            raise FeatureError(
                f"validation features have widths {u.shape[1]} and {e.shape[1]}, training features "
                f"{heads.config['dim_u']} and {heads.config['dim_e']}"
            )
        (codes_u, codes_e), names = encode_labels(
            as_labels(validation.groups_u, len(u), "validation groups_u"),
            as_labels(validation.groups_e, len(e), "validation groups_e"),
        )
        pairing = Pairing(codes_u, codes_e, names)
        if len(u) < 2 or pairing.n_groups < 2:
            raise TooFewSamples(
                f"early stopping needs at least 2 validation items of 2 groups, got {len(u)} of {pairing.n_groups}"
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(u), generator=generator)
        self._u, self._e = u[order.to(device)], e[pairing.draw(generator)[order].to(device)]
        self._groups = torch.from_numpy(codes_u)[order].to(device)
        self._config = config
        self.best_loss, self.best_step, self.waited = math.inf, 0, 0
        self.best_state: dict[str, Tensor] | None = None

    def check(self, heads: AlignmentHeads, step: int) -> float:
        size = min(self._config.batch, len(self._u))
        with torch.no_grad():
            losses = [
                loss_of_pairs(
                    *heads(self._u[start : start + size], self._e[start : start + size]),
                    tau=self._config.tau,
                    groups=self._groups[start : start + size],
                    positives=self._config.positives,
                ).item()
                for start in range(0, len(self._u) - size + 1, size)
            ]
        loss = sum(losses) / len(losses)
        self.waited += 1
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.waited = loss, step, 0
            self.best_state = copy.deepcopy(heads.state_dict())
        return loss
