"""Success against failure in sentences, each computed from the numbers of one row."""

import numpy as np
import pandas as pd

__all__ = ["contrast_sentences"]

_LEVEL = 0.05


def contrast_sentences(rows: pd.DataFrame) -> tuple[str, ...]:
    """One sentence or two for each contrast over all episodes, with what stays of it within tasks.

    - A difference is called shown where p (flips of whole instructions, Holm over the table) is below 0.05.
    - Otherwise none is shown, and the sentence says from which size on one would have been seen.
    - Where a shown difference is not shown within tasks too, task difficulty may explain it, and the sentence says so.
    """
    key = ["understanding", "execution", "source_e", "holdout", "side", "mode"]
    found = []
    for values, both in rows.groupby(key, sort=False):
        whole, inside = (both[both["where"] == where] for where in ("all", "within tasks"))
        if len(whole):
            found.append(_sentence(dict(zip(key, map(str, values), strict=True)), whole.iloc[0], inside))
    return tuple(found)


def _sentence(names: dict[str, str], row: pd.Series, inside: pd.DataFrame) -> str:
    where = (
        f"{names['understanding']} with {names['execution']} ({names['source_e']}, step {row['step_e']}; "
        f"{names['holdout']} held out; {names['side']}, {names['mode'].replace('-', ' ')})"
    )
    if not np.isfinite(row["p_holm"]):
        return f"{where}: success and failure cannot be compared: {row['note']}."
    size = f"{100 * row['difference']:+.1f} points ({100 * row['ci_low']:+.1f} to {100 * row['ci_high']:+.1f})"
    if row["p_holm"] >= _LEVEL:
        seen = f"; one of {100 * row['detectable']:.0f} points would mostly have been seen"
        return f"{where}: no difference between success and failure is shown: {size}, p {row['p_holm']:.2g}{seen}."
    more = "more" if row["difference"] > 0 else "less"
    text = f"{where}: successes align {more} than failures: {size}, p {row['p_holm']:.2g}"
    if inside.empty or not np.isfinite(inside.iloc[0]["p_holm"]):
        return f"{text}; within tasks it could not be tested."
    other = inside.iloc[0]
    within = f"{100 * other['difference']:+.1f} points, p {other['p_holm']:.2g}"
    if other["p_holm"] < _LEVEL and np.sign(other["difference"]) == np.sign(row["difference"]):
        return f"{text}; within tasks too ({within})."
    return f"{text}; within tasks it is not shown ({within}), so which tasks are hard may explain it."
