"""peft-text: a Flower ClientApp."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from flwr_decaf.clients import peer_mixing
from peft_text.task import load_model, load_rows
from peft_text.task import test as test_fn
from peft_text.task import train as train_fn

app = ClientApp(mods=[peer_mixing])  # was: ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the adapter on local data."""
    model = load_model()
    set_peft_model_state_dict(model, msg.content["arrays"].to_torch_state_dict())
    node, n = context.node_config["partition-id"], context.node_config["num-partitions"]
    config, settings = msg.content["config"], context.run_config
    loss = train_fn(
        model, load_rows("train")[node::n], settings["local-steps"], settings["batch-size"],
        lr=config["lr"], seed=1000 * node + config["server-round"],
    )  # fmt: skip
    metrics = {"train_loss": loss, "num-examples": len(load_rows("train")[node::n])}
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the adapter on some of the test rows."""
    model = load_model()
    set_peft_model_state_dict(model, msg.content["arrays"].to_torch_state_dict())
    rows = load_rows("test")[::8]
    metrics = {"eval_acc": test_fn(model, rows), "num-examples": len(rows)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
