"""CSV tables of a finished run, made by an earlier version: read and written again, bytes and values are the same."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mnprobe.features.recognition.tables import PREDICTIONS, RECOGNITION
from mnprobe.probe.results import read_alignment, write_alignment

GOLDEN = Path(__file__).parents[1] / "golden" / "run-tables"

TABLES = {
    "alignment": (read_alignment, write_alignment),
    "predictions": (PREDICTIONS.read, PREDICTIONS.write),
    "recognition": (RECOGNITION.read, RECOGNITION.write),
}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_of_an_earlier_version_is_written_again_with_the_same_bytes(name, tmp_path):
    read, write = TABLES[name]
    source = GOLDEN / f"{name}.csv"
    table = read(source)
    write(tmp_path / source.name, table)
    assert (tmp_path / source.name).read_bytes() == source.read_bytes()
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(table) > 0
    assert list(rows[0]) == list(table.columns)
    for column in table.columns:
        cells = [row[column] for row in rows]
        values = table[column].tolist()
        if table[column].dtype == bool:
            assert cells == [str(value) for value in values]
        elif table[column].dtype == np.int64:
            assert [int(cell) for cell in cells] == values
        elif table[column].dtype == np.float64:
            np.testing.assert_array_equal([float(cell or "nan") for cell in cells], values)  # every digit
        else:
            assert cells == values
