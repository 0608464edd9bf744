"""Two stores are joined by episode id, whatever the order of their rows."""

import tempfile
from pathlib import Path

import numpy as np

from mnprobe.analysis.sanity.check import BROKEN, Check
from mnprobe.analysis.sanity.subject import Subject
from mnprobe.features import open_features, write_features

__all__ = ["joined_by_id"]


def joined_by_id(subject: Subject) -> Check:
    """Two written stores whose rows are in different orders, and whose features tell which episode they belong to."""
    items = subject.pair.items
    n = len(items)
    rng = subject.rng("join")
    marks = rng.standard_normal((n, 3)).astype(np.float32)
    orders = {"u": rng.permutation(n), "e": rng.permutation(n)}
    with tempfile.TemporaryDirectory(prefix="mnprobe-doctor-") as folder:
        paths = {}
        for layer, side in (("u", "understanding"), ("e", "execution")):
            rows = orders[layer]
            columns = {"id": items.ids, "instruction": items.instructions, "task": items.tasks}
            paths[layer] = write_features(
                Path(folder) / f"{layer}.h5",
                layers={layer: marks[rows]},
                episodes={name: values[rows].tolist() for name, values in columns.items()},
                model=f"planted-{layer}",
                side=side,
            )
        with open_features(paths["u"]) as file_u, open_features(paths["e"]) as file_e:
            joined = subject.pipeline.join(file_u, file_e)
    place = {str(name): row for row, name in enumerate(items.ids)}
    rows = np.array([place[str(name)] for name in joined.items.ids])
    wrong_u = int((joined.u != marks[rows]).any(axis=1).sum())
    wrong_e = int((joined.e != marks[rows]).any(axis=1).sum())
    lost = n - len(rows)
    sound = not (wrong_u or wrong_e or lost)
    return Check(
        name="stores joined by episode",
        did=f"two stores of your {n} episodes written in different orders, and joined",
        expected="every row beside its own episode",
        found="every row is" if sound else f"{wrong_u} rows of u and {wrong_e} of e beside another, {lost} lost",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. u and e of different episodes are compared",
        numbers={"episodes": n, "wrong_u": wrong_u, "wrong_e": wrong_e, "lost": lost},
    )
