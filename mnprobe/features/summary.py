"""What a feature store holds, in a form for people and for JSON, and whether it is sound."""

from collections import Counter
from pathlib import Path
from typing import Any

from mnprobe.core.errors import FeatureError
from mnprobe.core.labels import same_text
from mnprobe.features.store import FeatureFile, open_features, verify

__all__ = ["describe_features", "format_description"]

_SUCCESS = {1: "success", 0: "failure", -1: "not known"}
_SHOWN = 12  # instructions listed for people before "and N more"


def describe_features(path: Path | str) -> dict[str, Any]:
    """Read a store wholly and say what is in it; `sound` is False, with `problem`, where something is wrong.

    A file that cannot even be opened gives only path, sound and problem.
    """
    path = Path(path)
    found: dict[str, Any] = {"path": str(path), "sound": True, "problem": None}
    try:
        with open_features(path) as file:
            found |= _contents(file)
        verify(path)
    except FeatureError as error:
        found |= {"sound": False, "problem": str(error)}
    return found


def format_description(found: dict[str, Any]) -> str:
    """The description as lines for people."""
    lines = [f"{found['path']}: {'sound' if found['sound'] else 'NOT SOUND'}"]
    if found["problem"]:
        lines.append(f"  {found['problem']}")
    if "model" not in found:
        return "\n".join(lines)
    state = "trained" if found["trained"] else "not trained"
    state += f", training {found['training']}" if found["training"] else ""
    lines += [
        f"  model      {found['model']}, {found['side']} side, step {found['step']}, {state}",
        f"  weights    {found['checkpoint_sha256'] or 'no checkpoint file'}",
        f"  source     {found['source']}, data {found['data_fingerprint'] or 'not recorded'}",
        f"  made       {found['created']} by mnprobe {found['mnprobe_version']}, torch {found['torch_version']}",
    ]
    for name, layer in found["layers"].items():
        extra = ", by keyframe" if layer["keyframes"] else ""
        per = layer["tokens_per_episode"]
        each = str(per[0]) if per[0] == per[1] else f"{per[0]} to {per[1]}"
        rows, dim = layer["shape"]
        place = f", {layer['class']}" if "class" in layer else ""
        place += f" at {layer['module']}{layer.get('member', '')}" if layer.get("module") or "member" in layer else ""
        lines.append(f"  layer      {name}: {rows} x {dim} {layer['dtype']}, {each} tokens per episode{extra}{place}")
    lines.append(f"  episodes   {found['episodes']}")
    for title in ("task", "partition", "success", "instruction"):
        counts = list(found["episodes_by"][title].items())
        shown = [f"{name or '(none)'}: {number}" for name, number in counts[:_SHOWN]]
        more = [f"and {len(counts) - _SHOWN} more"] if len(counts) > _SHOWN else []
        lines.append(f"    by {title}: " + "; ".join(shown + more))
    for name, counts in found["extra_columns"].items():
        shown = [f"{value if value != '' else '(none)'}: {number}" for value, number in list(counts.items())[:_SHOWN]]
        more = [f"and {len(counts) - _SHOWN} more"] if len(counts) > _SHOWN else []
        lines.append(f"    own column {name}: " + "; ".join(shown + more))
    if found["recognised"] is not None:
        lines.append(f"    instruction recognised: {found['recognised']} of {found['episodes']}")
    for name, number in found["provenance"].get("counts", {}).items():
        lines.append(f"  note       {name.replace('_', ' ')}: {number}")
    for skipped in found["provenance"].get("skipped", []):
        lines.append(f"  left out   {skipped['id']}: {skipped['reason']}")
    lines += [f"  remark     {remark}" for remark in found["provenance"].get("remarks", [])]
    return "\n".join(lines)


def _contents(file: FeatureFile) -> dict[str, Any]:
    columns = file.columns
    by = {name: Counter(columns[name].tolist()) for name in ("task", "partition", "instruction")}
    success = Counter(_SUCCESS[int(value)] for value in columns["success"])
    places = file.attrs["provenance"].get("layers", {})
    layers: dict[str, dict[str, Any]] = {}
    for name in file.layers:
        layer = file.layer(name)
        lengths = [int(b - a) for a, b in zip(layer.offsets[:-1], layer.offsets[1:], strict=True)]
        layers[name] = {
            "shape": list(layer.values.shape),
            "dtype": layer.values.dtype.name,
            "tokens_per_episode": [min(lengths), max(lengths)],
            "keyframes": layer.keyframe is not None,
            **places.get(name, {}),
        }
    own = {name: dict(Counter(map(str, sorted(columns[name].tolist())))) for name in file.extra_columns}
    recognised = None
    if "prediction" in columns:
        pairs = zip(columns["prediction"], columns["instruction"], strict=True)
        recognised = sum(same_text(prediction) == same_text(own) != "" for prediction, own in pairs)
    counted = {name: dict(sorted(counter.items())) for name, counter in {**by, "success": success}.items()}
    return file.attrs | {
        "layers": layers,
        "episodes": len(file),
        "episodes_by": counted,
        "extra_columns": own,
        "recognised": recognised,
    }
