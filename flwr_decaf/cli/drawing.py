"""The commands that draw what a run would use: its graph, and the partition of its data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flwr_decaf.cli.console import console, errors, errors_in_one_line

if TYPE_CHECKING:
    from flwr_decaf.config import Value


def topology(  # noqa: PLR0913 - one argument per option
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Families, or JSON files with graphs; omit for base graphs."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="Number of nodes.", min=1)] = 10,
    weights: Annotated[str, typer.Option(help="Rule for the mixing weights.")] = "metropolis",
    seed: Annotated[int, typer.Option(help="Seed of random graphs.")] = 0,
    edge_probability: Annotated[
        float, typer.Option(help="Probability of an edge in random graphs.")
    ] = 0.5,
    degree: Annotated[
        int, typer.Option(help="Degree of random regular graphs and small worlds.")
    ] = 4,
    dynamic: Annotated[str, typer.Option(help="How the graph of each round is drawn.")] = "static",
    activation_probability: Annotated[
        float, typer.Option(help="Probability of an edge in edge-activation.")
    ] = 0.5,
    peers: Annotated[
        int, typer.Option(help="Maximum number of neighbours per round in base graphs.")
    ] = 1,
    mixing_steps: Annotated[str, typer.Option(help="Number of mixes in a round, or period.")] = "1",
    adapter_mb: Annotated[float, typer.Option(help="Size of one post in MB.", min=0)] = 1.0,
    output: Annotated[Path, typer.Option(help="File for the drawing.")] = Path("topology.png"),
) -> None:
    """Draw graphs, and tabulate how fast they reach consensus and how much traffic they need."""
    from flwr_decaf.cli.machine import check_matrix_fits
    from flwr_decaf.cli.networks import (
        check_options_apply,
        compare,
        networks_by_name,
        steps_lines,
        time_varying_lines,
    )
    from flwr_decaf.report.topology import save_topologies

    settings: dict[str, Value] = {
        "topology.weights": weights,
        "topology.seed": seed,
        "topology.edge-probability": edge_probability,
        "topology.degree": degree,
        "topology.dynamic": dynamic,
        "topology.activation-probability": activation_probability,
        "topology.peers": peers,
        "mixing-steps": mixing_steps,
    }
    given = {name for name in context.params if _is_given(context, name)}
    with errors_in_one_line():
        check_options_apply(names or [], dynamic, given)
        check_matrix_fits(nodes)
        # Shown only in a terminal: the eigenvalues for thousands of nodes take a while.
        with errors.status(f"Computing the eigenvalues of {nodes} x {nodes} matrices"):
            networks = networks_by_name(names or [], settings, nodes)
            lines = time_varying_lines(networks, dynamic) + steps_lines(networks, mixing_steps)
            table, drawn = compare(networks, dynamic, adapter_mb * 1e6)
        with errors.status("Drawing"):
            save_topologies(drawn, output)
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)
    console.print(f"Picture: {output}", soft_wrap=True)


def data(
    conf: Annotated[
        Path, typer.Argument(help="TOML file with settings, or the name of an experiment: ring.")
    ],
    nodes: Annotated[int, typer.Option(help="Number of nodes.", min=1)] = 10,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting, e.g. data.alpha=0.1.")
    ] = None,
    output: Annotated[Path, typer.Option(help="File for the drawing.")] = Path("data.png"),
) -> None:
    """Tabulate and draw how the training rows are split over the nodes."""
    from flwr_decaf.cli.packaged import settings_file
    from flwr_decaf.cli.splits import first_run, split_table
    from flwr_decaf.data.partitions import describe_split
    from flwr_decaf.report.split_plot import save_split

    with errors_in_one_line():
        config = first_run(settings_file(conf), settings or [], nodes)
        with errors.status("Loading the data"):
            split = describe_split(config.data, nodes, config.seed)
        save_split(split.classes, split.counts, output)
    console.print(split_table(split))
    console.print(f"Picture: {output}", soft_wrap=True)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
