from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from flwr_decaf.report.end_labels import fit, spread, write_end_labels


def drawn(ends, scale="linear"):
    axes = Figure(figsize=(4, 4)).subplots()
    axes.set_yscale(scale)
    lines = {name: axes.plot([0, 1], [1.0, end])[0] for name, end in ends.items()}
    write_end_labels(axes, lines)
    return axes, lines


def test_names_are_at_the_ends_of_their_lines_in_their_colours():
    axes, lines = drawn({"a": 5.0, "b": 2.0})
    axes.set_ylim(axes.get_ylim())
    for text in axes.texts:
        low, high = axes.get_ylim()
        end = lines[text.get_text()].get_ydata()[-1]
        assert text.get_position()[1] == pytest.approx((end - low) / (high - low))
        assert text.get_color() == lines[text.get_text()].get_color()


def test_names_are_at_the_ends_on_logarithmic_scales():
    axes, _ = drawn({"a": 100.0, "b": 10.0}, scale="log")
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    low, high = np.log10(axes.get_ylim())
    assert heights["b"] == pytest.approx((1 - low) / (high - low))
    assert heights["a"] == pytest.approx((2 - low) / (high - low))


def test_lines_without_values_have_no_name_and_gaps_are_skipped():
    axes, _ = drawn({"a": np.nan, "b": 3.0})
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
    nothing = Figure().subplots()
    write_end_labels(nothing, {"c": nothing.plot([0, 1], [np.nan, np.nan])[0]})
    assert not nothing.texts


def test_overlapping_names_are_centred_on_where_they_were():
    # By hand: three at 0.5 spread by 0.1 around 0.5; the one at 0.9 stays.
    moved = spread(np.array([0.5, 0.9, 0.5, 0.5]), 0.1)
    np.testing.assert_allclose(moved, [0.4, 0.9, 0.5, 0.6])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_names_are_apart_and_keep_their_order(heights):
    moved = spread(np.array(heights), 0.07)
    assert (np.diff(np.sort(moved)) > 0.07 - 1e-9).all()
    assert (np.argsort(moved, kind="stable") == np.argsort(heights, kind="stable")).all()
    apart = np.diff(np.sort(heights)) >= 0.07
    if apart.all():
        np.testing.assert_allclose(moved, heights, atol=1e-12)


@pytest.mark.parametrize(
    ("names", "fits"),
    [([], True), (["decaf"] * 2, True), ([f"m{i}" for i in range(9)], False), (["x" * 40], False)],
)
def test_few_short_names_fit(names, fits):
    assert fit(dict.fromkeys(names)) is fits
