"""`align` on feature stores: reads pairs of files, resumes the table, saves it after every measurement."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mnprobe.core.files import update_table
from mnprobe.features import open_features
from mnprobe.probe.align import align_into, in_order
from mnprobe.probe.balance import SETTINGS
from mnprobe.probe.config import AlignConfig
from mnprobe.probe.join import PIXELS, StoredPair
from mnprobe.probe.pairs import Pair, pair_across, pair_files
from mnprobe.probe.rows import IDENTITY, read_alignment, to_frame, write_alignment
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
    kept = _Kept(table)

    def save(frame: pd.DataFrame, fresh: pd.DataFrame) -> None:
        record()
        kept.save(frame, fresh)

    mine = align_into(
        save,
        pairs,
        config,
        n_jobs=n_jobs,
        previous=kept.whole,
        heads=heads,
        hits=hits,
        every=_SAVE_EVERY,
        quiet=quiet,
    )
    with suppress(OSError):  # all was kept, and a run that cannot be written to need not be
        record()
    kept.whole.attrs["notes"] = mine.attrs["notes"]
    return _asked(mine, pairs, config), kept.whole


class _Kept:
    """The table on disk, which other commands may change while this one measures.

    What they write stays, except rows of the very measurements that this command finishes after them.

    Attributes:
        whole: the table, as it was when it was last read or written here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _state(path)  # first, so that what is written meanwhile counts as new
        self.whole = read_alignment(path) if path.is_file() else to_frame([])
        self._begin: set[_Key] | None = set(_keys(self.whole, _MEASUREMENT))

    def save(self, frame: pd.DataFrame, fresh: pd.DataFrame) -> None:
        """Write the rows in `fresh`; `frame` lacks the rows of the beginning that are no longer valid, which go."""
        gone: set[_Key] = set()
        if self._begin is not None:
            stay = set(_keys(frame, _MEASUREMENT)).difference(_keys(fresh, _MEASUREMENT))
            gone, self._begin = self._begin.difference(stay), None
        done = set(_keys(fresh, IDENTITY))

        def change(table: pd.DataFrame) -> pd.DataFrame:
            keys = zip(_keys(table, _MEASUREMENT), _keys(table, IDENTITY), strict=True)
            stays = [measurement not in gone and identity not in done for measurement, identity in keys]
            return in_order(table[np.array(stays, dtype=bool)], fresh)

        def write(path: Path, table: pd.DataFrame) -> None:
            write_alignment(path, table)
            self._state = _state(path)

        self.whole = update_table(self._path, self._read, change, write)

    def _read(self, path: Path) -> pd.DataFrame:
        """The table as it is now; read only where another process has written since."""
        if _state(path) == self._state:
            return self.whole
        return read_alignment(path) if path.is_file() else to_frame([])


_Key = tuple[object, ...]
_MEASUREMENT = (*IDENTITY, "config_hash", "features_hash")


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> list[_Key]:
    return list(table[list(columns)].itertuples(index=False, name=None))


def _state(path: Path) -> tuple[int, ...]:
    """Changes whenever the file is written; empty where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


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
