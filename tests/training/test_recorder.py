"""A recorder writes what `mnprobe extract` would write, and the training never knows."""

import csv
import random
import sys
import textwrap
import types
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from mnprobe.cli.main import main
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.data import open_dataset
from mnprobe.features import HookInputs, HookTarget, extract, open_features, write_features
from mnprobe.probe import FitConfig, read_alignment
from mnprobe.training import FeatureRecorder

ACTIONS = ["open the drawer", "reach the target", "push the button", "turn the tap"]


@pytest.fixture(scope="module")
def demos(tmp_path_factory, write_demo):
    """Three demonstrations of each of four instructions."""
    root = tmp_path_factory.mktemp("demos")
    for variation, action in enumerate(ACTIONS):
        for number in range(3):
            write_demo(root, "reach_target", variation, "", 3 * variation + number, action, 4, size=8)
    return root


@pytest.fixture(scope="module")
def dataset(demos):
    return open_dataset(demos)


def prepare(episodes):
    """A row of eight numbers for each keyframe."""
    rows = [[*one.gripper_pose[i], one.gripper_open[i]] for one in episodes for i in one.keyframes]
    return HookInputs(args=(torch.tensor(rows, dtype=torch.float32),), lengths=[len(one.keyframes) for one in episodes])


class Policy(nn.Module):
    """Dropout and BatchNorm; keeps a table of its own from the first pass on, and counts its passes."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.head = nn.Linear(12, 8)
        self.register_buffer("scale", torch.ones(1))
        self.table, self.passes, self.seen = None, 0, []

    def forward(self, x):
        self.passes += 1
        self.seen.append(len(x))
        if self.table is None:
            self.table = torch.linspace(0, 1, 8)
        return self.head(self.encoder(x * self.scale)) * (1 + self.table)


def factory(checkpoint):
    policy = Policy()
    policy.load_state_dict(torch.load(checkpoint, weights_only=True))
    return HookTarget(module=policy, prepare=prepare)


class Training:
    """A few steps of Adam on random numbers, which also come from Python and numpy."""

    def __init__(self, seed=0):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the one that training loops use
        torch.manual_seed(seed)
        self.policy = Policy()
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=1e-2)

    def step(self):
        noise = random.random() + np.random.rand()  # noqa: NPY002
        x = torch.randn(6, 8)
        loss = (self.policy(x + noise) - x).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state(self):
        """Everything that the training consists of, as bytes."""
        policy, optimizer = self.policy, self.optimizer.state_dict()["state"]
        table = [] if policy.table is None else [policy.table]
        tensors = [*policy.state_dict().values(), *table, torch.get_rng_state()]
        tensors += [value for one in optimizer.values() for value in one.values()]
        tensors += [p.grad for p in policy.parameters() if p.grad is not None]
        numbers = np.random.get_state()  # noqa: NPY002
        others = (policy.passes, policy.seen, random.getstate(), numbers[1].tobytes(), numbers[2])
        modes = [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in policy.modules()]
        wants = [p.requires_grad for p in policy.parameters()]
        return [t.detach().numpy().tobytes() for t in tensors], others, modes, wants


def recorder(run, data, **settings):
    given = {"side": "execution", "name": "policy", "layers": ["encoder", "output"], "prepare": prepare}
    return FeatureRecorder(run, data=data, **(given | settings))


# ---- nothing changes ---------------------------------------------------------------------------------------------


def trained(record=lambda step, policy: None, *, around=nullcontext):
    """States of a training, of which `record` sees the model before each step."""
    training, states = Training(), []
    for step in range(5):
        with around():
            record(step, training.policy)
            states.append(training.state())
            training.step()
    return [*states, training.state()]


@pytest.fixture(scope="module")
def undisturbed():
    return trained()


def test_a_training_with_a_recorder_is_the_same_training_byte_for_byte(tmp_path, dataset, undisturbed):
    made = recorder(tmp_path / "run", dataset, layers=["encoder.*", "output"])
    assert trained(made.record) == undisturbed
    assert len(list((tmp_path / "run").glob("features/policy/demos/step_*.h5"))) == 5


def test_weights_that_are_cast_for_a_record_keep_their_gradients_in_the_training(tmp_path, dataset):
    def bf16():
        return torch.autocast("cpu", dtype=torch.bfloat16)

    made = recorder(tmp_path / "run", dataset, precision="bf16")
    assert trained(made.record, around=bf16) == trained(around=bf16)
    own = recorder(tmp_path / "other", dataset)  # float32, although the training computes in half precision
    with bf16():
        own.record(0, Training().policy)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_autocast_cache_enabled()
    half, whole = (values(tmp_path / run / "features/policy/demos/step_00000000.h5") for run in ("run", "other"))
    assert not np.array_equal(half["encoder"], whole["encoder"])
    np.testing.assert_allclose(half["encoder"], whole["encoder"], atol=0.05)


def values(path):
    with open_features(path) as store:
        return {name: store.layer(name).values[:] for name in store.layers}


class Spoils(nn.Module):
    """Does to the whole training what a forward pass should not do, and fails then."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, x):
        policy = self.policy
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(3)
        policy.train()
        policy(x)
        for tensor in (policy.head.weight, policy.scale, policy.table):
            tensor.data.mul_(3)
        policy.encoder[0].bias.data = torch.ones(12)
        policy.head.weight.requires_grad_(False)
        policy.head.weight.grad = None
        policy.scale = torch.zeros(2)
        policy.seen.clear()
        policy.register_forward_hook(lambda *_: None)
        policy.another = nn.Linear(1, 1)
        torch.set_default_dtype(torch.float64)
        torch.backends.cudnn.deterministic = True
        raise RuntimeError("spoilt")


def unreadable(episodes):
    np.random.rand()  # noqa: NPY002
    raise ValueError("no camera")


@pytest.mark.parametrize(
    ("wrap", "settings", "largest", "expected"),
    [
        (Spoils, {"layers": ["policy.encoder"]}, None, (RuntimeError, "spoilt")),
        (nn.Sequential, {"layers": ["0.encoder"], "prepare": unreadable}, None, (ValueError, "no camera")),
        (nn.Sequential, {"layers": ["0.encoder"]}, 300, (OSError, "File too large")),
    ],
)
def test_a_record_that_fails_leaves_the_training_as_it_was(
    tmp_path, dataset, undisturbed, largest_file, wrap, settings, largest, expected
):
    made = recorder(tmp_path / "run", dataset, strict=True, **settings)

    def record(step, policy):
        around = largest_file(largest) if largest else nullcontext()
        with around, pytest.raises(expected[0], match=expected[1]):
            made.record(step, wrap(policy))

    assert trained(record) == undisturbed
    assert torch.get_default_dtype() == torch.float32
    assert not torch.backends.cudnn.deterministic
    assert not list((tmp_path / "run").glob("features/policy/demos/*.h5"))


def test_generators_of_the_model_itself_are_set_back(tmp_path, dataset):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.draws = [torch.Generator().manual_seed(1), np.random.default_rng(1)]

        def forward(self, x):
            return x + 0 * torch.rand(1, generator=self.draws[0]) + 0 * self.draws[1].random()

    model, untouched = Noisy(), Noisy()
    recorder(tmp_path / "run", dataset, layers=["output"]).record(0, model)
    assert torch.equal(*(torch.rand(4, generator=one.draws[0]) for one in (model, untouched)))
    assert model.draws[1].random() == untouched.draws[1].random()


# ---- what is written ---------------------------------------------------------------------------------------------


def content(path):
    with open_features(path) as store:
        layers = {
            name: [np.asarray(part).tobytes() for part in (one.values[:], one.offsets, one.keyframe)]
            for name in store.layers
            for one in [store.layer(name)]
        }
        facts = {name: store.attrs[name] for name in ("model", "side", "source", "step", "trained", "data_fingerprint")}
        return layers, store.episodes.to_dict("list"), facts, store.attrs["provenance"]


def test_a_record_equals_the_extraction_of_the_saved_weights(tmp_path, demos, monkeypatch):
    training = Training()
    for _ in range(7):
        training.step()
    made = recorder(tmp_path / "run", demos, layers=["encoder", "encoder.*", "output"], batch_size=5)
    done = made.record(7, training.policy)
    assert done.status == "written"
    assert done.path == tmp_path / "run/features/policy/demos/step_00000007.h5"

    torch.save(training.policy.state_dict(), tmp_path / "saved.pt")
    monkeypatch.setitem(sys.modules, "factories_of_test", types.SimpleNamespace(factory=factory))
    (theirs,) = extract(
        demos,
        out=tmp_path / "other.h5",
        models=["hook"],
        checkpoints=[tmp_path / "saved.pt"],
        name="policy",
        step=7,
        layers=["encoder", "encoder.*", "output"],
        options={"factory": "factories_of_test:factory", "side": "execution"},
        batch_size=5,
    )
    mine, other = content(done.path), content(theirs.path)
    assert mine[:3] == other[:3]
    assert len(mine[0]) == 6
    unlike = {name for name in mine[3]["asked"] if mine[3]["asked"][name] != other[3]["asked"][name]}
    assert unlike == {"checkpoint_sha256", "options"}
    assert {name: mine[3][name] for name in ("ran", "layers", "counts", "worlds")} == {
        name: other[3][name] for name in ("ran", "layers", "counts", "worlds")
    }


def test_step_0_counts_as_random_weights_unless_they_are_trained(tmp_path, dataset):
    policy = Training().policy
    assert not recorder(tmp_path / "run", dataset).record(0, policy).id.trained
    assert recorder(tmp_path / "run", dataset, name="tuned", pretrained=True).record(0, policy).id.trained


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda policy: torch.compile(policy, backend="eager")])
def test_wrappers_are_taken_off(tmp_path, dataset, wrap):
    policy = Training().policy
    made = recorder(tmp_path / "run", dataset)
    plain = content(made.record(1, policy).path)
    wrapped = made.record(2, wrap(policy))
    assert content(wrapped.path)[0] == plain[0]
    assert wrapped.layers == ("encoder", "output")
    policy.compile(backend="eager")
    assert content(made.record(3, policy).path)[0] == plain[0]


def test_a_list_of_episodes_and_the_demos_of_the_run_are_data_too(tmp_path, demos, dataset):
    policy = Training().policy
    assert recorder(tmp_path / "a", list(dataset)[:5]).record(0, policy).episodes == 5
    assert recorder(tmp_path / "b", demos, limit=6).record(0, policy).episodes == 6
    recorder(tmp_path / "c", dataset)
    (tmp_path / "c" / "demos").symlink_to(demos)
    assert recorder(tmp_path / "c", None).record(0, policy).episodes == 12


def test_what_cannot_be_recorded_is_refused_when_the_recorder_is_made(tmp_path, dataset):
    for settings, expected in [
        ({"side": "both"}, "side must be"),
        ({"name": "a/b"}, "folder's name"),
        ({"models": ["viclip"]}, "models: is no setting of a recorder"),
        ({"prepare": None}, "prepare must be a function"),
        ({"tasks": ["a"]}, "give it to open_dataset"),
        ({"dtype": "int8"}, "dtype must be"),
    ]:
        with pytest.raises((ConfigError, FeatureError), match=expected):
            recorder(tmp_path / "run", dataset, **settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="that is a file"):
        recorder(tmp_path / "file", dataset)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Linear(8, 8, device="meta"), "process 0 does not have the whole model"),
        (nn.LazyLinear(8), "call the model once"),
        ("policy", "must be a torch.nn.Module"),
    ],
)
def test_models_without_values_are_refused(tmp_path, dataset, model, expected):
    with pytest.raises(ConfigError, match=expected):
        recorder(tmp_path / "run", dataset, layers=[]).record(0, model)


# ---- steps, repetition, errors -----------------------------------------------------------------------------------


def test_a_step_that_is_there_is_kept_if_it_is_the_same_and_refused_by_name_if_not(tmp_path, dataset):
    run, training = tmp_path / "run", Training()
    first = recorder(run, dataset).record(3, training.policy)
    before = first.path.read_bytes()
    again = recorder(run, dataset)
    assert again.record(np.int64(3), training.policy).status == "kept"
    with pytest.raises(FeatureError, match=r"(?s)layers was \['encoder', 'output'\], now \['head'\].*--overwrite"):
        recorder(run, dataset, layers=["head"]).record(3, training.policy)
    training.step()
    with pytest.raises(FeatureError, match="checkpoint_sha256 was 'state_dict:"):
        recorder(run, dataset).record(3, training.policy)
    assert first.path.read_bytes() == before
    assert recorder(run, dataset, overwrite=True).record(3, training.policy).status == "written"
    assert first.path.read_bytes() != before


@pytest.mark.parametrize("step", [-1, 2.5, "3", True, None])
def test_steps_are_whole_numbers(tmp_path, dataset, step):
    with pytest.raises(ConfigError, match="step must be a whole number of at least 0"):
        recorder(tmp_path / "run", dataset).record(step, Policy())


def test_the_first_error_is_raised_and_later_ones_do_not_stop_the_training(tmp_path, dataset, largest_file):
    made = recorder(tmp_path / "run", dataset, layers=["encodr"])
    with pytest.raises(ConfigError, match="Did you mean 'encoder'"):
        made.record(0, Policy())
    made = recorder(tmp_path / "run", dataset)
    made.record(0, Policy())
    with (
        pytest.warns(UserWarning, match=r"step 5 of 'policy': record failed, and the training goes on.*File too large"),
        largest_file(300),
    ):
        assert made.record(5, Policy()) is None
    assert list(made.failures) == [5]
    assert made.record(10, Policy()).status == "written"
    strict = recorder(tmp_path / "run", dataset, strict=True)
    strict.record(15, Policy())
    with largest_file(300), pytest.raises(OSError, match="File too large"):
        strict.record(20, Policy())


def test_every_records_multiples_once(tmp_path, dataset):
    made, policy = recorder(tmp_path / "run", dataset), Policy()
    found = [made.every(4, step, policy) for step in (0, 1, 3, 4, 4, 5, 8)]
    assert [one and one.id.step for one in found] == [0, None, None, 4, None, None, 8]
    with pytest.raises(ConfigError, match="steps must be a whole number of at least 1"):
        made.every(0, 1, policy)


def test_what_records_cost_is_in_a_table(tmp_path, dataset):
    made, policy = recorder(tmp_path / "run", dataset), Policy()
    for step in (0, 2, 2):
        made.record(step, policy)
    with (tmp_path / "run/results/recorder.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["source"], row["step"], row["episodes"]) for row in rows] == [
        ("policy", "demos", "0", "12"),
        ("policy", "demos", "2", "12"),
    ]
    for row in rows:
        assert float(row["seconds"]) > 0
        assert float(row["training_seconds"]) > 0
        assert 0 < float(row["share"]) < 1


# ---- alignment ---------------------------------------------------------------------------------------------------


def other_side(run, dataset, name="watcher", *, step=0, seed=0):
    """Understanding features in which an instruction is a direction, with noise."""
    draw = np.random.default_rng(seed)
    directions = {action: draw.normal(size=6) for action in ACTIONS}
    write_features(
        run / f"features/{name}/demos/step_{step:08d}.h5",
        model=name,
        side="understanding",
        step=step,
        layers={"u": np.stack([directions[one.instruction] + draw.normal(size=6) for one in dataset]).astype("f4")},
        episodes={
            "id": [one.id for one in dataset],
            "task": [one.task for one in dataset],
            "instruction": [one.instruction for one in dataset],
        },
    )


def test_align_gives_what_the_command_writes(tmp_path, dataset, capsys):
    run, training = tmp_path / "run", Training()
    made = recorder(run, dataset, layers=["output"])
    made.every(5, 5, training.policy)
    with pytest.raises(FeatureError, match="no features of the understanding side"):
        made.align(5)
    other_side(run, dataset)
    small = {"fit": FitConfig(dim=8, steps=5), "seeds": 2, "splits": 2, "k": 1}
    state = training.state()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = made.align(5, **small)
    random.setstate(state[1][2])  # beartype, which checks the types of the probe here, draws from it
    assert training.state() == state

    def rows(table):
        whole = read_alignment(table)
        return whole[(whole["metric"] == "recall@1") & (whole["control"] == "none")].drop(columns="heads_file")

    mine = rows(run / "results/alignment.csv")
    options = ["--dim", "8", "--steps", "5", "--seeds", "2", "--splits", "2", "--k", "1", "--holdout", "episodes"]
    with pytest.raises(SystemExit) as ended:
        main(["align", "--run", str(run), *options, "--jobs", "1", "--out", str(tmp_path / "again" / "alignment.csv")])
    assert ended.value.code == 0, capsys.readouterr().err
    theirs = rows(tmp_path / "again" / "alignment.csv")
    assert mine.reset_index(drop=True).equals(theirs.reset_index(drop=True))
    mean = theirs[(theirs["statistic"] == "mean") & (theirs["direction"] == "mean")].iloc[0]
    for name, column in [("recall", "value"), ("chance", "chance"), ("ci_low", "ci_low"), ("ci_high", "ci_high")]:
        assert getattr(found, name) == mean[column]
    assert (found.n, found.n_groups, found.other, found.holdout) == (
        mean["n_test"],
        mean["n_groups"],
        "watcher",
        "episodes",
    )
    assert found.recall == pytest.approx((found.u2e + found.e2u) / 2)
    assert any("only 4 instructions: the interval is not to be relied on" in note for note in found.notes)
    assert str(found).startswith("Recall@1 ")
    assert set(found.to_dict()) == {"step", "recall", "chance", "ci_low", "ci_high", "n", "n_groups", "u2e", "e2u"}


def test_align_asks_which_model_where_there_are_several(tmp_path, dataset):
    run = tmp_path / "run"
    made = recorder(run, dataset, layers=["encoder.[0-1]", "output"])
    made.record(5, Policy())
    small = {"fit": FitConfig(dim=8, steps=2), "seeds": 1, "splits": 1, "k": 1}
    other_side(run, dataset, "one")
    other_side(run, dataset, "pixels")
    assert made.align(5, **small).other == "one"
    assert set(read_alignment(run / "results/alignment.csv")["layer_e"]) == {"encoder.0"}
    assert made.align(5, other="pixels", layer="output", **small).other == "pixels"
    other_side(run, dataset, "two", seed=1)
    with pytest.warns(
        UserWarning, match="2 stores of the other side belong to this step; choose with other= among one, two"
    ):
        assert made.align(5, **small) is None
    with pytest.warns(UserWarning, match="unknown model to align 'policy' at step 5 with: 'three'"):
        assert made.align(5, other="three", **small) is None
    with pytest.warns(UserWarning, match="record step 6 before it is aligned"):
        assert made.align(6, **small) is None
    with pytest.raises(ConfigError, match="align gives one number"):
        made.align(5, holdout="both")


# ---- loops of others ---------------------------------------------------------------------------------------------


def test_the_trainer_of_transformers_calls_the_recorder(tmp_path, dataset):
    from transformers import TrainerControl, TrainerState
    from transformers.trainer_callback import CallbackHandler

    made, policy = recorder(tmp_path / "run", dataset), Policy()
    handler = CallbackHandler([made.transformers_callback(4)], policy, None, None, None)  # dispatches for the Trainer
    state, control = TrainerState(), TrainerControl()
    handler.on_train_begin(None, state, control)
    for state.global_step in range(1, 7):
        handler.on_step_end(None, state, control)
    handler.on_train_end(None, state, control)
    assert [path.name for path in sorted((tmp_path / "run").glob("features/policy/demos/*.h5"))] == [
        f"step_{step:08d}.h5" for step in (0, 4, 6)
    ]


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning_calls_the_recorder(tmp_path, dataset, monkeypatch, package):
    class Callback:
        """As Lightning's: an attribute for every hook."""

        def on_train_start(self, trainer, pl_module):
            raise AssertionError

        on_train_batch_end = on_train_end = on_train_start

    made, policy = recorder(tmp_path / "run", dataset), Policy()
    if "." in package:
        monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, package, types.SimpleNamespace(Callback=Callback))
    callback = made.lightning_callback(4)
    assert isinstance(callback, Callback)
    trainer = types.SimpleNamespace(global_step=0)
    callback.on_train_start(trainer, policy)
    for batch in range(14):  # two batches to an optimiser step
        trainer.global_step = (batch + 1) // 2
        callback.on_train_batch_end(trainer, policy, None, None, batch)
    callback.on_train_end(trainer, policy)
    assert [path.name for path in sorted((tmp_path / "run").glob("features/policy/demos/*.h5"))] == [
        f"step_{step:08d}.h5" for step in (0, 4, 7)
    ]


def test_without_the_package_a_callback_says_what_is_missing(tmp_path, dataset):
    with pytest.raises(ConfigError, match=r"pytorch_lightning.*Is it installed"):
        recorder(tmp_path / "run", dataset).lightning_callback(4)


# ---- several processes -------------------------------------------------------------------------------------------

TEAM = """
    import sys
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from mnprobe.core.errors import ConfigError
    from mnprobe.training import FeatureRecorder

    def prepare(episodes):
        return torch.tensor([one.gripper_pose[-1] for one in episodes], dtype=torch.float32)

    data, run, saved = sys.argv[1:]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)
    inner = nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 7))
    model = DistributedDataParallel(inner)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    recorder = None
    if run != "-":
        recorder = FeatureRecorder(run, side="execution", name="team", data=data, layers=["0"], prepare=prepare)
    for step in range(6):
        if recorder and step % 2 == 0 and (step < 4 or rank == 0):  # the last one in process 0 alone
            found = recorder.record(step, model)
            assert (found is None) == (rank > 0)
        optimizer.zero_grad()
        model(torch.randn(4, 7)).square().mean().backward()
        optimizer.step()
    if rank == 0 and recorder:
        try:
            recorder.record(9, nn.Sequential(model))
        except ConfigError as error:
            assert "only runs in all processes at once" in str(error)
    torch.save([*inner.state_dict().values(), torch.get_rng_state()], f"{saved}.{rank}")
    dist.barrier()  # no process ends while the other still talks to it
    del model
    dist.destroy_process_group()
"""


def test_of_two_processes_the_first_records_and_the_training_is_the_same(tmp_path, demos, in_two_processes):
    script = tmp_path / "team.py"
    script.write_text(textwrap.dedent(TEAM))
    for run, saved in (("-", "without"), (str(tmp_path / "run"), "with")):
        done = in_two_processes(script, demos, run, tmp_path / saved)
        assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        without, with_it = (torch.load(tmp_path / f"{saved}.{rank}") for saved in ("without", "with"))
        assert all(torch.equal(*pair) for pair in zip(without, with_it, strict=True))
    stores = sorted((tmp_path / "run").glob("features/team/demos/*.h5"))
    assert [path.name for path in stores] == [f"step_{step:08d}.h5" for step in (0, 2, 4)]
