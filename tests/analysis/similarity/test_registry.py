"""Indices by name, their options from text, and one of a user's own, installed as a plugin would be."""

import numpy as np
import pytest

from mnprobe.analysis.similarity import INDICES, make_index, parse_options, similarity_test
from mnprobe.core.errors import ConfigError

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar

from mnprobe.analysis.similarity import About, MatrixIndex


@dataclass(frozen=True, kw_only=True)
class Signs(MatrixIndex):
    power: int = 1

    about: ClassVar[About] = About(
        name="signs", title="signs", symbol="signs", formula="cos(sign K, sign L)", low=-1, high=1,
        invariances=frozenset({"scale"}), source="a test", smallest=3,
    )

    def matrix(self, values):
        import numpy as np

        return np.sign(values @ values.T) ** self.power
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed distribution that names an index under the entry-point group."""
    (tmp_path / "signs_of_mine.py").write_text(PLUGIN)
    about = tmp_path / "signs_of_mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: signs-of-mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mnprobe.indices]\nsigns = signs_of_mine:Signs\nnone = pathlib:Path\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_users_own_index_is_known_by_name_with_its_null(plugin, sides):
    assert "signs" in INDICES.names()
    index = make_index("signs", parse_options("signs", ["power=3"]))
    assert index.options() == {"power": 3}
    assert similarity_test(index, *sides[:2], permutations=99).p == 0.01


def test_what_is_no_index_is_refused(plugin):
    with pytest.raises(ConfigError, match="no subclass of Index"):
        make_index("none")


def test_unknown_names_and_options_suggest_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'debiased_cka'"):
        make_index("debiased-cka")
    with pytest.raises(ConfigError, match="Did you mean 'variance'"):
        make_index("svcca", {"varianse": 0.9})
    with pytest.raises(ConfigError, match="'cka' has no options, got 'k'"):
        make_index("cka", {"k": 3})


def test_options_are_read_with_their_types():
    assert parse_options("mutual_knn", ["k=7", "outside=TRUE"]) == {"k": 7, "outside": True}
    assert parse_options("rsa", ["distance=euclidean"]) == {"distance": "euclidean"}
    assert make_index("infonce", parse_options("infonce", ["steps=30", "preset=mirror"])).options()["steps"] == 30
    for text, message in (("k", "name=value"), ("k=x", "a whole number, got 'x'"), ("outside=2", "true or false")):
        with pytest.raises(ConfigError, match=message):
            parse_options("mutual_knn", [text])


@pytest.mark.parametrize("name", INDICES.names())
def test_every_option_arrives(name, sides):
    """Changing an option changes the value, or the null that comes with it."""
    changed = {
        "minibatch_cka": {"batch": 8, "passes": 2, "seed": 5},
        "rbf_cka": {"width": 0.3, "debiased": False},
        "mutual_knn": {"k": 3, "outside": True},
        "cknna": {"k": 4, "outside": True},
        "svcca": {"variance": 0.6},
        "pwcca": {"variance": 0.6},
        "rsa": {"distance": "euclidean", "correlation": "pearson"},
        "ridge_cca": {"pcs": 2, "dims": 2, "ridge": 5.0, "folds": 3, "seed": 2},
        "infonce": {"steps": 30, "preset": "mirror", "dim": 8, "tau": 0.5, "batch": 3, "draws": 4, "seed": 2},
    }.get(name, {})
    x, y, _, groups = sides
    base = {"batch": 16} if name == "minibatch_cka" else {"steps": 60, "dim": 32} if name == "infonce" else {}
    index = make_index(name, base)
    assert set(changed) == set(index.options())
    before = index.score(x, y, groups)
    for option, value in changed.items():
        other = make_index(name, base | {option: value})
        assert other.options()[option] == value
        assert not np.isclose(other.score(x, y, groups), before, atol=1e-9), option
