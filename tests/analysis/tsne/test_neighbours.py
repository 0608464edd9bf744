import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.tsne.embedding import TsneConfig, nearest_across
from mnprobe.analysis.tsne.inputs import shared_space
from mnprobe.analysis.tsne.maps import TsneInput, draw_tsne
from mnprobe.probe import load_pair

QUICK = TsneConfig(iterations=5, exaggeration_iterations=5)


def _unit(generator, shape):
    values = generator.standard_normal(shape)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("number", [4, 40, 700])
def test_neighbors_are_those_of_a_slow_loop(number):
    generator = np.random.default_rng(number)
    z_u, z_e = _unit(generator, (number, 6)), _unit(generator, (number, 6))
    ids = [f"episode {i}" for i in range(number)]
    tables = nearest_across(z_u, z_e, ids)
    for table, queries, gallery in zip(tables, (z_u, z_e), (z_e, z_u), strict=True):
        for i in range(0, number, max(1, number // 20)):
            cosines = [float(queries[i] @ other) for other in gallery]
            best = sorted(range(number), key=lambda j: -cosines[j])
            row = table.iloc[i]
            assert [row[f"neighbour_{k}"] for k in (1, 2, 3)] == [ids[j] for j in best[:3]]
            assert [row[f"cosine_{k}"] for k in (1, 2, 3)] == pytest.approx([cosines[j] for j in best[:3]])
            assert row["own_cosine"] == pytest.approx(cosines[i])
            assert row["own_rank"] == best.index(i) + 1


def test_ties_of_the_own_counterpart_count_half():
    table, _ = nearest_across(np.ones((4, 1)), np.ones((4, 1)), list("abcd"))
    assert table["own_rank"].tolist() == [2.5] * 4


def test_the_table_of_a_tsne_names_them_with_source_and_step(tmp_path, write_pair, many_instructions):
    pair = load_pair(*write_pair(tmp_path, many_instructions[:4], each=4, step=7))
    shared = shared_space(pair, heads=None, seed=QUICK.seed)
    draw_tsne([TsneInput(pair=pair)], stem=tmp_path / "t", table=tmp_path / "t.csv", config=QUICK)
    table = pd.read_csv(tmp_path / "t.csv")
    nearest = pair.episodes["id"].to_numpy()[np.argmax(shared.z_u @ shared.z_e.T, axis=1)]
    assert table[table["side"] == "understanding"]["neighbour_1"].tolist() == nearest.tolist()
    assert set(table["source"]) == {"demos"}
    assert set(table["step"]) == {7}
    draw_tsne([TsneInput(pair=pair)], stem=tmp_path / "r", table=tmp_path / "r.csv", space="raw", config=QUICK)
    raw = pd.read_csv(tmp_path / "r.csv").columns
    assert "neighbour_1" not in raw
    assert "step" in raw
