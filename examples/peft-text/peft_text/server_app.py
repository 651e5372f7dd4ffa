"""peft-text: a Flower ServerApp."""

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from flwr_decaf.strategies import DeCAF
from peft_text.task import load_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and save the average of the nodes' adapters."""
    strategy = DeCAF(topology="ring")  # was: FedAvg()
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_peft_model_state_dict(load_model())),
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        num_rounds=context.run_config["num-server-rounds"],
    )
    save_file(result.arrays.to_torch_state_dict(), context.run_config["output"])
