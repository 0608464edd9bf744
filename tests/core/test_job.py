import json
import subprocess
import sys

import pytest

from mnprobe.core.errors import CheckpointError, ConfigError, DataError, FeatureError
from mnprobe.core.job import JobRecord, differences, exclusive, in_turn, read_record
from mnprobe.core.provenance import config_hash

CONFIGS = [
    {},
    {"seed": 1},
    {"seed": 2},
    {"seed": True},
    {"seed": "1"},
    {"seed": [1]},
    {"seed": [1, 2]},
    {"seed": {"of": 1}},
    {"seed": {"of": {"all": 1}}, "size": 3},
    {"seed": {"of": {"all": 1, "each": False}}, "size": 3},
    {"seed": {"of": {"all": 1, "each": 0}}, "size": 3},
    {"": 1, "a.b": 2, "a": {"b": 3}},
    {"text": "x" * 200},
    {"text": "x" * 199 + "y"},
    {"text": "x" * 201},
    {"number": float("nan")},
]


@pytest.fixture
def job(tmp_path):
    def make(**given):
        config = given.pop("config", {"seed": 1, "size": {"width": 8}})
        given = {"what": "the study", "remedy": "add --name"} | given
        return JobRecord(path=tmp_path / "job" / "config.json", config=config, **given)

    return make


@pytest.mark.parametrize("old", CONFIGS)
def test_there_are_no_differences_exactly_where_configurations_are_equal(old):
    copy = json.loads(json.dumps(old))
    assert differences(old, copy) == []
    for new in CONFIGS:
        assert (differences(old, new) == []) == (new is old), (old, new)


@pytest.mark.parametrize("old", CONFIGS)
@pytest.mark.parametrize("new", CONFIGS)
def test_differences_name_the_same_keys_in_both_directions(old, new):
    there, back = (differences(*pair) for pair in ((old, new), (new, old)))
    assert [text.split(" was ")[0] for text in there] == [text.split(" was ")[0] for text in back]
    for text, reverse in zip(there, back, strict=True):
        before, after = text.split(" was ")[1].split(", now ")
        assert reverse.endswith(f" was {after}, now {before}")
        assert before != after


def test_differences_name_nested_keys_in_order_with_both_values():
    old = {"b": {"y": 1, "x": {"deep": "a"}}, "a": [1, 2], "same": {"k": 0}}
    new = {"b": {"y": 2, "x": {"deep": "b"}, "z": None}, "a": (1, 2, 3), "same": {"k": 0}, "c": {"new": 1}}
    assert differences(old, new) == [
        "a was [1, 2], now [1, 2, 3]",
        "b.x.deep was 'a', now 'b'",
        "b.y was 1, now 2",
        "c was None, now {'new': 1}",
    ]
    assert differences(old["a"], [3], "sizes") == ["sizes was [1, 2], now [3]"]
    assert differences(None, {"a": 1}) == ["the configuration was None, now {'a': 1}"]


def test_what_json_does_not_tell_apart_is_equal():
    assert differences({"a": (1, (2, "x")), "b": None, "1": 2}, {"a": [1, [2, "x"]], 1: 2.0, "c": None}) == []


@pytest.mark.parametrize("same", [0, 10, 56, 57, 60, 61, 500])
@pytest.mark.parametrize(("end", "other"), [("left", "right"), ("", "more"), ("p" * 90, "q" * 90)])
def test_long_values_are_shortened_where_they_still_differ(same, end, other):
    [text] = differences({"key": "x" * same + end}, {"key": "x" * same + other})
    before, after = text.removeprefix("key was ").split(", now ")
    assert max(len(before), len(after)) <= 60
    assert before != after
    assert differences({"key": "a" * 100}, {"key": 1}) == ["key was '" + "a" * 56 + "..., now 1"]


def test_the_status_follows_the_folder(job):
    done = False
    asked = job(finished=lambda: done)
    assert asked.status == asked.check() == "missing"
    asked.write()
    assert asked.status == asked.check() == "partial"
    done = True
    assert asked.status == asked.check() == "done"
    assert job(config={"seed": 2}, finished=lambda: done).status == "stale"
    asked.path.unlink()
    assert asked.status == "missing"


@pytest.mark.parametrize("error", [ConfigError, FeatureError])
def test_another_configuration_is_one_error_with_what_differs_and_what_to_do(job, error):
    job().write()
    other = job(config={"seed": 1, "size": {"width": 9, "height": 2}}, error=error)
    with pytest.raises(error) as caught:
        other.check()
    assert str(caught.value) == (
        f"{other.path}: the study was made with another configuration (size.height was None, now 2; size.width was 8, "
        "now 9); use the recorded one, or add --name"
    )
    with pytest.raises(error, match=r"size\.width was 1, now 9\); use the recorded one, or add --name"):
        other.check_config({"seed": 1, "size": {"width": 1, "height": 2}})
    other.check_config(dict(other.config))
    many = job(config={f"k{i:02d}": i for i in range(11)})
    with pytest.raises(ConfigError, match=r"\(k00 was None, now 0; .*; k07 was None, now 7; and 5 more\)"):
        many.check()


def test_a_file_that_carries_another_hash_is_the_same_error(job, tmp_path):
    asked = job()
    asked.check_digest(config_hash({"size": {"width": 8}, "seed": 1}), tmp_path / "state.pt", remedy="remove it")
    with pytest.raises(ConfigError) as caught:
        asked.check_digest("0", tmp_path / "state.pt", remedy="remove it")
    assert str(caught.value) == (
        f"{tmp_path / 'state.pt'}: this file of the study was made with another configuration (config_hash was '0', "
        f"now '{asked.digest}'); remove it"
    )
    with pytest.raises(CheckpointError, match=r"config_hash was None"):
        asked.check_digest(None, tmp_path / "state.pt", remedy="remove it", error=CheckpointError)


def test_exact_records_tell_apart_what_hashes_tell_apart(job):
    job(config={"a": 1, "b": None}).write()
    for config in ({"a": 1.0, "b": None}, {"a": 1}):
        assert job(config=config).status == "partial"
        with pytest.raises(ConfigError, match="another configuration"):
            job(config=config, exact=True).check()
    assert job(config={"b": None, "a": 1}, exact=True).check() == "partial"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[1]", "indices must be"),
        ("{}", "'asked'"),
        ("\xff", "codec"),
        ('{"asked": 3}', "not int"),
        ("null", "not subscriptable"),
    ],
)
def test_a_damaged_record_is_named_with_what_to_do(job, content, reason):
    asked = job(entry="asked", error=DataError)
    asked.path.parent.mkdir()
    asked.path.write_bytes(content.encode("latin-1"))
    for look in (lambda: asked.status, asked.check, asked.recorded):
        with pytest.raises(DataError, match=rf"job.config\.json: damaged.*{reason}.*; add --name"):
            look()


def test_a_whole_record_that_is_no_object_is_damaged(job):
    job().path.parent.mkdir()
    job().path.write_text("[1]")
    with pytest.raises(ConfigError, match="an object is needed, not list"):
        read_record(job().path)


def test_records_are_written_whole_in_both_forms(job):
    config = {"b": 1, "a": {"d": 2, "c": 3}}
    job(config=config).write()
    path = job().path
    assert path.read_text() == json.dumps(config, indent=2, sort_keys=True) + "\n"
    entry = job(config=config, entry="asked")
    entry.write({"made": {"at": "now"}}, sort_keys=False)
    assert path.read_text() == json.dumps({"asked": config, "made": {"at": "now"}}, indent=2)
    assert entry.recorded() == config
    with pytest.raises(ValueError, match="Out of range"):
        job(config={"a": float("inf")}).write()
    assert entry.recorded() == config
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_reader_of_its_own_gives_the_recorded_configuration(job):
    read = []
    asked = job(read=lambda path: read.append(path) or {"seed": 3})
    assert asked.status == "missing"
    assert not read
    asked.write()
    assert asked.status == "stale"
    assert read == [asked.path]


HOLD = """
import sys
from pathlib import Path
from mnprobe.core.job import in_turn
with in_turn(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_another_process_holds_is_refused_or_waited_for(tmp_path):
    lock = tmp_path / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        text = rf"^{tmp_path}: another process is at work here \(process {holder.pid} on .*\); wait for it$"
        with (
            pytest.raises(DataError, match=text),
            exclusive(lock, tmp_path, doing="at work here", remedy="wait for it", error=DataError),
        ):
            pass
        told = []

        def end(who):
            told.append(who)
            holder.communicate()

        with in_turn(lock, waiting=end, leave=False):
            assert f"process {holder.pid} on" in told[0]
    finally:
        holder.kill()
        holder.communicate()
    assert not lock.exists()
