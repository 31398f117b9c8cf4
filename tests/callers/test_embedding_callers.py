"""sentence-transformers embeds texts by the states of `FBLTModel`, as turns of a user or as they stand."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoModel, AutoTokenizer

from tests.modeling.tiny import tiny_model

TEXTS = ["ab", "a longer text"]
# Documented in docs/works-with.md: without a modality for messages, texts are not put into the chat template.
AS_THEY_STAND = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("saved"))
    tiny_model(seed=3, dtype=torch.float32).save_pretrained(folder)
    return folder


def states(folder: str, ids: list[int]) -> torch.Tensor:  # [bytes, hidden]
    return AutoModel.from_pretrained(folder).eval()(input_ids=torch.tensor([ids])).last_hidden_state[0].detach()


def test_texts_are_embedded_as_turns_by_the_state_of_their_last_byte(saved):
    """Rows of unequal length in one batch, as its defaults have it for a decoder with a chat template."""
    embeddings = SentenceTransformer(saved).encode(TEXTS, convert_to_tensor=True)
    tokenizer = AutoTokenizer.from_pretrained(saved, trust_remote_code=False)
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        turn = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        torch.testing.assert_close(embedding, states(saved, turn)[-1])


def test_texts_are_embedded_as_they_stand_by_the_mean_of_their_states(saved):
    transformer = Transformer(saved, modality_config=AS_THEY_STAND, module_output_name="token_embeddings")
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")])
    embeddings = model.encode(TEXTS, convert_to_tensor=True)
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        ids = [1, *(byte + 4 for byte in text.encode())]
        torch.testing.assert_close(embedding, states(saved, ids).mean(0))
