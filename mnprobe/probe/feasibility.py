"""Feasible measurements of a dataset, by its episodes and labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnprobe.core.commands import command_line
from mnprobe.core.errors import DataError, MnprobeError, TooFewSamples
from mnprobe.data import describe, find_camera
from mnprobe.probe.outcome_balance import balanced_draw, measurable_sides
from mnprobe.probe.splits import Holdout, Items, check_pairing, has_partitions, hold_out, unnamed_tasks

__all__ = ["Feasibility", "feasible_measurements", "format_inspection", "inspect_dataset"]

if TYPE_CHECKING:
    from mnprobe.data import Dataset
else:
    Dataset = Any  # a check of its type at run time would read the episodes

_SHOWN = 12  # texts, tasks or notes before "and N more"
_TRIES = 3  # draws of held-out groups; as many as `mnprobe align` makes


@dataclass(frozen=True, kw_only=True)
class Feasibility:
    """Whether something can be measured with the episodes of a dataset, and why or why not."""

    what: str
    possible: bool
    reason: str


def feasible_measurements(items: Items) -> list[Feasibility]:
    """What the labels of episodes allow, by the rules that `mnprobe align` and `mnprobe audit` follow themselves.

    >>> items = Items.of(ids=["a", "b", "c", "d"], instructions=["push it"] * 4)
    >>> found = feasible_measurements(items)[0]
    >>> found.what, found.possible
    ('recall by instruction', False)
    """
    found = [_pairing(items)]
    by_text = found[0].possible
    for holdout in ("episodes", "instructions", "tasks"):
        found.append(_holdout(items, holdout, by_text))
    found.append(_success(items))
    unnamed = unnamed_tasks(items.instructions, items.tasks)
    tasks = len(set(items.tasks.tolist()))
    reason = unnamed or (f"{tasks} tasks" if tasks > 1 else "there is one task only")
    found.append(Feasibility(what="decomposition by task", possible=not unnamed and tasks > 1, reason=reason))
    return found


def _pairing(items: Items) -> Feasibility:
    what = "recall by instruction"
    texts = Counter(items.instructions.tolist())
    if not any(texts):
        reason = "no episode has an instruction; --instructions FILE.csv gives them"
        return Feasibility(what=what, possible=False, reason=reason)
    try:
        check_pairing(items, "instruction")
    except TooFewSamples:
        reason = (
            f"all {len(items)} episodes have one text, {next(iter(texts))!r}, so that every episode would count as a "
            "hit; --pairing episode asks whether the episode itself is found"
        )
        return Feasibility(what=what, possible=False, reason=reason)
    least, most = min(texts.values()), max(texts.values())
    each = f"{least}" if least == most else f"{least} to {most}"
    return Feasibility(what=what, possible=True, reason=f"{len(texts)} texts of {each} episodes")


def _holdout(items: Items, holdout: Holdout, by_text: bool) -> Feasibility:
    """Whether `mnprobe align --holdout` can split the episodes."""
    what = f"held-out {holdout}"
    if holdout != "episodes" and not by_text:
        return Feasibility(what=what, possible=False, reason="there are no two texts")
    if holdout == "tasks" and (unnamed := unnamed_tasks(items.instructions, items.tasks)):
        return Feasibility(what=what, possible=False, reason=unnamed)
    sizes = []
    try:
        for seed in range(_TRIES):
            part = hold_out(items, holdout, seed=seed)
            groups = items.groups("instruction" if by_text else "episode")
            for name, rows in (("training", part.train), ("test", part.test)):
                if len(set(groups[rows].tolist())) < 2:
                    raise TooFewSamples(f"the {name} set would hold {len(rows)} episodes of one instruction")
            sizes.append((len(part.train), len(part.test)))
    except MnprobeError as error:
        return Feasibility(what=what, possible=False, reason=" ".join(str(error).split()))
    train, test = sizes[0]
    drawn = "by the dataset's partitions" if has_partitions(items) else "drawn by seed and written down"
    return Feasibility(what=what, possible=True, reason=f"about {train} to train and {test} to test, {drawn}")


def _success(items: Items) -> Feasibility:
    what = "success against failure of the policy"
    sides, missing = measurable_sides(items)
    if "execution" not in sides:
        reason = next(text for text in missing if text.startswith("execution"))
        return Feasibility(what=what, possible=False, reason=reason)
    try:
        balanced_draw(items, "episodes", sides=["execution"])
    except MnprobeError as error:
        return Feasibility(what=what, possible=False, reason=" ".join(str(error).split()))
    counts = Counter(items.success_e.tolist())
    return Feasibility(
        what=what, possible=True, reason=f"{counts[1]} successes, {counts[0]} failures (--split success)"
    )


def inspect_dataset(dataset: Dataset) -> dict[str, Any]:
    """`mnprobe.data.describe` with what can and cannot be measured, and the next command; as JSON.

    Further entries: `ids` (the first and the last), `episodes_by_instruction`, `feasible` (what, possible, reason), and
    `next`, a list of commands.
    """
    facts = describe(dataset)
    texts = [_text(dataset, row) for row in range(len(dataset))]
    missing = texts.count("")
    found: list[Feasibility] = []
    if missing and missing < len(texts):
        reason = f"{missing} of {len(texts)} episodes have no instruction: give --instructions, or leave them out"
        found.append(Feasibility(what="recall by instruction", possible=False, reason=reason))
    else:
        items = Items.of(
            ids=[episode.id for episode in dataset],
            instructions=texts,
            tasks=[episode.task for episode in dataset],
            partitions=[episode.partition for episode in dataset] if all(one.partition for one in dataset) else None,
            success_e=[_outcome(dataset, row) for row in range(len(dataset))],
        )
        found += feasible_measurements(items)
    found += _models(facts)
    by_text = Counter(texts)
    return {
        **facts,
        "ids": [dataset[0].id, dataset[len(dataset) - 1].id],
        "episodes_by_instruction": {text: by_text[text] for text in facts["instructions"]},
        "feasible": [{"what": one.what, "possible": one.possible, "reason": one.reason} for one in found],
        "next": _next(facts, found),
    }


def _text(dataset: Dataset, row: int) -> str:
    try:
        return dataset[row].instruction
    except DataError:
        return ""


def _outcome(dataset: Dataset, row: int) -> int:
    try:
        return dataset[row].success
    except DataError:
        return -1


def _models(facts: dict[str, Any]) -> list[Feasibility]:
    """Which kinds of models the dataset has inputs for."""
    cameras = [camera["name"] for camera in facts["cameras"] if camera["height"]]
    reason = ", ".join(cameras) if cameras else "no camera has an image that can be read"
    found = [Feasibility(what="video models and pixels", possible=bool(cameras), reason=reason)]
    lacks = {
        name: facts["missing"][name] for name in ("depth", "camera matrices", "key poses") if name in facts["missing"]
    }
    reason = "; ".join(dict.fromkeys(lacks.values())) if lacks else "depth, camera matrices and key poses are there"
    found.append(Feasibility(what="ARP and its training", possible=not lacks, reason=reason))
    signals = [name for name in ("state", "action") if facts[name]]
    reason = f"a policy of your own reads images{''.join(f', {name}' for name in signals)}"
    if facts["kind"] == "rlbench":
        reason = "a policy of your own reads images, gripper poses and joints"
    found.append(Feasibility(what="policies (--model hook, import)", possible=True, reason=reason))
    return found


def _next(facts: dict[str, Any], found: Sequence[Feasibility]) -> list[str]:
    """Commands that go on from here."""
    paths = [Path(path) for path in facts["paths"]]
    run = f"runs/{_plain(paths[0])}"
    names = [camera["name"] for camera in facts["cameras"]]
    camera = None
    if len(names) > 1:
        try:
            find_camera(names, "front")
        except DataError:
            camera = names[0]
    needs = {}
    if not facts["instructions"] or facts["without_instruction"]:
        needs["instructions"] = "instructions.csv"
    extract = command_line(
        "extract",
        run=run,
        data=facts["paths"],
        model="pixels",
        camera=camera,
        skip_broken=bool(facts["broken"]),
        **needs,
    )
    by_text = found[0].possible or (bool(needs) and len(facts["tasks"]) > 1)
    align = command_line("align", run=run, pairing=None if by_text else "episode")
    return [extract, align]


def _plain(path: Path) -> str:
    """Name of a run from the name of a dataset."""
    name = path.resolve().stem if path.is_file() else path.resolve().name
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip(".-") or "first"


def format_inspection(facts: dict[str, Any]) -> str:
    """Format the result of `inspect_dataset` as text."""
    lines = [f"{', '.join(facts['paths'])}: {facts['format']}"]

    def line(name: str, text: str) -> None:
        lines.append(f"  {name:<11}{text}")

    count, shortest, longest = facts["episodes"], facts["shortest"], facts["longest"]
    span = (
        ""
        if shortest is None
        else f" of {shortest} frames"
        if shortest == longest
        else f" of {shortest} to {longest} frames"
    )
    line("episodes", f"{count}{span}, ids {facts['ids'][0]} to {facts['ids'][1]}")
    same = " (the instructions: nothing else names them)" if facts["task_is_instruction"] else ""
    line("tasks", f"{len(facts['tasks'])}{same}" if same else f"{len(facts['tasks'])}: {_listed(facts['tasks'])}")
    texts = facts["episodes_by_instruction"]
    shown = [f"{text!r} ({number})" for text, number in texts.items()]
    line("texts", f"{len(texts)}{': ' if texts else ''}{_listed(shown)}")
    if facts["without_instruction"]:
        line("", f"{facts['without_instruction']} episodes have no instruction")
    for number, camera in enumerate(facts["cameras"]):
        size = f"{camera['width']} x {camera['height']}" if camera["height"] else "size not known"
        fps = f", {camera['fps']:g} frames a second" if camera["fps"] else ""
        line("" if number else "cameras", f"{camera['name']}: {size}{fps}")
    if not facts["cameras"]:
        line("cameras", "none")
    if facts["flip"]:
        line(
            "flip", f"images are turned: {facts['flip']}" if facts["flip"] != "none" else "images are taken as they are"
        )
    success = facts["success"]
    told = f"{success['successes']} successes, {success['failures']} failures"
    if success["known"] < count:
        told += f", {count - success['known']} not known" if success["known"] else ""
    line("success", told if success["known"] else "not known")
    parts = ", ".join(f"{name} {number}" for name, number in facts["partitions"].items())
    line("partitions", parts or "none")
    for name in ("state", "action"):
        if facts[name]:
            line(name, f"{len(facts[name])} numbers: {_listed(facts[name], 4)}")
    for possible, title in ((True, "possible"), (False, "impossible")):
        entries = [entry for entry in facts["feasible"] if entry["possible"] == possible]
        for number, entry in enumerate(entries):
            line("" if number else title, f"{entry['what']}: {entry['reason']}")
    for name, reason in list(facts["broken"].items())[:_SHOWN]:
        line("broken", f"{name}: {reason}")
    if len(facts["broken"]) > _SHOWN:
        line("", f"and {len(facts['broken']) - _SHOWN} more")
    for title in ("problems", "notes"):
        for text in facts[title][:_SHOWN]:
            line(title.removesuffix("s"), text)
    for number, command in enumerate(facts["next"]):
        line("" if number else "next", command)
    line("", "extract again with --model hf:FOLDER, viclip, hook or another for each side; align needs both")
    return "\n".join(lines)


def _listed(names: Sequence[str], most: int = _SHOWN) -> str:
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more
