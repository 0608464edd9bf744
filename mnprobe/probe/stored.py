"""`align` on feature stores: reads pairs of files, resumes the table, saves it after every measurement."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mnprobe.features import open_features
from mnprobe.probe.align import align
from mnprobe.probe.balance import SETTINGS
from mnprobe.probe.config import AlignConfig
from mnprobe.probe.join import PIXELS, StoredPair
from mnprobe.probe.pairs import Pair, pair_across, pair_files
from mnprobe.probe.rows import read_alignment, write_alignment
from mnprobe.probe.settings import check_settings, record_settings

__all__ = ["align_stores"]

_SAVE_EVERY = 5.0  # seconds; a killed run loses no more than what was measured in them


def align_stores(
    stored: Sequence[StoredPair],
    config: AlignConfig | None = None,
    *,
    table: Path,
    heads: Path | None = None,
    hits: Path | None = None,
    layer_u: str | None = None,
    layer_e: str | None = None,
    pool_u: str = "mean",
    pool_e: str = "mean",
    episodes: Literal["all", "shared"] = "all",
    n_jobs: int = 1,
    quiet: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure pairs of feature stores and keep the result in `table` (CSV), which is whole at any moment.

    It is written every few seconds, and at the end, also when the run is interrupted.

    Where `table` lies in a run, its run.toml says under [align] with which settings it was measured.

    What `table` holds already is kept where settings and features are the same, replaced where they changed, and left
    alone where it is about something else. See `align` and `pair_files` for the other arguments and the errors.

    Returns the rows of these pairs and settings, and the whole table; the first has `attrs["notes"]`.
    """
    config = config or AlignConfig()

    @cache  # demonstrations that fit the heads for rollouts are measured themselves as well
    def read(path_u: Path, path_e: Path) -> Pair:
        with open_features(path_u) as file_u, open_features(path_e) as file_e:
            control = file_u.model == PIXELS
            return pair_files(
                file_u,
                file_e,
                layer_u=None if control else layer_u,
                layer_e=layer_e,
                pool_u="mean" if control else pool_u,
                pool_e=pool_e,
                episodes=episodes,
            )

    pairs: list[Pair] = []
    for item in stored:
        pair = read(item.u, item.e)
        if item.fit_u is not None and item.fit_e is not None:
            pair = pair_across(read(item.fit_u, item.fit_e), pair)
        pairs.append(pair)
    check_settings(table)
    record = cache(lambda: record_settings(table, config, pairs, episodes=episodes))

    def save(frame: pd.DataFrame) -> None:
        record()
        write_alignment(table, frame)

    previous = read_alignment(table) if table.is_file() else None
    whole = align(
        pairs,
        config,
        n_jobs=n_jobs,
        previous=previous,
        heads=heads,
        hits=hits,
        on_rows=save,
        every=_SAVE_EVERY,
        quiet=quiet,
    )
    with suppress(OSError):  # all was kept, and a run that cannot be written to need not be
        record()
    return _asked(whole, pairs, config), whole


def _asked(whole: pd.DataFrame, pairs: Sequence[Pair], config: AlignConfig) -> pd.DataFrame:
    wanted = {_key(pair) for pair in pairs}
    names = ["understanding", "source_u", "step_u", "layer_u", "pool_u"]
    names += ["execution", "source_e", "step_e", "layer_e", "pool_e", "features_hash", "fit_source"]
    own = np.array([key in wanted for key in whole[names].itertuples(index=False, name=None)], dtype=bool)
    rows = whole[own & (whole["config_hash"] == config.digest())]
    rows = rows[rows["holdout"].isin(config.holdouts)]
    asked = SETTINGS if config.split == "success" else (config.split,)
    rows = rows[rows["split"].isin(asked)]
    if config.split != "all":
        rows = rows[rows["mode"].isin(config.modes)]
    if not config.shuffled:
        rows = rows[rows["control"] == "none"]
    rows = rows.reset_index(drop=True)
    rows.attrs["notes"] = whole.attrs["notes"]
    return rows


def _key(pair: Pair) -> tuple[object, ...]:
    u, e = pair.origin_u, pair.origin_e
    sides = ((origin.model, origin.source, origin.step, origin.layer, origin.pool) for origin in (u, e))
    return (*next(sides), *next(sides), pair.digest(), pair.fit_source or u.source)
