"""Projects like those in Flower's examples, made decentralized by two lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.apps import projects
from tests.local_grid import LocalGrid


def in_numpy(n, rounds):
    """Repeat a run of ``numpy_app`` on a ring: what is posted last, and what the nodes then mix."""
    w = build_mixing_matrix("ring", n)
    held = [projects.FIRST for _ in range(n)]
    for _ in range(rounds):
        posts = [projects.step(*held[node], node) for node in range(n)]
        held = [
            [sum(w[i, j] * posts[j][part] for j in range(n)) for part in range(2)] for i in range(n)
        ]
    return posts, held


@pytest.mark.parametrize("n", [1, 2, 5])
def test_arrays_of_numpy_without_torch(n):
    grid = LocalGrid(projects.numpy_app, n)
    strategy = DLoRA(fraction_train=1.0, fraction_evaluate=1.0)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(projects.FIRST), num_rounds=3)
    posts, held = in_numpy(n, rounds=3)
    for part, array in enumerate(result.arrays.to_numpy_ndarrays()):
        np.testing.assert_allclose(array, np.mean([post[part] for post in posts], axis=0))
    for node, state in strategy.collect(grid).items():
        for part, array in enumerate(state.values()):
            np.testing.assert_allclose(array.numpy(), held[node][part])
    share = np.array([projects.ROWS + node for node in range(n)]) / sum(
        projects.ROWS + node for node in range(n)
    )
    expected = share @ [projects.loss_of(*held[node], node) for node in range(n)]
    assert result.evaluate_metrics_clientapp[3]["test_loss"] == pytest.approx(expected)


def linear_loss(server_round, arrays):
    net = torch.nn.Linear(projects.INPUTS, projects.OUTPUTS)
    net.load_state_dict(arrays.to_torch_state_dict())
    x, y = (torch.tensor(part, dtype=torch.float32) for part in projects.rows_of(99))
    return MetricRecord({"loss": torch.nn.functional.mse_loss(net(x), y).item()})


def start_linear(strategy, rounds=3, **options):
    grid = LocalGrid(projects.torch_app, 4)
    torch.manual_seed(0)
    arrays = ArrayRecord(torch.nn.Linear(projects.INPUTS, projects.OUTPUTS).state_dict())
    given = {"initial_arrays": arrays, "num_rounds": rounds, "evaluate_fn": linear_loss}
    given["train_config"] = ConfigRecord({"lr": 0.1})
    return strategy.start(grid=grid, **given, **options), strategy.collect(grid)


def test_a_subclass_with_a_loop_of_its_own_gives_what_flower_s_loop_gives():
    strategy = projects.OwnLoop(fraction_train=1.0, fraction_evaluate=1.0)
    own, held = start_linear(strategy)
    assert own.train_metrics_clientapp[1]["lr"] == pytest.approx(0.1)
    assert own.train_metrics_clientapp[3]["lr"] == pytest.approx(0.05)  # its own schedule

    class Halving(DLoRA):
        def configure_train(self, server_round, arrays, config, grid):
            config = ConfigRecord({"lr": 0.1 if server_round == 1 else 0.05})
            return super().configure_train(server_round, arrays, config, grid)

    flower, same = start_linear(Halving())
    for node, state in same.items():
        assert all(torch.equal(held[node][name], tensor) for name, tensor in state.items())
    scores = flower.evaluate_metrics_serverapp
    assert [dict(score) for score in strategy.scored] == [dict(scores[t]) for t in (1, 2, 3)]
    for t in (1, 2, 3):
        losses = [result.evaluate_metrics_clientapp[t]["eval_loss"] for result in (own, flower)]
        assert losses[0] == losses[1]


def test_such_a_subclass_can_run_twice():
    strategy = projects.OwnLoop()
    _, first = start_linear(strategy)
    _, second = start_linear(strategy)
    assert all(torch.equal(first[3][name], second[3][name]) for name in first[3])


def test_a_loop_of_its_own_without_evaluation_collects_after_the_last_mix():
    strategy = projects.OwnLoop(fraction_evaluate=0.0)
    result, held = start_linear(strategy)
    assert not result.evaluate_metrics_clientapp
    _, evaluated = start_linear(projects.OwnLoop())
    assert all(torch.equal(held[2][name], evaluated[2][name]) for name in held[2])


def start_lora(strategy, rounds=4, grid=None):
    grid = grid or LocalGrid(projects.lora_app, 4)
    saved = {}

    def save(server_round, arrays):
        saved[server_round] = arrays.to_torch_state_dict()
        return MetricRecord()

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(projects.first_factors()),
        train_config=ConfigRecord({"lr": 0.02, "save_path": "results"}),
        num_rounds=rounds,
        evaluate_fn=save,
    )
    return result, saved, grid


def test_an_app_without_an_evaluate_function_is_trained_and_warned_of_once(caplog):
    strategy = projects.CountsBytes(fraction_train=1.0, fraction_evaluate=1.0)
    result, saved, grid = start_lora(strategy)
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "no evaluate function" in warnings[0]
    assert "evaluate_every=0" in warnings[0]
    losses = [result.train_metrics_clientapp[t]["train_loss"] for t in range(1, 5)]
    assert losses == sorted(losses, reverse=True)
    assert sorted(saved) == [0, 1, 2, 3, 4]
    assert strategy.carried > 4 * 4 * 2 * 5 * 4  # rounds, nodes, both ways, five fp32 numbers
    quiet = projects.CountsBytes(evaluate_every=0)
    _, _, again = start_lora(quiet)
    held, same = strategy.collect(grid), quiet.collect(again)
    assert all(torch.equal(held[node][name], same[node][name]) for node in held for name in held[0])


def test_an_app_without_an_evaluate_function_is_asked_for_it_once_not_at_every_node():
    _, _, grid = start_lora(projects.CountsBytes())
    evaluations = [m for m in grid.sent if m.metadata.message_type == "evaluate"]
    assert len(evaluations) == 1


def test_an_evaluate_function_without_the_mod_is_refused():
    app = ClientApp()
    app.train(mods=[peer_mixing])(projects.train_numpy)

    @app.evaluate()
    def evaluate(msg, context):
        return projects.Message(projects.RecordDict(), reply_to=msg)

    with pytest.raises(RuntimeError, match="ran its evaluate function"):
        DLoRA().start(LocalGrid(app, 2), ArrayRecord(projects.FIRST), num_rounds=1)


@pytest.mark.parametrize("app", [projects.legacy_app, projects.legacy_app_with_the_mod])
def test_a_client_fn_of_the_legacy_api_is_refused_by_name(app):
    with pytest.raises(RuntimeError, match=r"client_fn \(NumPyClient or Client\).*@app.train\(\)"):
        DLoRA().start(LocalGrid(app, 2), ArrayRecord(projects.FIRST))


def test_a_server_fn_of_the_legacy_api_is_refused_by_name():
    from flwr.server import Server, SimpleClientManager

    server = Server(client_manager=SimpleClientManager(), strategy=DLoRA())
    with pytest.raises(TypeError, match=r"DLoRA runs on Flower's Message API.*@app.main\(\)"):
        server.fit(num_rounds=1, timeout=None)
