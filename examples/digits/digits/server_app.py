"""digits: a Flower ServerApp."""

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import save_file

from digits.task import Net, load_test
from digits.task import test as test_fn
from flwr_decaf.strategies import DLoRA

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and save the average of the nodes' models."""
    strategy = DLoRA(topology="ring")  # was: FedAvg()
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=global_evaluate,
    )
    save_file(result.arrays.to_torch_state_dict(), context.run_config["output"])


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate the average of the nodes' models."""
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    return MetricRecord({"accuracy": test_fn(model, load_test())})
