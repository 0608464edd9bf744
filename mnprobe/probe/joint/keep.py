"""What a training leaves behind: checkpoints of both models, its heads, and the note that it is finished."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mnprobe.core.errors import CheckpointError, ConfigError, TrainingError
from mnprobe.core.files import locked, write_text
from mnprobe.core.provenance import canonical_json, config_hash
from mnprobe.core.rundir import RunDir, step_name
from mnprobe.models.arp import save_arp
from mnprobe.models.loading import check_finite, read_metadata, save_checkpoint
from mnprobe.probe.heads import save_heads
from mnprobe.probe.joint.start import Start

__all__ = ["Keeper", "alone_in"]

_RESULT_NAME = "result.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Keeper:
    """Writes and checks the files of one training.

    Attributes:
        run: the run they go into.
        name: of the training; models are filed as `viclip-<name>` and `arp-<name>`.
        folder: the training's own, `training/<name>` of the run.
        start: the models, which the files are written from.
        asked: the recorded configuration.
    """

    run: RunDir
    name: str
    folder: Path
    start: Start
    asked: Mapping[str, Any]

    @property
    def parts(self) -> tuple[str, ...]:
        """The models that checkpoints are written of."""
        model = self.start.model
        return tuple(name for name, part in (("viclip", model.viclip), ("arp", model.arp)) if part is not None)

    def files(self, step: int) -> tuple[Path, ...]:
        """The checkpoints of one step."""
        return tuple(self.run.checkpoint(f"{part}-{self.name}", step) for part in self.parts)

    def heads(self, step: int) -> Path:
        """Where the trained heads of one step lie."""
        return self.folder / "heads" / f"{step_name(step)}.safetensors"

    def write(self, step: int, own_updates: Mapping[str, int], metrics: Mapping[str, float]) -> None:
        """Write the checkpoints of `step`, each whole or not at all.

        Raises TrainingError when weights are not finite: such a file is never written.
        """
        viclip, arp, heads = self.start.model.viclip, self.start.model.arp, self.start.model.heads
        files = dict(zip(self.parts, self.files(step), strict=True))
        for part in self.parts:
            module = viclip if part == "viclip" else arp
            if module is not None:
                self._refuse_broken(module.state_dict(), part, step)
        if viclip is not None:
            save_checkpoint(
                files["viclip"],
                viclip.state_dict(),
                model="viclip",
                config=viclip.config.to_dict(),
                step=step,
                metrics=metrics,
                trained=self._learnt("viclip", own_updates),
                extra=self._extra("viclip", own_updates),
            )
        if arp is not None and self.start.language is not None:
            spoken = {"language": canonical_json(self.start.language.describe())}
            save_arp(
                files["arp"],
                arp,
                step=step,
                metrics=metrics,
                trained=self._learnt("arp", own_updates),
                extra=self._extra("arp", own_updates) | spoken,
            )
        if heads is not None:
            save_heads(self.heads(step), heads, {"training": self.name, "step": step})

    def check(self, steps: Sequence[int]) -> None:
        """Raise CheckpointError when a checkpoint of `steps` is missing or of another training."""
        digest = config_hash(dict(self.asked))
        for step in steps:
            for path in self.files(step):
                if not path.is_file():
                    raise CheckpointError(f"{path}: is missing, but its training wrote it. {self._way_out()}")
                found = read_metadata(path).get("config_hash")
                if found != digest:
                    raise CheckpointError(
                        f"{path}: is of another training (configuration {found}, this one is {digest}). "
                        f"{self._way_out()}"
                    )

    def refuse_strangers(self) -> None:
        """Raise ConfigError when there are checkpoints under this name although no training of it was begun."""
        for part in self.parts:
            held = self.run.checkpoints(f"{part}-{self.name}")
            if held:
                raise ConfigError(
                    f"{held[0].path.parent} holds {len(held)} checkpoints, but {self.folder} has no record of their "
                    "training, so they would be overwritten. Give the training another --name, or remove them"
                )

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note that the training is finished."""
        content = {"config_hash": config_hash(dict(self.asked)), **result}
        write_text(self.folder / _RESULT_NAME, json.dumps(content, indent=2, allow_nan=False))

    def finished(self) -> dict[str, Any] | None:
        """What `finish` noted; None when the training is not finished."""
        path = self.folder / _RESULT_NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged ({error}). {self._way_out()}") from error
        if not isinstance(content, dict) or content.get("config_hash") != config_hash(dict(self.asked)):
            raise CheckpointError(f"{path}: belongs to another configuration. {self._way_out()}")
        return content

    def _learnt(self, part: str, own_updates: Mapping[str, int]) -> bool:
        return self.start.trained[part] or own_updates.get(part, 0) > 0

    def _extra(self, part: str, own_updates: Mapping[str, int]) -> dict[str, str]:
        return {
            "training": self.name,
            "config_hash": config_hash(dict(self.asked)),
            "updates": str(own_updates.get(part, 0)),
        }

    def _refuse_broken(self, weights: Mapping[str, Tensor], part: str, step: int) -> None:
        try:
            check_finite(weights, path=self.run.checkpoint(f"{part}-{self.name}", step))
        except CheckpointError as error:
            raise TrainingError(
                f"training {self.name!r} has diverged at step {step}: {error} Nothing was written; checkpoints of "
                "earlier steps are kept. Lower the learning rate or clip gradients, under another --name"
            ) from error

    def _way_out(self) -> str:
        return f"To train anew, remove {self.folder} and the checkpoints of {self.name!r}, or give another --name"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """The right to train into `folder`, made if needed; ends with the process, however it ends.

    Raises ConfigError when another process has it.
    """
    with locked(
        folder / ".lock",
        refuse=lambda who: ConfigError(
            f"{folder}: another process is training into this folder{who}; wait for it, or give this training a --name "
            "of its own"
        ),
    ):
        yield
