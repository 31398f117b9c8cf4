"""What decoding costs, against counts and figures made by hand."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fblt.training.evaluation.measures import distinct_ngrams_together
from fblt.training.evaluation.traffic import COMPONENTS, calls, component_parameters, traffic_gb

from modeling_fblt import FBLTConfig, FBLTForCausalLM

PAPER_RESULTS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "paper_results.csv"
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def build_model(**changes) -> FBLTForCausalLM:
    return FBLTForCausalLM(
        FBLTConfig(
            patcher_config=SMALL,
            encoder_config=SMALL | {"hash_vocab_size": 50},
            global_config=SMALL | {"hidden_size": 32},
            decoder_config=SMALL | {"num_hidden_layers": 2},
            **{"block_size": 4} | changes,
        )
    )


def test_component_parameters_leave_out_lookup_tables_only():
    model = build_model()
    counts = component_parameters(model)
    assert tuple(counts) == COMPONENTS
    # Byte tables of patcher, encoder and decoder, and six n-gram sizes of hash tables.
    tables = 3 * 261 * 16 + 6 * 50 * 16
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters()) - tables
    head = 261 * 16
    assert counts["decoder"] == sum(p.numel() for p in model.model.decoder.parameters()) - 261 * 16 + head
    assert counts["global"] == sum(p.numel() for p in model.model.global_transformer.parameters())


def test_component_parameters_without_patcher():
    assert component_parameters(build_model(patching_mode="static"))["patcher"] == 0


def test_traffic_by_hand():
    parameters = {"patcher": 1_000, "encoder": 20, "global": 300, "decoder": 4}
    counts = {"patcher": 5, "encoder": 50, "global": 7, "decoder": 9}
    # 9 * 4 + 7 * (20 + 300) = 2276 parameters; the patcher adds 5 * 1000.
    assert traffic_gb(counts, parameters) == pytest.approx(2 * 2_276 / 1e9)
    assert traffic_gb(counts, parameters, with_patcher=True) == pytest.approx(2 * 7_276 / 1e9)
    assert traffic_gb(counts, parameters, bytes_per_parameter=4) == pytest.approx(4 * 2_276 / 1e9)


def test_traffic_of_the_paper():
    """All of the paper's results for its 3B model, within the rounding of the sizes that it states."""
    if not PAPER_RESULTS.is_file():
        pytest.skip(f"the paper's results are not at {PAPER_RESULTS}")
    parameters = {"patcher": 0, "encoder": 26e6, "global": 2.82e9, "decoder": 160e6}
    with PAPER_RESULTS.open() as file:
        rows = [row for row in csv.DictReader(file) if row["size"] == "3B" and row["bandwidth_gb"]]
    assert len(rows) > 20
    for row in rows:
        counts = {"decoder": float(row["decoder_nfe"]), "global": float(row["global_nfe"])}
        # Calls are whole numbers in the table, averages in its traffic.
        assert traffic_gb(counts, parameters) == pytest.approx(float(row["bandwidth_gb"]), rel=0.015), row


def test_calls_are_summed_over_rows():
    fields = {f"{name}_nfe": torch.tensor([1, i]) for i, name in enumerate(COMPONENTS)}
    assert calls(SimpleNamespace(**fields)) == {name: 1.0 + i for i, name in enumerate(COMPONENTS)}


def test_calls_of_a_generation():
    torch.manual_seed(0)
    prompt = torch.tensor([[1, 101, 102, 103, 104]])
    output = (
        build_model()
        .eval()
        .generate(
            prompt, decoding="ar", do_sample=False, max_new_tokens=6, eos_token_id=None, return_dict_in_generate=True
        )
    )
    counts = calls(output)
    # One call per byte; the global transformer runs where a patch completes.
    assert counts["decoder"] == counts["encoder"] == counts["patcher"] == 6
    assert 1 <= counts["global"] <= 6


def test_distinct_ngrams_together():
    assert distinct_ngrams_together([[1, 2, 3, 4]], n=2) == 1.0
    assert distinct_ngrams_together([[1, 1, 1, 1]], n=2) == pytest.approx(1 / 3)
    assert distinct_ngrams_together([[1, 2, 3], [1, 2, 3]], n=2) == 1.0  # each text by itself
    assert distinct_ngrams_together([[1, 2]], n=8) == 1.0
