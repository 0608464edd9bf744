"""What a GPU changes: parity with the CPU, full-size models in bfloat16, training, retrieval, extraction.

    python benchmarks/gpu.py                          (one CUDA device, at most eight minutes; writes gpu.json)
    python benchmarks/gpu.py --device cpu --tiny      (tiny sizes on the CPU: that every part works)
    python benchmarks/gpu.py --only parity,products

It needs the project's packages and the other files of this folder, no weights and no data: models have random weights,
demonstrations are written for the occasion. Every part has its own time; a part that would not fit is left out, one
that takes too long is cut off and keeps what it measured, and both are listed with the reason. A part that fails does
not stop the others. The exit code is 1 when a part failed or missed its goal, and 0 without a CUDA device, where
nothing is measured.

Parity is |CPU - device| over the largest value of the CPU. float32 must agree within 1e-4, with TF32 off; torch's own
settings, which allow TF32 in convolutions, are reported beside. The renderer and the preprocessing must agree in every
value. In bfloat16, features must keep a cosine of 0.999 with those of float32 on the CPU, and losses agree within 2 %.
"""

import argparse
import copy
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from train import Trainee, synthetic_batch, synthetic_clips

from mnprobe.core.products import product
from mnprobe.core.provenance import commit, now, versions
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import Team, autocast
from mnprobe.data import Camera, FrameData, look_at, open_dataset, pinhole, write_episode
from mnprobe.features import ExtractorSpec, Header
from mnprobe.features.extraction import Job, run_job
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.features.schema import make_columns
from mnprobe.models.arp import ARPConfig, TrainNoise, mvt
from mnprobe.models.arp.renderer import render_views
from mnprobe.models.untrained import untrained_arp, untrained_viclip
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, preprocess
from mnprobe.probe import AlignmentHeads, recall_at_k
from mnprobe.training import train
from mnprobe.training.config import TrainConfig, preset
from mnprobe.training.initialization import recompute_blocks
from mnprobe.training.model import JointModel, StepInputs

TOTAL = 480.0  # seconds of the whole script
FLOAT32, COSINE, LOSSES = 1e-4, 0.999, 0.02
EXTRACTION = 0.9
DISK = 25 * 2**30  # checkpoints and states of a training of ViCLIP-L-14
TESTS = Path(__file__).resolve().parents[1] / "tests"
Result = TypeVar("Result")


class LeftOut(Exception):
    """Why a part, or the rest of it, is not measured."""


class OutOfTime(Exception):
    """The time of a part is over."""


@dataclass(frozen=True)
class Row:
    """One measured value; `met` is None where nothing is asked of it, and `wanted` says what is."""

    what: str
    value: float
    unit: str
    wanted: str = ""
    met: bool | None = None
    exact: bool = False  # a wrong value, rather than a slow one, when it is not met


@dataclass
class Part:
    """What became of one part: passed, failed (an error or a wrong value), missed (a goal), skipped."""

    status: str = "passed"
    reason: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


@dataclass
class Bench:
    """Where and how large, and the part that is being measured."""

    device: str
    tiny: bool
    planted: bool
    scratch: Path
    part: Part = field(default_factory=Part)

    def tell(self, what: str, value: float, unit: str) -> None:
        self._add(Row(what, value, unit))

    def check(
        self, what: str, value: float, unit: str, *, most: float | None = None, least: float | None = None
    ) -> None:
        """A value that is wrong beyond the bound."""
        self._add(_judged(what, value, unit, most, least, exact=True))

    def goal(self, what: str, value: float, unit: str, *, least: float) -> None:
        """A speed that should be reached, at full size."""
        self._add(Row(what, value, unit) if self.tiny else _judged(what, value, unit, None, least, exact=False))

    def _add(self, row: Row) -> None:
        self.part.rows.append(row)
        verdict = "" if row.met is None else f"  ({row.wanted}{'' if row.met else ': NOT MET'})"
        print(f"  {row.what:58} {row.value:12.5g} {row.unit}{verdict}", flush=True)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, work: Callable[[], object], rounds: int = 5) -> float:
        """Median of some rounds, after those that allocate."""
        taken = []
        warm = 1 if self.tiny else 2
        for _ in range(warm + (1 if self.tiny else rounds)):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            taken.append(1e3 * (time.perf_counter() - start))
        return statistics.median(taken[warm:])

    def speed(self, what: str, items: str, count: int, work: Callable[[], object]) -> float:
        """Rows of one pass: milliseconds, items per second, peak memory; the milliseconds."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = self.milliseconds(work)
        self.tell(f"{what}, {count} {items}", taken, "ms")
        self.tell(f"{what}", 1e3 * count / taken, f"{items}/s")
        if self.device == "cuda":
            self.tell(f"{what}, peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
        return taken


def _judged(what: str, value: float, unit: str, most: float | None, least: float | None, exact: bool) -> Row:
    if most is not None:
        return Row(what, value, unit, f"at most {most:g}", bool(value <= most), exact)  # NaN is not met
    return Row(what, value, unit, f"at least {least:g}", bool(least is not None and value >= least), exact)


def largest(most: int, attempt: Callable[[int], Result]) -> tuple[int, Result]:
    """The largest of most, most / 2, ... for which the device has memory, and what the attempt gave."""
    count = most
    while True:
        try:
            return count, attempt(count)
        except torch.OutOfMemoryError:
            if count < 2:
                raise
        count //= 2  # here the tensors of the failed attempt are gone
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block when the seconds are over."""

    def ring(number: int, frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def tf32(convolutions: bool, matrices: bool) -> Iterator[None]:
    """Whether float32 may be computed in TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, matrices
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def apart(here: Tensor, there: Tensor) -> float:
    """Largest difference over the largest value."""
    here, there = here.detach().cpu().float(), there.detach().cpu().float()
    return float((here - there).abs().max() / here.abs().max())


def cosine(here: Tensor, there: Tensor) -> float:
    """The smallest of the rows."""
    a, b = here.detach().cpu().float().flatten(0, -2), there.detach().cpu().float().flatten(0, -2)
    return float(nn.functional.cosine_similarity(a, b).min())


def joined(values: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([value.float() for value in values.values()])


def gradients(module: nn.Module, out: Tensor) -> Tensor:
    """Of some values of every matrix."""
    module.zero_grad(set_to_none=True)
    torch.autograd.backward(out)
    return torch.cat([p.grad.flatten()[:1000].cpu() for p in module.parameters() if p.grad is not None])


def parity(bench: Bench) -> None:
    """The device beside the CPU, on the same weights and inputs."""
    preprocessing_parity(bench)
    own = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    viclip_parity(bench, own)
    arp_parity(bench)


def preprocessing_parity(bench: Bench) -> None:
    frames = torch.randint(0, 256, (4, 128, 96, 3), generator=generator(), dtype=torch.uint8)
    there = preprocess(frames, device=bench.device).cpu()
    bench.check("preprocessing, values that differ", float((there != preprocess(frames)).sum()), "", most=0)
    points = [torch.rand(n, 3, generator=generator()) * 2.2 - 1.1 for n in (20_000, 5_000)]
    colors = [torch.rand(len(one), 4, generator=generator()) for one in points]
    draw = partial(render_views, size=112, radius=0.03)
    there = draw([one.to(bench.device) for one in points], [one.to(bench.device) for one in colors]).cpu()
    bench.check("renderer, values that differ", float((there != draw(points, colors)).sum()), "", most=0)


def viclip_parity(bench: Bench, own: tuple[bool, bool]) -> None:
    config = ViCLIPConfig.tiny() if bench.tiny else ViCLIPConfig()
    here = untrained_viclip(config, 0).eval()
    there = copy.deepcopy(here).to(bench.device)
    if bench.planted:
        with torch.no_grad():
            there.vision_encoder.proj.flatten()[0] += 1.0
    given = synthetic_clips(config, 2, generator())
    assert given.clips is not None
    assert given.text_ids is not None
    clips, ids = given.clips, given.text_ids
    clips_there, ids_there = clips.to(bench.device), ids.to(bench.device)
    with tf32(False, False):
        u, moved = here.encode_video(clips), there.encode_video(clips_there)
        bench.check("ViCLIP, video features, float32", apart(u, moved), "", most=FLOAT32)
        slopes = gradients(here, u.square().mean()), gradients(there, moved.square().mean())
        bench.check("ViCLIP, gradients, float32", apart(*slopes), "", most=FLOAT32)
        with torch.no_grad():
            text = here.encode_text(ids)
            bench.check("ViCLIP, text features, float32", apart(text, there.encode_text(ids_there)), "", most=FLOAT32)
    with torch.no_grad():
        with tf32(*own):
            bench.tell(
                "ViCLIP, video features, float32 with TF32 as torch has it",
                apart(u, there.encode_video(clips_there)),
                "",
            )
        with autocast(bench.device, "bf16"):
            bench.check(
                "ViCLIP, video features, bf16, cosine", cosine(u, there.encode_video(clips_there)), "", least=COSINE
            )
            bench.check(
                "ViCLIP, text features, bf16, cosine", cosine(text, there.encode_text(ids_there)), "", least=COSINE
            )


def arp_parity(bench: Bench) -> None:
    config = ARPConfig.tiny() if bench.tiny else ARPConfig()
    here = untrained_arp(config, 0).eval()
    there = copy.deepcopy(here).to(bench.device)
    scenes = synthetic_batch(config, 2, 32, generator())
    moved = scenes.to(bench.device)
    views = here.draw(scenes.observation).views
    differ = (views - there.draw(moved.observation).views.cpu()).abs() > FLOAT32
    bench.check("ARP, views of a scene, share that differs", float(differ.float().mean()), "", most=FLOAT32)
    state, language = scenes.observation.state.float(), scenes.observation.language
    with tf32(False, False):
        with torch.no_grad():
            maps = here.mvt1(views, state, language)
            maps_there = there.mvt1(*(one.to(bench.device) for one in (views, state, language)))
            bench.check("ARP, maps of stage one, float32", apart(maps, maps_there), "", most=FLOAT32)
        losses, losses_there = joined(here.losses(scenes)), joined(there.losses(moved))
        bench.check("ARP, seven losses, float32", apart(losses, losses_there), "", most=FLOAT32)
        slopes = gradients(here, losses.sum()), gradients(there, losses_there.sum())
        bench.check("ARP, gradients, float32", apart(*slopes), "", most=FLOAT32)
        e = here.encode(scenes.observation, scenes.target)["e"]
        e_there = there.encode(moved.observation, moved.target)["e"]
        bench.check("ARP, states e, float32", apart(e, e_there), "", most=FLOAT32)
    with torch.no_grad(), autocast(bench.device, "bf16"):
        bench.check("ARP, seven losses, bf16", apart(losses, joined(there.losses(moved))), "", most=LOSSES)
        e_there = there.encode(moved.observation, moved.target)["e"]
        bench.check("ARP, states e, bf16, cosine", cosine(e, e_there), "", least=COSINE)


def gpu_tests(bench: Bench) -> None:
    """The tests that need a GPU, by pytest."""
    lacking = [name for name in ("pytest", "xdist", "beartype", "hypothesis") if find_spec(name) is None]
    if lacking:
        raise LeftOut(f"not installed: {', '.join(lacking)} (pip install 'mnprobe[dev]')")
    files = [str(file) for file in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.gpu" in file.read_text("utf-8")]
    if not files:
        raise LeftOut("the folder tests/ is not beside benchmarks/")
    words = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "--numprocesses=0", "-rfE", *files]
    there = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=TESTS.parent,
        env=there,
        capture_output=True,
        text=True,
        check=False,
    )
    last = (found.stdout.strip().splitlines() or [found.stderr.strip()[-500:]])[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", last)}
    if found.returncode:
        raise RuntimeError(f"pytest ended with code {found.returncode}: {found.stdout[-2000:]}{found.stderr[-500:]}")
    if bench.device == "cpu":
        raise LeftOut(f"no GPU: {last}")
    bench.tell("tests that were left out", counts.get("skipped", 0), "")
    bench.check("tests that passed", counts.get("passed", 0), "", least=1)


class Stack(nn.Module):
    """torch's own encoder layers: some on each view alone, the others on all tokens."""

    def __init__(self, width: int, heads: int, inner: int, layers: int, *, views: int = 1) -> None:
        super().__init__()
        self.views = views
        self.alone = self._layers(width, heads, inner, layers // 2 if views > 1 else 0)
        self.together = self._layers(width, heads, inner, layers - len(self.alone))

    @staticmethod
    def _layers(width: int, heads: int, inner: int, count: int) -> nn.ModuleList:
        make = partial(nn.TransformerEncoderLayer, activation="gelu", batch_first=True, norm_first=True, dropout=0.0)
        return nn.ModuleList(make(width, heads, inner) for _ in range(count))

    def forward(self, tokens: Tensor, words: Tensor) -> Tensor:
        if self.views > 1:
            tokens = tokens.reshape(len(words) * self.views, -1, tokens.shape[-1])
            for layer in self.alone:
                tokens = layer(tokens)
            tokens = torch.cat([words, tokens.reshape(len(words), -1, tokens.shape[-1])], dim=1)
        for layer in self.together:
            tokens = layer(tokens)
        return tokens


def measure(
    bench: Bench, what: str, items: str, module: nn.Module, inputs: Callable[[int], tuple[Tensor, ...]], most: int
) -> list[float]:
    """Seconds of one item, forward and update, in bfloat16; an update has backward and a step of AdamW."""
    found = []

    def forward(count: int) -> float:
        given = inputs(count)

        def work() -> None:
            with torch.inference_mode(), autocast(bench.device, "bf16"):
                module(*given)

        module.eval()
        return bench.speed(f"{what} forward", items, count, work) / count

    def update(count: int) -> float:
        given = inputs(count)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)

        def work() -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast(bench.device, "bf16"):
                out = module(*given)
            torch.autograd.backward(out.float().square().mean())
            optimizer.step()

        module.train()
        return bench.speed(f"{what} update", items, count, work) / count

    for attempt in (forward, update):
        found.append(largest(most, attempt)[1])
    module.zero_grad(set_to_none=True)
    return found


def beside(bench: Bench, what: str, ours: list[float], torchs: list[float]) -> None:
    for name, mine, other in zip(("forward", "update"), ours, torchs, strict=True):
        bench.tell(f"{what} {name}, torch's layers / ours, time of an item", other / mine, "x")


def viclip_speed(bench: Bench) -> None:
    """ViCLIP's video encoder beside torch's layers of its width, depth and tokens."""
    config = ViCLIPConfig.tiny() if bench.tiny else ViCLIPConfig.l14()
    name, most = ("ViCLIP-tiny", 2) if bench.tiny else ("ViCLIP-L-14", 32)
    tokens = 1 + config.grid**2 * config.instants
    frames = (config.frames, 3, config.image_size, config.image_size)
    with torch.device(bench.device):
        encoder = ViCLIP(config).vision_encoder
        ours = measure(
            bench, name, "clips", encoder, lambda count: (torch.randn(count, *frames, device=bench.device),), most
        )
        del encoder
        stack = Stack(config.width, config.heads, 4 * config.width, config.layers)

    def inputs(count: int) -> tuple[Tensor, Tensor]:
        rows = torch.randn(count, tokens, config.width, device=bench.device)
        return rows, rows[:, :0]

    beside(bench, name, ours, measure(bench, f"torch's layers, {tokens} tokens,", "clips", stack, inputs, most))


def arp_speed(bench: Bench) -> None:
    """The whole policy, acting and updated; one multi-view transformer beside torch's layers of as many weights."""
    config = ARPConfig.tiny() if bench.tiny else ARPConfig()
    name, most, side = ("ARP-tiny", 2, 32) if bench.tiny else ("ARP", 96, 128)
    scenes = synthetic_batch(config, most, side, generator())
    policy = untrained_arp(config, 0).to(bench.device)

    def part(count: int) -> StepInputs:
        few = synthetic_batch(config, count, side, generator()) if count < most else scenes
        return StepInputs(batch=few, noise=TrainNoise.draw(generator(), few, config)).to(bench.device)

    def act(count: int) -> None:
        batch = part(count).batch
        assert batch is not None

        def work() -> None:
            with torch.inference_mode(), autocast(bench.device, "bf16"):
                policy.act(batch.observation)

        bench.speed(f"{name} act", "steps", count, work)

    def update(count: int) -> None:
        trainee = Trainee(JointModel(arp=policy), part(count), preset("paper"), bench.device)
        bench.speed(f"{name} update", "steps", count, trainee.update)

    for attempt in (act, update):
        largest(most, attempt)
    trunk = mvt.MultiViewTransformer(replace(config, dropout=0.0)).to(bench.device)
    size = config.image_size

    def seen(count: int) -> tuple[Tensor, ...]:
        make = partial(torch.randn, count, device=bench.device)
        return (
            make(mvt.VIEWS, mvt.INPUT_CHANNELS, size, size),
            make(config.state_width),
            make(config.language_length, config.language_width),
        )

    def tokens(count: int) -> tuple[Tensor, ...]:
        make = partial(torch.randn, count, device=bench.device)
        return make(mvt.VIEWS * config.grid**2, config.vision_width), make(config.language_length, config.vision_width)

    ours = measure(bench, f"{name}, one multi-view transformer,", "steps", trunk, seen, most)
    stack = Stack(  # ARP's gated layers have 12 x width^2 weights
        config.vision_width, config.vision_heads, 6 * config.vision_width, config.vision_depth, views=mvt.VIEWS
    ).to(bench.device)
    beside(bench, f"{name} transformer", ours, measure(bench, "torch's layers", "steps", stack, tokens, most))


def products(bench: Bench) -> None:
    """Retrieval and Gram matrices."""
    items, few, width = (400, 200, 64) if bench.tiny else (20_000, 2_000, 1024)
    shared = torch.randn(items, width, generator=generator())
    other = shared + torch.randn(items, width, generator=torch.Generator().manual_seed(1))
    labels = np.arange(items) % 54
    u, e = other.to(bench.device), shared.to(bench.device)
    here, there = recall_at_k(other[:few], shared[:few], labels[:few]), recall_at_k(u[:few], e[:few], labels[:few])
    differ = max(abs(here.recall(k) - there.recall(k)) for k in (1, 5, 10))
    bench.check(f"Recall@1/5/10 of {few} items, difference from the CPU", differ, "", most=1e-3)
    exact = other[:256].double() @ shared[:few].double().T
    gram = product(u[:256], e[:few])
    bench.check("product in float32, difference from float64", apart(exact, gram), "", most=FLOAT32)
    taken = bench.milliseconds(lambda: recall_at_k(u, e, labels), rounds=3)
    bench.tell(f"Recall@1/5/10, both ways, N = {items}, d = {width}", taken, "ms")
    taken = bench.milliseconds(lambda: product(u, u))
    bench.tell(f"Gram matrix, N = {items}, d = {width}, float32", taken, "ms")
    bench.tell("Gram matrix, float32", 2e-9 * items**2 * width / taken, "TFLOP/s")


def write_demos(folder: Path, episodes: int) -> Path:
    """Demonstrations of two instructions with four cameras and depth; images have smooth parts and some noise."""
    size, frames = 128, 8
    ramp = np.linspace(0, 200, size)[:, None, None] + np.linspace(0, 40, size)[None, :, None] + np.zeros(3)
    eyes = {"front": (1.2, 0.0), "left_shoulder": (0.2, 1.0), "right_shoulder": (0.2, -1.0), "wrist": (-0.6, 0.3)}
    cameras = {
        name: Camera(
            name=name,
            intrinsics=pinhole(60, size, size),
            extrinsics=look_at([x, y, 1.5], [0.2, 0.0, 0.9]),
            near=0.01,
            far=4.5,
        )
        for name, (x, y) in eyes.items()
    }
    depth = np.linspace(1.3, 0.9, size)[:, None] + np.zeros(size)

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        data = [
            FrameData(
                gripper_pose=[*random.uniform([0.0, -0.2, 0.8], [0.4, 0.2, 1.2]), 0.0, 0.0, 0.0, 1.0],
                gripper_open=float((index < frames // 2) ^ (number % 2)),
                joint_velocities=[0.5] * 7,
                gripper_joint_positions=[0.04, 0.04],
                ignore_collisions=1.0,
                cameras=cameras,
                rgb={name: (ramp + random.integers(0, 6, (size, size, 3))).astype(np.uint8) for name in cameras},
                depth=dict.fromkeys(cameras, depth),
            )
            for index in range(frames)
        ]
        write_episode(
            folder,
            task=("open_drawer", "close_drawer")[number % 2],
            variation=0,
            episode=number // 2,
            instructions=[f"{('open', 'close')[number % 2]} the drawer"],
            frames=data,
            images={name: "all" if name == "front" else "keyframes" for name in cameras},
        )

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(write, range(episodes)))
    return folder


def demonstrations(bench: Bench) -> Path:
    folder = bench.scratch / "demos"
    return folder if folder.exists() else write_demos(folder, 8 if bench.tiny else 256)


def extraction(bench: Bench) -> None:
    """Demonstrations on disk to a finished store, beside forward passes on clips that are on the device."""
    dataset = open_dataset(demonstrations(bench))
    batch = 4 if bench.tiny else 16
    columns = make_columns({"id": [episode.id for episode in dataset]}, where="benchmark")
    header = Header(model="viclip", side="understanding", data_fingerprint=dataset.fingerprint())
    for precision in ("float32", "bf16"):
        spec = ExtractorSpec(
            preset="tiny" if bench.tiny else "l14",
            batch_size=batch,
            layers=("u",),
            device=bench.device,
            precision="bf16" if precision == "bf16" else "float32",
            options=ViCLIPExtractor.option_defaults,
        )
        extractor = ViCLIPExtractor.build(spec)
        clips = [
            extractor.prepare(dataset[i : i + batch]).clips.to(bench.device) for i in range(0, len(dataset), batch)
        ]

        def bare(extractor: ViCLIPExtractor = extractor, clips: list[Tensor] = clips, how: str = precision) -> None:
            with torch.inference_mode(), autocast(bench.device, how):
                for one in clips:
                    extractor.model.encode_video(one).float().cpu()

        def ours(extractor: ViCLIPExtractor = extractor) -> None:
            job = Job(
                target=bench.scratch / "u.h5",
                header=header,
                episodes=dataset,
                columns=columns,
                asked={"extractor": "viclip", "layers": ["u"]},
                ran={},
                build=lambda: extractor,
                batch_size=batch,
                overwrite=True,
                threads=min(8, os.cpu_count() or 1),
            )
            run_job(job, Team(), quiet=True)

        alone, whole = bench.milliseconds(bare, rounds=3), bench.milliseconds(ours, rounds=3)
        bench.tell(f"extraction, {precision}, bare forward", 1e3 * len(dataset) / alone, "episodes/s")
        bench.tell(f"extraction, {precision}, from disk to store", 1e3 * len(dataset) / whole, "episodes/s")
        bench.goal(f"extraction, {precision}, speed / bare forward", alone / whole, "x", least=EXTRACTION)


def paper(bench: Bench) -> TrainConfig:
    """The preset, with 20 updates and checkpoints at both ends."""
    config = replace(preset("paper").with_updates(20), checkpoints=(1.0,))
    if bench.tiny:
        return replace(config.with_updates(5), viclip="tiny", arp="tiny", batch=4, dim=64)
    return config


def one_update(bench: Bench, config: TrainConfig, count: int) -> float:
    """Milliseconds of a joint update on generated inputs."""
    sizes_u, sizes_e = config.viclip_config(), config.arp_config()
    with torch.device(bench.device):
        viclip = ViCLIP(sizes_u)
    recompute_blocks(viclip)
    arp = untrained_arp(sizes_e, 0)
    heads = AlignmentHeads(sizes_u.embed_dim, sizes_e.width, config.dim)
    scenes = synthetic_batch(sizes_e, count, 128 // sizes_e.point_stride, generator())
    noise = TrainNoise.draw(generator(), scenes, sizes_e)
    inputs = replace(synthetic_clips(sizes_u, count, generator()), batch=scenes, noise=noise)
    trainee = Trainee(JointModel(viclip=viclip, arp=arp, heads=heads).train(), inputs, config, bench.device)
    trainee.update()
    return 1e3 * trainee.update()


def training(bench: Bench) -> None:
    """--preset paper: the largest batch that one device holds, then 20 updates of it on demonstrations."""
    config = paper(bench)
    batch, taken = largest(config.batch, partial(one_update, bench, config))
    bench.tell("preset paper, largest batch", batch, "")
    bench.tell("preset paper, joint update on generated inputs", taken, "ms")
    free = shutil.disk_usage(bench.scratch).free
    if free < DISK and not bench.tiny:
        raise LeftOut(f"checkpoints need {DISK / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free in {bench.scratch}")
    dataset = open_dataset(demonstrations(bench))[:64]
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def whole(count: int) -> float:
        run = RunDir.create(bench.scratch / f"run-{count}")
        start = time.perf_counter()
        found = train(replace(config, batch=count), dataset, run, device=bench.device, save_every=10**6)
        bench.tell(f"preset paper, {config.updates} updates, waiting for data", found.waiting, "share")
        bench.tell("preset paper, checkpoints and all", time.perf_counter() - start, "s")
        bench.check(
            "preset paper, losses that are finite", float(np.isfinite(list(found.metrics.values())).mean()), "", least=1
        )
        return found.seconds

    batch, seconds = largest(batch, whole)
    bench.tell(f"preset paper, {config.updates} updates of {batch}", config.updates / seconds, "updates/s")
    bench.tell("preset paper", config.updates * batch / seconds, "transitions/s")
    if bench.device == "cuda":
        bench.tell("preset paper, peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "parity": (parity, 50),
    "viclip": (viclip_speed, 70),
    "arp": (arp_speed, 60),
    "products": (products, 30),
    "extraction": (extraction, 80),
    "training": (training, 120),
    "tests": (gpu_tests, 60),
}
"""Parts in order, each with the most seconds that it may take; together less than the whole script's."""


def run_part(bench: Bench, work: Callable[[Bench], None], seconds: float, left: float) -> Part:
    """Run one part and say what became of it; nothing that it raises is passed on."""
    bench.part = part = Part()
    if left < seconds / 2:
        part.status, part.reason = "skipped", f"{max(left, 0):.0f} s are left for the script, it may need {seconds:.0f}"
        return part
    start = time.perf_counter()
    try:
        with within(min(seconds, left)):
            work(bench)
    except LeftOut as error:
        part.status, part.reason = "skipped", str(error)
    except OutOfTime:
        part.status, part.reason = "skipped", f"cut off after {min(seconds, left):.0f} s; the rows are what it measured"
    except Exception as error:  # a failure of one part does not stop the others
        part.status, part.reason = "failed", f"{type(error).__name__}: {error}"
    part.seconds = time.perf_counter() - start
    missed = [row for row in part.rows if row.met is False]
    wrong = [row.what for row in missed if row.exact]
    if part.status != "failed" and missed:
        part.status = "failed" if wrong else "missed"
        part.reason = "; ".join(
            filter(None, [f"not met: {', '.join(wrong or [row.what for row in missed])}", part.reason])
        )
    if bench.device == "cuda":
        torch.cuda.empty_cache()
    return part


def describe(device: str) -> dict[str, Any]:
    """The device, its driver, and the versions that computed."""
    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "cuda": torch.version.cuda,
        "driver": "",
        "versions": versions("torch", "numpy", "h5py") | {"python": platform.python_version()},
        "commit": commit(),
        "made": now(),
    }
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        found |= {"device": torch.cuda.get_device_name(), "memory_gib": round(memory / 2**30, 1)}
        if program := shutil.which("nvidia-smi"):
            words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
            answer = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30).stdout.split()
            found["driver"] = answer[0] if answer else ""
    return found


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: that every part works, not how fast")
    parser.add_argument("--only", default="", help=f"parts, with commas between: {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--planted", action="store_true", help="change one weight on the device: parity must fail")
    given = parser.parse_args(words)
    names = given.only.split(",") if given.only else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        print("left out: no CUDA device here (--device cpu --tiny shows that the parts work)")
        return 0
    if given.device == "cpu" and not given.tiny:
        parser.error("full sizes take hours on a CPU; add --tiny")
    began, parts = time.monotonic(), dict[str, Part]()
    patience = 10 if given.tiny else 1  # a busy CPU is no reason to cut a part off
    described = describe(given.device)
    print(
        f"{described['device']}, driver {described['driver'] or 'none'}, {described['versions']}, {described['commit']}"
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Bench(given.device, given.tiny, given.planted, Path(folder))
        for name in names:
            print(f"{name}:", flush=True)
            work, seconds = PARTS[name]
            left = patience * TOTAL - (time.monotonic() - began)
            part = parts[name] = run_part(bench, work, patience * seconds, left)
            print(f"  {part.status} in {part.seconds:.1f} s{f': {part.reason}' if part.reason else ''}", flush=True)
    report = described | {"tiny": given.tiny, "seconds": time.monotonic() - began}
    report["parts"] = {name: asdict(part) for name, part in parts.items()}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{', '.join(f'{name} {part.status}' for name, part in parts.items())}; {given.out}")
    return int(any(part.status in ("failed", "missed") for part in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
