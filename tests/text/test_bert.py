import pytest
import torch

from segkit.errors import CheckpointError
from segkit.text.bert import BertSizes, BertText

SIZES = BertSizes(
    vocabulary=40, width=128, depth=2, mlp=96, positions=24, types=2, hidden=20, features=12
)


def build():
    torch.manual_seed(0)
    return BertText(SIZES).eval()


def prefixed(text):
    return {f"text.{name}": tensor for name, tensor in text.state_dict().items()}


def test_sizes_are_read_from_the_weights():
    assert BertSizes.of(prefixed(build())) == SIZES


def test_other_weights_are_refused():
    with pytest.raises(CheckpointError, match="holds no BERT text encoder"):
        BertSizes.of({"visual.proj": torch.zeros(1)})


@torch.inference_mode()
def test_padding_does_not_change_the_features():
    text = build()
    short = torch.tensor([[2, 7, 9, 3]])
    padded = torch.tensor([[2, 7, 9, 3, 0, 0, 0]])
    assert torch.allclose(text(short), text(padded), atol=1e-6)
    assert not torch.allclose(text(short), text(torch.tensor([[2, 9, 7, 3]])), atol=1e-4)


@torch.inference_mode()
def test_equals_the_bert_of_transformers():
    transformers = pytest.importorskip("transformers", reason="the oracle of this test")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=96, max_position_embeddings=24, pad_token_id=0,
    )  # fmt: skip
    oracle = transformers.BertModel(config, add_pooling_layer=False).eval()
    text = build()
    oracle.load_state_dict(text.transformer.state_dict(), strict=False)
    tokens = torch.tensor([[2, 7, 9, 3, 0, 0], [2, 30, 31, 32, 33, 3]])
    wanted = oracle(tokens, attention_mask=(tokens != 0).long()).last_hidden_state[:, 0]
    assert torch.allclose(text(tokens), text.proj(wanted), atol=1e-5)
