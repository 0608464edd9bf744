import hashlib
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image

from mnprobe.analysis.figures.style import PALETTE, house_style, new_figure, save_figure, shorten, wrap


def _figure(text="a title"):
    with house_style():
        figure = new_figure(3, 2)
        axes = figure.add_subplot()
        axes.plot([0, 1], [1, 0], color=PALETTE["blue"])
        axes.set_title(text)
    return figure


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first, second = save_figure(_figure(), tmp_path / "a"), save_figure(_figure(), tmp_path / "b")
    assert _digest(first.png) == _digest(second.png)
    assert _digest(first.svg) == _digest(second.svg)


def test_both_files_are_written_whole_with_the_sizes_asked_for(tmp_path):
    saved = save_figure(_figure(), tmp_path / "deep" / "a.b")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a.b.png", "a.b.svg"]
    with Image.open(saved.png) as image:
        assert image.size == (450, 300)
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert "Software" not in image.info


def test_svg_keeps_text_as_text_and_has_no_date(tmp_path):
    saved = save_figure(_figure("shape $x_1$ & <b>"), tmp_path / "a")
    tree = ElementTree.parse(saved.svg)
    texts = ["".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "shape $x_1$ & <b>" in texts
    assert "<dc:date>" not in saved.svg.read_text()


def test_control_characters_in_names_still_make_a_sound_svg(tmp_path):
    ElementTree.parse(save_figure(_figure("bell\x07 \udc80"), tmp_path / "a").svg)


def test_a_users_settings_neither_enter_nor_change(tmp_path):
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0}):
        ugly = save_figure(_figure(), tmp_path / "a")
        assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert _digest(ugly.png) == _digest(save_figure(_figure(), tmp_path / "b").png)


def test_pyplot_knows_of_no_figure(tmp_path):
    save_figure(_figure(), tmp_path / "a")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_the_palette_can_be_told_apart_without_red_or_green_cones():
    # Vienot, Brettel and Mollon (1999): deuteranope and protanope projections in linear RGB.
    import numpy as np

    def linear(color):
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return rgb**2.2

    deuteranope = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    protanope = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    names = ["blue", "vermillion", "green", "orange", "purple"]
    for view in (np.eye(3), deuteranope, protanope):
        seen = [np.clip(view @ linear(PALETTE[name]), 0, 1) ** (1 / 2.2) for name in names]
        gaps = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
        assert min(gaps) > 0.1


def test_wrapped_text_is_whole_and_no_line_is_wider_than_asked():
    text = "one two " + "x" * 300 + " three " + "word " * 40
    lines = wrap(text, 2.0, 7)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    probe = new_figure(1, 1)
    with house_style():
        widths = [probe.text(0, 0, line, fontsize=7).get_window_extent().width / probe.dpi for line in lines]
    assert 1.6 < max(widths) <= 2.0


def test_shortened_text_keeps_both_ends():
    short = shorten("begin " + "x" * 300 + " end", 1.5, 8)
    assert short.startswith("begin")
    assert short.endswith("end")
    assert "…" in short
    assert shorten("as it is", 1.5, 8) == "as it is"
