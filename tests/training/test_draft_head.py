# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""A head trained on frozen weights: on the states that decoding has; nothing else changes; a whole folder comes out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("datasets")

from fblt.training.components.train_draft_head import main  # noqa: E402
from fblt.training.recipe import load_recipe  # noqa: E402
from fblt.training.run import load_initial, run  # noqa: E402
from fblt.training.running.draft_head import BlockStates, block_states, head_loss, random_blocks, train_head  # noqa: E402
from fblt.training.running.optimizers import build_optimizer  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from modeling_fblt import FBLTConfig, FBLTForCausalLM  # noqa: E402
from modeling_fblt.cache_fblt import FBLTCache  # noqa: E402
from modeling_fblt.configuration_fblt import MASK_ID  # noqa: E402
from modeling_fblt.forward_steps_fblt import Block, draft_block, feed  # noqa: E402
from tests.cli import refusal, succeed  # noqa: E402
from tests.modeling.tiny import BLOCK, packed_row, tiny_model  # noqa: E402
from tests.training.runs import LENGTH, MODEL, losses, run_until, write_data, write_recipe  # noqa: E402


def rows() -> torch.Tensor:
    return torch.cat([packed_row(60, seed=1), packed_row(17, 3, 40, seed=2)])


def test_blocks_stand_within_documents_and_begin_with_known_bytes():
    model, ids = tiny_model(), rows().repeat(40, 1)
    chunk = model.model.begin_chunk(ids, torch.full((len(ids),), 60), None)
    blocks = random_blocks(ids, chunk.document_start[:, :-1], model.config, torch.Generator().manual_seed(0))
    document = chunk.document_start
    known_counts = set()
    for row, anchors in enumerate(blocks.anchors.tolist()):
        assert anchors == sorted(anchors)
        for block, anchor in enumerate(anchors):
            inside = anchor + BLOCK <= 60 and document[row, anchor] == document[row, min(anchor + BLOCK - 1, 59)]
            present = bool(inside) and int(document[row, anchor]) != anchor
            assert blocks.present[row, block].tolist() == [present] * BLOCK
            if present:
                masked = blocks.masked[row, block]
                known = int((~masked).sum())
                known_counts.add(known)
                assert masked.tolist() == [i >= known for i in range(BLOCK)]
                true = ids[row, anchor : anchor + BLOCK]
                assert torch.equal(blocks.targets[row, block], true)
                assert torch.equal(blocks.input_ids[row, block], true.masked_fill(masked, MASK_ID))
    assert known_counts == set(range(BLOCK))


def test_states_are_those_of_cached_drafting():
    model = tiny_model(dtype=torch.float32)
    found = block_states(model, rows().numpy(), 12, seed=0, progress=False)
    assert len(found) == 12
    text = rows()
    for i in range(12):
        whole = torch.cat([found.before[i, :1], found.targets[i]])
        places = [
            (row, a)
            for row in range(2)
            for a in range(1, 60 - BLOCK + 1)
            if torch.equal(text[row, a - 1 : a + BLOCK], whole)
        ]
        assert len(places) == 1
        row, anchor = places[0]
        cache = FBLTCache(model.config, 1)
        feed(model.model, text[row : row + 1, :anchor], torch.tensor([anchor]), cache)
        ids = found.targets[i].masked_fill(found.masked[i], MASK_ID)[None]
        hidden = draft_block(model.model, Block(ids, torch.tensor([anchor])), cache)
        states = model.model(text[row : row + 1], use_cache=False).last_hidden_state
        close = {"atol": 0.02, "rtol": 0.01}  # bfloat16
        torch.testing.assert_close(found.hidden[i].float(), hidden[0], **close)
        torch.testing.assert_close(found.teacher[i].float(), states[0, anchor - 1 : anchor + BLOCK - 1], **close)


def random_states(count: int) -> BlockStates:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 260, (count, BLOCK + 1), generator=generator)
    hidden, teacher = torch.randn(2, count, BLOCK, 32, generator=generator)
    known = torch.randint(0, BLOCK, (count, 1), generator=generator)
    return BlockStates(hidden, teacher, ids[:, :-1], ids[:, 1:], torch.arange(BLOCK) >= known)


@pytest.mark.parametrize("until_wrong", [False, True])
@pytest.mark.parametrize("distillation", [1.0, 0.0, 0.25])
def test_the_loss_equals_a_loop(distillation, until_wrong):
    model = tiny_model()
    model.add_draft_head(hidden_size=8, distillation=distillation, loss_decay=2.0)
    for weight in model.draft_head.parameters():
        weight.data.normal_()
    # The next-byte head agrees with the head's choice now and then, so that there are right bytes.
    states, total, weights = random_states(30), 0.0, 0.0
    hidden = states.hidden.double()
    states.teacher[::2] = states.hidden[::2]
    model.draft_head.output_projection.weight.data.mul_(0.05)
    corrected = model.byte_logits(hidden) + model.draft_head.correction(model.draft_head(states.before, hidden), hidden)
    rights = 0
    for i in range(30):
        earlier, going = 0, True
        for offset in range(BLOCK):
            if not states.masked[i, offset]:
                continue
            log_q = torch.log_softmax(corrected[i, offset], -1)[:MASK_ID]
            log_p = torch.log_softmax(model.byte_logits(states.teacher[i, offset].double()), -1)[:MASK_ID]
            if going:
                weight = float(torch.tensor(-earlier / 2.0).exp())
                divergence = float((log_p.exp() * (log_p - log_q)).sum())
                surprise = -float(log_q[states.targets[i, offset]])
                total += weight * (distillation * divergence + (1 - distillation) * surprise)
                weights += weight
            right = bool(log_q.argmax() == log_p.argmax())
            rights += right
            going = going and (right or not until_wrong)
            earlier += 1
    assert 0 < rights < int(states.masked.sum())
    assert float(head_loss(model, states, until_wrong).detach()) == pytest.approx(total / weights, rel=1e-5)


def test_training_changes_the_head_alone_and_repeats():
    heads = []
    for _ in range(2):
        torch.manual_seed(0)
        model = tiny_model(dtype=torch.float32)
        model.add_draft_head(hidden_size=16)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        losses = train_head(model, random_states(16), 60, batch_size=16, learning_rate=1e-2, progress=False)
        assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]) != name.startswith("draft_head."), name
        heads.append(model.draft_head.state_dict())
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_a_head_trains_with_the_rest_and_resumes(tmp_path):
    settings = {"model": {"draft_head_config": {"hidden_size": 6}, "draft_head_loss_weight": 0.5}}
    evaluated = {"eval_strategy": "steps", "eval_steps": 2}
    whole = write_recipe(tmp_path, "whole", trainer={"max_steps": 4, **evaluated}, **settings)
    run(load_recipe(whole))
    logged = losses(tmp_path / "whole")
    for entry in logged.values():
        drafted = MODEL.get("diffusion_loss_weight", 1.0) * entry["diffusion_loss"] + 0.5 * entry["draft_head_loss"]
        assert entry["draft_head_loss"] > 0
        assert entry["loss"] == pytest.approx(entry["next_byte_loss"] + drafted, rel=1e-4)
    history = json.loads((tmp_path / "whole" / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_draft_head_leading_correct" in entry for entry in history)
    assert FBLTForCausalLM.from_pretrained(tmp_path / "whole" / "final").draft_head is not None

    parts = load_recipe(write_recipe(tmp_path, "parts", trainer={"max_steps": 4, **evaluated}, **settings))
    run_until(parts, 2)
    assert (tmp_path / "parts" / "checkpoint-2").is_dir()
    run(parts)
    assert losses(tmp_path / "parts") == logged


# --- the command ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A bfloat16 model, documents and a recipe."""
    folder = tmp_path_factory.mktemp("head")
    torch.manual_seed(0)
    model = FBLTForCausalLM(FBLTConfig(**MODEL, patching_threshold=5.5))
    model.save_pretrained(folder / "float32")
    FBLTForCausalLM.from_pretrained(folder / "float32", dtype=torch.bfloat16).save_pretrained(folder / "model")
    write_data(folder / "data", rows=20)
    return folder


SMALL = ("--steps", 3, "--blocks", 40, "--anchors", 8, "--batch-size", 8)


def test_the_command_writes_a_whole_folder_in_the_sources_precision(folder):
    output = folder / "with-head"
    options = ("--data", folder / "data", "--output", output, "--row-length", LENGTH, "--hidden-size", 8, *SMALL)
    text = succeed(main, folder / "model", *options)
    report = json.loads(text[text.index("{\n") :])
    assert report["blocks"] == 40 and report["loss"]["last"] > 0
    assert set(report["after"]) == {"one_step", "head", "refined_1", "refined_2", "blt-s", "ar"}
    # A fresh head drafts what the block alone does.
    assert report["before"]["head"] == report["before"]["one_step"] == report["after"]["one_step"]
    old, new = (load_file(f / "model.safetensors") for f in (folder / "model", output))
    for name, value in old.items():
        assert new[name].dtype == value.dtype and torch.equal(new[name], value), name
    added = set(new) - set(old)
    assert added and all(name.startswith("draft_head.") for name in added)
    assert all(new[name].dtype == torch.bfloat16 for name in added)
    names = {path.name for path in output.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "draft_head_fblt.py"} <= names
    loaded = FBLTForCausalLM.from_pretrained(output)
    assert loaded.config.draft_head_config.hidden_size == 8
    assert loaded.generate(torch.tensor([[1, 70, 80]]), max_new_tokens=5, do_sample=False).shape == (1, 8)

    again = folder / "trained-on"
    succeed(main, output, "--data", folder / "data", "--output", again, "--row-length", LENGTH, *SMALL)
    own_size = (output, "--data", folder / "data", "--output", again, "--hidden-size", 8, *SMALL)
    assert "already" in refusal(main, *own_size)


def test_a_recipe_gives_the_data_and_a_recipe_can_train_a_head_with_the_rest(folder):
    recipe = write_recipe(folder, "recipe")
    succeed(main, folder / "float32", "--recipe", recipe, "--output", folder / "by-recipe", *SMALL)
    # Weights without a head get a fresh one where a recipe has one.
    settings = yaml.safe_load(recipe.read_text())
    settings["model"] = {"draft_head_config": {"hidden_size": 6}, "draft_head_loss_weight": 0.5}
    model = load_initial(str(folder / "float32"), settings["model"])
    assert model.draft_head is not None and model.config.draft_head_loss_weight == 0.5
    with pytest.raises(ValueError, match=r"draft_head_config\.hidden_size"):
        load_initial(str(folder / "by-recipe"), settings["model"])


def test_what_cannot_be_trained_is_refused_before_any_work(folder, tmp_path):
    data = ("--data", folder / "data")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    plain = FBLTForCausalLM(FBLTConfig(**{**MODEL, "block_size": None}))
    plain.save_pretrained(tmp_path / "plain")
    cases = {
        "`--data` or `--recipe`": (folder / "model", "--output", tmp_path / "out"),
        "`model`": (tmp_path / "nowhere", *data, "--output", tmp_path / "out"),
        "block_size": (tmp_path / "plain", *data, "--output", tmp_path / "out"),
        "nowhere": (folder / "model", "--data", tmp_path / "nowhere", "--output", tmp_path / "out"),
        "stays": (folder / "model", *data, "--output", tmp_path / "notes"),
    }
    for message, arguments in cases.items():
        assert message in refusal(main, *arguments)
    assert not (tmp_path / "out").exists() and (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_under_muon_the_heads_matrices_go_to_adamw():
    model = tiny_model()
    model.add_draft_head(hidden_size=8)
    parts = build_optimizer(model, name="muon").parts
    found = {name: {id(w) for group in part.param_groups for w in group["params"]} for name, part in parts.items()}
    head = {id(weight) for weight in model.draft_head.parameters()}
    assert head <= found["adamw"] and not head & found["muon"]
