from __future__ import annotations

import numpy as np
import pytest

from flwr_decaf.report.plots import PLOTS, draw
from flwr_decaf.report.split_plot import draw_split
from flwr_decaf.report.style import looks
from flwr_decaf.report.topology import save_topologies, topology_table
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix, lambda2
from tests.report.conftest import write_run


def line(figure, panel, label):
    return next(x for x in figure.axes[panel].get_lines() if x.get_label() == label)


def test_accuracy_is_the_mean_over_seeds_for_mean_and_worst_node(comparison):
    figure = draw("over-rounds", comparison)
    mean, worst = line(figure, 0, "decaf"), line(figure, 1, "decaf")
    np.testing.assert_allclose(mean.get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(mean.get_ydata(), [0.15, 0.45, 0.75])
    np.testing.assert_allclose(worst.get_ydata(), [0.15, 0.35, 0.65])
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.1, 0.8))  # the range over the seeds


def test_a_single_run_shows_its_nodes(comparison):
    lines = draw("over-rounds", comparison[:1]).axes[0].get_lines()
    drawn = sorted(tuple(line.get_ydata()) for line in lines)
    np.testing.assert_allclose(drawn, [(0.1, 0.3, 0.6), (0.1, 0.4, 0.7), (0.1, 0.5, 0.8)])


def test_traffic_is_cumulative(comparison):
    figure = draw("over-bytes", comparison)
    np.testing.assert_allclose(line(figure, 0, "fedavg").get_xdata(), [0, 4, 8])


def test_time_is_that_of_the_evaluations(comparison):
    figure = draw("over-seconds", comparison)
    np.testing.assert_allclose(line(figure, 0, "fedavg").get_xdata(), [0, 10, 20])


def test_the_heat_map_has_a_row_per_node_and_a_column_per_evaluation(comparison):
    figure = draw("by-node", comparison)
    image = figure.axes[0].get_images()[0]
    np.testing.assert_allclose(image.get_array(), [[0.1, 0.3, 0.6], [0.1, 0.5, 0.8]])
    assert image.get_clim() == (0.1, 0.8)  # one scale for all methods
    assert [axes.get_title() for axes in figure.axes[:2]] == ["decaf", "fedavg"]


def test_lines_are_named_at_their_ends_and_a_single_method_is_not(comparison):
    figure = draw("over-rounds", comparison)
    names = {text.get_text() for text in figure.axes[1].texts}
    assert names == {line.get_label() for line in figure.axes[1].get_lines()}
    assert not figure.legends
    assert not draw("over-rounds", comparison[:1]).axes[1].texts


def test_names_that_do_not_fit_beside_the_plot_are_in_a_legend(tmp_path):
    modules = {f"runs-{i}": f"encoder.attention.query.{i}" for i in range(2)}
    folders = [
        write_run(tmp_path / run, "decaf", **{"lora.target-modules": value})
        for run, value in modules.items()
    ]
    figure = draw("over-rounds", folders)
    assert len(figure.legends[0].get_texts()) == 2
    assert not figure.axes[1].texts


def test_every_plot_says_how_to_read_it():
    assert all(plot.caption.endswith(".") for plot in PLOTS.values())


def test_consensus_is_drawn_on_a_logarithmic_scale(comparison):
    figure = draw("consensus", comparison)
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log"]
    np.testing.assert_allclose(line(figure, 0, "decaf").get_ydata(), [3, 6])


def test_the_parts_of_the_time_add_up_to_the_wall_time(comparison):
    figure = draw("time", comparison)
    widths = [container[0].get_width() for container in figure.axes[0].containers]
    # 20 s for two rounds of two nodes in two processes: 10 s per node and round
    assert widths == pytest.approx([3.0, 0.5, 1.0, 5.5])


def test_the_graph_shows_every_node(comparison):
    figure = draw("graph", comparison)
    assert figure.axes[0].get_title() == "decaf"
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0", "1"]


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_works_for_a_run_that_has_just_started(name, tmp_path):
    figure = draw(name, [write_run(tmp_path / "r", "fedavg", rounds=0)])
    assert figure is None or figure.axes


def test_a_method_keeps_its_colour():
    alone, among = looks(["dlora"])["dlora"], looks(["decaf", "dlora, rank 2", "dlora, rank 4"])
    assert alone.colour == among["dlora, rank 2"].colour == among["dlora, rank 4"].colour
    assert among["decaf"].colour != alone.colour
    assert among["dlora, rank 2"].dashes != among["dlora, rank 4"].dashes


def test_graphs_are_tabulated_and_drawn(tmp_path):
    networks = {name: build_mixing_matrix(name, 10) for name in ("ring", "star")}
    rates = {name: lambda2(w) for name, w in networks.items()}
    table = topology_table(networks, rates, adapter_bytes=2e6)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["lambda2"] == ["0.8727", "0.9000"]
    assert columns["degree"] == ["2", "1 to 9"]
    assert columns["MB/round\nbusiest"] == ["4.00", "18.00"]
    assert columns["MB/round\nall"] == ["40.00", "36.00"]
    assert columns["rounds to\nshrink 1000x"] == ["51", "66"]
    save_topologies(networks, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_a_split_is_drawn_as_a_bar_of_classes_per_node(tmp_path):
    counts = [[3, 0, 1], [2, 5, 0]]
    figure = draw_split(["a", "b", "c"], counts)
    (axes,) = figure.axes
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    assert heights == [[3, 2], [0, 5], [1, 0]]
    bottoms = [[bar.get_y() for bar in container] for container in axes.containers]
    assert bottoms == [[0, 0], [3, 2], [3, 7]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["c", "b", "a"]
    folder = write_run(tmp_path / "run", "decaf")
    assert draw("split", [folder]) is None
    folder.update(split={"classes": ["rows"], "counts": [[4], [7]]})
    (axes,) = draw("split", [folder]).axes
    assert [bar.get_height() for bar in axes.patches] == [4, 7]
    assert axes.get_legend() is None
