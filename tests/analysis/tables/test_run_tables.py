import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from mnprobe.analysis.audit.findings import findings
from mnprobe.analysis.report.comparison import set_side_by_side
from mnprobe.analysis.tables.rollouts import SUCCESS
from mnprobe.analysis.tables.run_tables import RunTables
from mnprobe.cli.main import main
from mnprobe.core.errors import ProbeError
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import TableSchema, read_cells

GOLDEN = Path(__file__).parents[2] / "golden" / "run-tables"


def _run(folder):
    (folder / "results").mkdir(parents=True)
    shutil.copy(GOLDEN / "run.toml", folder)
    for path in GOLDEN.glob("*.csv"):
        shutil.copy(path, folder / "results")
    return RunDir(folder)


@pytest.fixture
def reads(monkeypatch):
    """Counts by file what is read as text, and what is parsed by a schema."""
    counts = {"text": Counter(), "schema": Counter()}
    parse = TableSchema.parse

    def counted_cells(path):
        counts["text"][str(path)] += 1
        return read_cells(path)

    def counted_parse(self, path, cells, **options):
        counts["schema"][str(path)] += 1
        return parse(self, path, cells, **options)

    for module in ("mnprobe.core.table", "mnprobe.analysis.tables.run_tables"):
        monkeypatch.setattr(f"{module}.read_cells", counted_cells)
    monkeypatch.setattr(TableSchema, "parse", counted_parse)
    return counts


def test_one_report_reads_each_table_once(tmp_path, reads, capsys):
    run = _run(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(["report", "--run", str(run.path)])
    assert ended.value.code == 0
    assert f"wrote {run.report}" in capsys.readouterr().out
    assert reads["text"] == Counter(str(path) for path in (run.path / "results").glob("*.csv"))
    assert reads["text"][str(run.results("alignment"))] == reads["schema"][str(run.results("alignment"))] == 1
    assert set(reads["schema"].values()) == {1}


def test_a_comparison_of_runs_reads_each_run_s_tables_once(tmp_path, reads):
    runs = [_run(tmp_path / name) for name in ("a", "b")]
    set_side_by_side(runs)
    assert {reads["text"][str(run.results("alignment"))] for run in runs} == {1}
    assert set(reads["schema"].values()) == {1}


def test_sections_get_the_same_table_and_a_damaged_one_fails_each_time(tmp_path, reads):
    run = _run(tmp_path / "run")
    tables = RunTables.load(run)
    assert not reads["text"]  # lazy
    assert tables.alignment is tables.alignment
    assert RunTables.load(tables) is tables
    assert [one.sentences for one in findings(tables)] == [one.sentences for one in findings(run)]
    assert RunTables.load(run).alignment is not tables.alignment
    run.results("success").write_text("a,b\n1,2\n")
    tables = RunTables.load(run)
    before = reads["text"][str(run.results("success"))]
    for _ in range(2):
        with pytest.raises(ProbeError, match="lacks the columns world, model, "):
            tables.table(SUCCESS)
    assert reads["text"][str(run.results("success"))] == before + 1
    run.results("success").unlink()
    assert RunTables.load(run).table(SUCCESS) is None


def test_no_section_changes_a_table_that_others_see(tmp_path):
    run = _run(tmp_path / "run")
    tables = RunTables.load(run)
    before = tables.alignment.copy(deep=True)
    findings(tables)
    pd.testing.assert_frame_equal(tables.alignment, before)
