import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch

from mnprobe.training.model import JointModel, StepSettings, gather_with_gradient, mean_over_team

WORKER = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from mnprobe.core.errors import ConfigError
from mnprobe.training.model import gather_with_gradient, mean_over_team

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
given = torch.load(folder / "given.pt", weights_only=False)
sides = {  # a policy alone uses all its weights: looking for unused ones would only warn
    name: DistributedDataParallel(model, find_unused_parameters=model.viclip is not None)
    for name, model in given["models"].items()
}
found = []
for side, parts in given["cases"]:
    wrapped = sides[side]
    wrapped.zero_grad(set_to_none=True)
    out = wrapped(parts[rank])
    torch.autograd.backward(out.total)
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in wrapped.module.named_parameters()}
    found.append(({n: x.item() for n, x in out.losses.items()} | {"total": out.total.item()}, grads))

x = torch.tensor([[1.0], [2.0]], requires_grad=True) if rank == 0 else torch.tensor([[3.0], [4.0]], requires_grad=True)
every = gather_with_gradient(x)
torch.autograd.backward(((rank + 1) * torch.arange(1.0, 5.0)[:, None] * every).sum())
means = mean_over_team(torch.tensor([1.0 + rank]), rows=1 + 2 * rank)
try:
    gather_with_gradient(torch.zeros(2 + rank))
    message = ""
except ConfigError as error:
    message = str(error)
whole = gather_with_gradient(torch.tensor([rank]))
with torch.no_grad():
    still = gather_with_gradient(x)
torch.save(
    {"found": found, "every": every.detach(), "grad": x.grad, "means": means, "message": message, "whole": whole,
     "still": still.requires_grad},
    folder / f"rank{rank}.pt",
)
dist.destroy_process_group()
"""

PAIRINGS = {  # groups of four pairs: every episode its own, some of one instruction, all of one task
    "episode": [0, 1, 2, 3],
    "instruction": [5, 9, 5, 11],
    "task": [7, 7, 7, 7],
}
CASES = [  # sides, pairing, positives, understanding
    *product(["both"], PAIRINGS, ["diagonal", "exclude", "multi"], [True]),
    ("both", "instruction", "diagonal", False),
    ("both", "instruction", "diagonal", True),  # once more: the update before leaves nothing behind
    ("understanding", "instruction", "diagonal", True),
    ("execution", "instruction", "diagonal", False),
]


@pytest.fixture(scope="module")
def run_team(tmp_path_factory):
    """Run the worker in two processes that talk through gloo, warnings being errors there too."""

    def run(given):
        folder = tmp_path_factory.mktemp("team")
        torch.save(given, folder / "given.pt")
        command = [sys.executable, "-W", "error", "-c", WORKER, str(folder)]
        processes = [
            subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        said = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
        assert not any("Warning" in error for _, error in said), said
        return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]

    return run


def _case(inputs, take_rows, pairing, positives, understanding):
    """Four pairs and two more clips: of one process, and as two processes share them (pairs stay pairs)."""
    groups = torch.tensor([*PAIRINGS[pairing], 0, 0])
    settings = StepSettings(positives=positives, understanding=understanding, lambda_ee=0.8, lambda_align=0.6)
    given = replace(inputs, pair_groups=groups, settings=settings)
    whole = take_rows(given, clips=[0, 1, 2, 3, 4, 5], transitions=[0, 1, 2, 3], pairs=[0, 1, 2, 3])
    parts = [
        take_rows(given, clips=[0, 1, 4], transitions=[0, 1], pairs=[0, 1]),
        take_rows(given, clips=[2, 3, 5], transitions=[2, 3], pairs=[2, 3]),
    ]
    return whole, parts


def test_two_processes_equal_one_with_the_joint_batch(run_team, micro_model, make_inputs, take_rows):
    cases = [_case(make_inputs(), take_rows, *case) for _, *case in CASES]
    both, understanding, execution = micro_model(), micro_model(), micro_model()
    models = {
        "both": both,
        "understanding": JointModel(viclip=understanding.viclip),
        "execution": JointModel(arp=execution.arp),
    }
    told = [(case[0], parts) for case, (_, parts) in zip(CASES, cases, strict=True)]
    team = run_team({"models": models, "cases": told})
    for number, (whole, _) in enumerate(cases):
        model = models[CASES[number][0]]
        model.zero_grad(set_to_none=True)
        out = model(whole)
        torch.autograd.backward(out.total)
        values = {name: value.item() for name, value in out.losses.items()} | {"total": out.total.item()}
        for rank in range(2):
            found, gradients = team[rank]["found"][number]
            assert found == pytest.approx(values, rel=1e-5), CASES[number]
            for name, p in model.named_parameters():
                if p.grad is None:
                    assert gradients[name] is None or not bool(gradients[name].any()), (CASES[number], name)
                    continue
                error = (gradients[name] - p.grad).abs().max()
                assert error <= 1e-4 * max(p.grad.abs().max(), 1e-3), (CASES[number], name)
    one, other = (rank["found"] for rank in team)
    for (_, first), (_, second) in zip(one, other, strict=True):
        assert all(g is None or torch.equal(g, second[name]) for name, g in first.items())
    _, unused = one[CASES.index(("both", "instruction", "diagonal", False))]
    assert all(g is None for name, g in unused.items() if name.startswith(("viclip.", "heads.")))
    # the pieces of the gather, by hand
    for rank, told in enumerate(team):
        assert torch.equal(told["every"], torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
        weights = torch.arange(1.0, 5.0)[2 * rank : 2 * rank + 2, None]
        assert torch.equal(told["grad"], 3 * weights)  # one of rank 0 and twice that of rank 1
        assert torch.equal(told["means"], torch.tensor([1.75]))  # (1 * 1 + 3 * 2) / 4
        assert "got [2, 3] by rank" in told["message"]
        assert torch.equal(told["whole"], torch.tensor([0, 1]))
        assert not told["still"]


def test_without_a_team_nothing_happens():
    x = torch.ones(3, 2, requires_grad=True)
    assert gather_with_gradient(x) is x
    assert mean_over_team(x[0], rows=4).tolist() == [1.0, 1.0]
