"""What a weights file is, before it is loaded: which model, which training step, trained or not."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from mnprobe.core.errors import CheckpointError
from mnprobe.core.files import sha256_file
from mnprobe.core.rundir import step_of

__all__ = ["CheckpointInfo", "inspect_checkpoint", "step_in_name"]

_PUBLISHED = re.compile(r"model_(\d+)$")


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A weights file.

    `kind` is "viclip", "arp", or None for models that mnprobe does not know. `step_told` is False where neither the
    file nor the user says at which training step it was written, so that `step` is 0 for want of a better number.
    `training` is the name of the training that wrote it (our metadata entry), "" where the file names none.
    """

    path: Path
    kind: str | None
    step: int
    trained: bool
    sha256: str
    step_told: bool = True
    training: str = ""


def step_in_name(path: Path) -> int | None:
    """The training step that a file's name tells, as mnprobe and the published files write it.

    >>> step_in_name(Path("step_00001000.safetensors")), step_in_name(Path("arp_model_80000.pth"))
    (1000, 80000)
    """
    ours = step_of(path.name)
    if ours is not None:
        return ours
    match = _PUBLISHED.search(path.stem)
    return int(match.group(1)) if match else None


def inspect_checkpoint(path: Path, *, step: int | None = None) -> CheckpointInfo:
    """Read names and metadata of a weights file.

    The step is `step` if given, else that of our own metadata, else the entry `step` of a published file, else that in
    the file's name, else 0. Files of others count as trained; ours say it.

    Raises CheckpointError for a file that cannot be read.
    """
    from mnprobe.models.loading import detect_model, read_metadata, read_state_dict, read_step

    path = Path(path)
    metadata = read_metadata(path)
    ours = "format" in metadata and "model" in metadata
    found = _metadata_step(metadata, path)
    found = read_step(path) if found is None and not metadata else found
    found = step_in_name(path) if found is None else found
    return CheckpointInfo(
        path=path,
        kind=metadata["model"] if ours else detect_model(read_state_dict(path)),
        step=step if step is not None else found or 0,
        trained=metadata.get("trained", "true") != "false",
        sha256=sha256_file(path),
        step_told=step is not None or found is not None,
        training=metadata.get("training", "") if ours else "",
    )


def _metadata_step(metadata: dict[str, str], path: Path) -> int | None:
    if "step" not in metadata:
        return None
    try:
        return int(json.loads(metadata["step"]))
    except (ValueError, TypeError):
        raise CheckpointError(f"{path}: metadata entry 'step' is no number: {metadata['step']!r}") from None
