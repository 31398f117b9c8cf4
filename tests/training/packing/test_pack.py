"""Packed rows: the same whatever the source's form, the workers and the interruptions; refused for another patcher."""

import gzip
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from datasets import Dataset, load_from_disk  # noqa: E402
from fblt.training.data.manifest import is_packed  # noqa: E402
from fblt.training.packing import shards  # noqa: E402
from fblt.training.packing.build import pack_corpus  # noqa: E402
from fblt.training.packing.pack import main, parse_arguments  # noqa: E402
from fblt.training.packing.packed import check_manifest, load_packed  # noqa: E402
from fblt.training.packing.sequences import collate, encode_document  # noqa: E402
from fblt.training.recipe import load_recipe  # noqa: E402
from fblt.training.run import build_model  # noqa: E402

from modeling_fblt import FBLTForCausalLM  # noqa: E402
from tests.cli import succeed  # noqa: E402
from tests.thorough import long_run  # noqa: E402
from tests.training.packing.packs import LENGTH, ROW_BYTES, contents, texts  # noqa: E402
from tests.training.runs import instruction_rows, write_instructions, write_recipe  # noqa: E402


def rows_of(folder: Path, split: str = "train") -> list[list[int]]:
    return load_from_disk(str(folder))[split]["input_ids"][:]


def row_reference(found: list[str], length: int = LENGTH) -> list[list[int]]:
    """Documents end to end, cut into rows."""
    stream = [int(number) for text in found for number in encode_document(text)]
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]


def shuffled(folder: Path, split: str, limits: dict[str, int], seed: int) -> list[str]:
    """The texts of a split in `datasets`' own random order, of each source until it has reached its limit."""
    taken, texts = dict.fromkeys(limits, 0), []
    for document in load_from_disk(str(folder))[split].shuffle(seed=seed):
        if document["source"] in taken:
            if taken[document["source"]] >= limits[document["source"]]:
                continue
            taken[document["source"]] += len(document["text"].encode())
        texts.append(document["text"])
    return texts


# --- what the rows are ---


@pytest.mark.parametrize("limits", [{}, {"code": 150}])
def test_rows_and_patch_starts_are_those_that_training_would_make_itself(options, documents, model, limits):
    pack_corpus(options(max_bytes=limits, seed=3), shard_bytes=10 * ROW_BYTES)
    for split in ("train", "validation"):
        own = limits if split == "train" else {}
        expected = torch.tensor(row_reference(shuffled(documents, split, own, seed=3)))
        packed = load_packed(options().output, split, LENGTH, model)
        assert len(packed) == len(expected) > 4
        assert torch.equal(packed[:]["input_ids"], expected)
        assert torch.equal(packed[:]["patch_starts"], model.patch(expected).patch_starts)


def write_source(kind: str, folder: Path, found: list[str]) -> str:
    """The same documents in one of the forms that can be a source; returns its location."""
    folder.mkdir()
    data = Dataset.from_dict({"content": found, "number": list(range(len(found)))})
    if kind == "saved":
        data.save_to_disk(str(folder / "saved"))
        return str(folder / "saved")
    if kind == "folder":
        data.to_parquet(str(folder / "train-00000.parquet"))
        (folder / "README.md").write_text("about it")
        return str(folder)
    if kind == "glob":
        for i in range(4):
            lines = (json.dumps({"content": text}) + "\n" for text in found[i * 5 : i * 5 + 5])
            (folder / f"part-{i}.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
        return str(folder / "*.jsonl.gz")
    getattr(data, {"csv": "to_csv", "parquet": "to_parquet", "jsonl": "to_json"}[kind])(str(folder / f"all.{kind}"))
    return str(folder / f"all.{kind}")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["saved", "folder", "glob", "csv", "parquet", "jsonl"])
def test_every_form_of_a_source_gives_the_same_rows(options, tmp_path, kind, streaming):
    found = [text or "x" for text in texts(20)]  # CSV has no empty texts
    location = write_source(kind, tmp_path / kind, found)
    packed = options(
        source=[f"mine={location}"],
        text_column="content",
        license={"mine": "CC0-1.0"},
        hold_out=0,
        patch_online=True,
        streaming=streaming,
    )
    manifest = pack_corpus(packed)
    order = np.random.default_rng(packed.seed).permutation(len(found))
    assert rows_of(packed.output) == row_reference([found[i] for i in order])
    (source,) = manifest["sources"]
    size = sum(len(text.encode()) for text in found)
    assert source == {
        "name": "mine",
        "license": "CC0-1.0",
        "splits": {"train": {"documents": 20, "bytes": size}},
    }
    assert all(len(file["sha256"]) == 64 for file in manifest["inputs"][0]["files"])
    assert manifest["splits"]["train"]["ids_left_over"] == (size + 2 * 20) % LENGTH


def test_a_file_of_text_is_one_document(options, tmp_path):
    folder = tmp_path / "texts"
    for name, text in {"train/a.py": "def f():\n\treturn 'é'\n", "validation/b.py": "x = 1\n\n\ny = 2\n" * 3}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    pack_corpus(options(source=[str(folder)], license={"texts": "MIT"}, patch_online=True, sequence_length=8))
    for split, file in (("train", "a.py"), ("validation", "b.py")):
        assert rows_of(options().output, split) == row_reference([(folder / split / file).read_text()], 8)


def test_several_sources_are_shuffled_together_and_name_their_licences(options, documents, tmp_path):
    (tmp_path / "notes.txt").write_text("a note " * 20)
    made = options(source=[str(documents), f"notes={tmp_path}/*.txt"], license={"notes": "MIT"}, patch_online=True)
    manifest = pack_corpus(made)
    data = load_from_disk(str(documents))["train"]["text"][:]
    order = np.random.default_rng(made.seed).permutation(len(data) + 1)
    everything = [*data, "a note " * 20]
    assert rows_of(made.output) == row_reference([everything[i] for i in order])
    assert {source["name"]: source["license"] for source in manifest["sources"]} == {
        "code": "PSF-2.0",
        "prose": "CC0-1.0",
        "notes": "MIT",
    }
    assert (made.output / "licenses/documents/code.txt").read_text() == "free"
    assert json.loads((made.output / "manifest.json").read_text()) == manifest


def test_held_out_documents_are_whole_and_not_trained_on(options, tmp_path):
    found = [f"document {i} é" for i in range(30)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
    made = options(source=[str(tmp_path / "all.jsonl")], license={"all": "MIT"}, hold_out=0.1, patch_online=True)
    pack_corpus(made)
    order = [found[i] for i in np.random.default_rng(made.seed).permutation(30)]
    assert rows_of(made.output, "train") == row_reference(order[:27])
    assert rows_of(made.output, "validation") == row_reference(order[27:])


def test_a_stream_is_left_at_its_limit(options, tmp_path):
    lines = [json.dumps({"text": "x" * 10}) for _ in range(20)] + ["this line is no JSON"]
    for i in range(3):  # one file is read as a whole
        (tmp_path / f"{i}.jsonl").write_text("\n".join(lines[i * 7 : i * 7 + 7]))
    made = options(
        source=[f"mine={tmp_path}/*.jsonl"], license={"mine": "MIT"}, hold_out=0, patch_online=True, streaming=True
    )
    manifest = pack_corpus(options(**vars(made) | {"max_bytes": {"mine": 95}}))
    assert manifest["sources"][0]["splits"]["train"] == {"documents": 10, "bytes": 100}


def test_instructions_are_rows_of_their_own(options, model, tmp_path):
    write_instructions(tmp_path / "chat")
    chat = {
        "source": [str(tmp_path / "chat")],
        "license": {"chat": "MIT"},
        "prompt_column": "prompt",
        "completion_column": "completion",
    }
    pack_corpus(options(**chat), shard_bytes=ROW_BYTES)
    packed = load_packed(options().output, "validation", LENGTH, model)
    lines = (tmp_path / "chat/validation.jsonl").read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(lines))
    expected = instruction_rows([json.loads(lines[i]) for i in order], LENGTH, model)
    assert packed.column_names == ["input_ids", "labels", "patch_starts"] and len(packed) == len(expected) == 12
    for here, there in zip(packed, expected, strict=True):
        assert all(torch.equal(here[name], there[name]) for name in there)
    pack_corpus(options(**chat, patch_online=True, overwrite=True))
    assert load_packed(options().output, "train", LENGTH, model).column_names == ["input_ids", "labels"]
    with pytest.raises(ValueError, match=r"`--sequence-length` 6 holds nothing of the completions of 12 examples"):
        pack_corpus(options(**chat, overwrite=True, sequence_length=6))


# --- interruptions and workers ---


@pytest.mark.slow
def test_two_workers_make_what_one_makes(options, tmp_path):
    one, two = options(output=tmp_path / "one"), options(output=tmp_path / "two", workers=2)
    pack_corpus(one, shard_bytes=10 * ROW_BYTES)
    pack_corpus(two, shard_bytes=10 * ROW_BYTES)
    assert contents(one.output) == contents(two.output)


def interrupt(monkeypatch, after: int) -> None:
    """Lets the work fail when the next part is whole, but not yet in its place, for the `after`-th time."""
    from fblt.training.data import streams
    from fblt.training.packing import build

    real, left = build.publish, [after]

    def publish(written: Path, final: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(written, final)

    for module in (build, shards, streams):
        monkeypatch.setattr(module, "publish", publish)


def test_interrupted_anywhere_it_goes_on_to_the_same_result(options, documents, tmp_path, monkeypatch):
    lines = [json.dumps({"text": text}) + "\n" for text in texts(12)]
    for i in range(3):
        (tmp_path / f"{i}.jsonl").write_text("".join(lines[i * 4 : i * 4 + 4]))
    settings = {
        "source": [f"mine={tmp_path}/*.jsonl", str(documents)],
        "license": {"mine": "MIT"},
        "max_bytes": {"code": 100, "prose": 100},
        "streaming": True,
        "hold_out": 0.2,
    }
    monkeypatch.setattr("fblt.training.data.streams.PART_BYTES", 120)
    whole = options(**settings, output=tmp_path / "whole")
    pack_corpus(whole, shard_bytes=8 * ROW_BYTES)
    again = options(**settings, output=tmp_path / "again")
    interruptions = made = 0
    work = tmp_path / ".again-partial"
    while not again.output.exists():
        finished = {file: file.stat().st_mtime_ns for file in work.glob("**/[0-9]*[0-9]/*.arrow")}
        with monkeypatch.context() as interrupted:
            interrupt(interrupted, after=1)
            try:
                pack_corpus(again, shard_bytes=8 * ROW_BYTES)
            except KeyboardInterrupt:
                interruptions += 1
                assert not again.output.exists()
        if work.exists():
            assert all(file.stat().st_mtime_ns == changed for file, changed in finished.items())
            made += len(set(work.glob("**/[0-9]*[0-9]/*.arrow")) - set(finished))
    assert interruptions > 6 and made >= interruptions
    assert contents(again.output) == contents(whole.output)
    assert not list(tmp_path.glob(".*"))


KILLED = """
import sys
from pathlib import Path
from fblt.training.packing.build import pack_corpus
from fblt.training.packing.pack import parse_arguments
pack_corpus(parse_arguments(sys.argv[2:]), shard_bytes=int(sys.argv[1]))
"""


@long_run
@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_result(options, tmp_path):
    whole, killed = options(output=tmp_path / "whole"), options(output=tmp_path / "killed")
    pack_corpus(whole, shard_bytes=ROW_BYTES)
    arguments = [*killed.recorded(), "--model", killed.model, "--output", str(killed.output)]
    assert parse_arguments(arguments) == replace(killed, source=tuple(killed.source))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(ROW_BYTES), *arguments], cwd=Path(__file__).parents[3], env=dict(os.environ)
    )
    shards = tmp_path / ".killed-partial" / "rows" / "train"
    while process.poll() is None and not (shards / "00001").is_dir():
        time.sleep(0.002)
    process.kill()
    process.wait()
    kept = sorted(folder.name for folder in shards.iterdir())
    assert kept and not killed.output.exists()
    pack_corpus(killed, shard_bytes=ROW_BYTES)
    assert contents(killed.output) == contents(whole.output)


HOLDER = """
import sys
from pathlib import Path
from fblt.locks import alone_in

with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_pack_into_one_folder(options, tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / ".packed-partial")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="Another process"):
            pack_corpus(options(output=tmp_path / "packed"))
        holder.communicate("")
    pack_corpus(options(output=tmp_path / "packed"))


def test_an_unfinished_folder_is_not_made_into_another(options, tmp_path, monkeypatch):
    interrupt(monkeypatch, after=1)
    with pytest.raises(KeyboardInterrupt):
        pack_corpus(options(), shard_bytes=ROW_BYTES)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"\.packed-partial' holds unfinished rows that differ in \['arguments'\]"):
        pack_corpus(options(seed=1))
    pack_corpus(options(), shard_bytes=ROW_BYTES)
    assert is_packed(options().output)


# --- what training accepts ---


def test_the_packing_model_is_accepted(options, model):
    manifest = pack_corpus(options())
    assert check_manifest(options().output, model) == check_manifest(options().output, model.model) == manifest


def test_a_recipes_patcher_is_accepted_by_its_run(options, tmp_path):
    recipe = write_recipe(tmp_path, "run")
    pack_corpus(options(recipe=str(recipe)))
    check_manifest(options().output, build_model(load_recipe(recipe), None))


@pytest.mark.parametrize("mode", ["static", "space"])
def test_patching_without_a_patcher(options, tmp_path, mode):
    (tmp_path / "patcher").mkdir()  # the recipe needs none
    recipe = write_recipe(tmp_path, mode, model={"patching_mode": mode, "patch_size": 3})
    pack_corpus(options(recipe=str(recipe)))
    model = build_model(load_recipe(recipe), None)
    rows = load_packed(options().output, "train", LENGTH, model)[:]
    assert torch.equal(model.patch(rows["input_ids"]).patch_starts, rows["patch_starts"])


def change_weight(model: FBLTForCausalLM) -> None:
    model.model.patcher.norm.weight.data[3] += 1e-4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_weight, "patcher"),
        (lambda model: setattr(model.config, "patching_threshold", 5.5), "patching_threshold"),
        (lambda model: setattr(model.config, "max_patch_length", 7), "max_patch_length"),
        (lambda model: setattr(model.config, "isolate_documents", False), "isolate_documents"),
    ],
)
def test_another_patcher_is_refused_with_the_command_that_helps(options, model, tmp_path, change, name):
    made = pack_corpus(options(max_bytes={"code": 150}))
    change(model)
    other = tmp_path / "other"
    model.save_pretrained(other)
    model = FBLTForCausalLM.from_pretrained(other)
    with pytest.raises(ValueError) as error:
        check_manifest(options().output, model)
    message = str(error.value)
    assert f"`{name}` is {made['patching'][name]} in its manifest" in message
    _, _, command = message.partition("fblt pack ")
    succeed(main, *command.split())
    manifest = check_manifest(options().output, model)
    assert f"and {manifest['patching'][name]} in the model" in message
    assert manifest["sources"] == made["sources"]


def test_documents_are_no_packed_rows(documents, model):
    assert not is_packed(documents)
    with pytest.raises(ValueError, match="holds no packed rows: make them with `fblt pack`"):
        check_manifest(documents, model)


@pytest.mark.parametrize("patching", [1, False, "x", [2]])
def test_a_manifest_whose_patching_is_no_object_is_damaged(options, model, patching):
    manifest = pack_corpus(options())
    (options().output / "manifest.json").write_text(json.dumps(manifest | {"patching": patching}))
    with pytest.raises(ValueError, match="is damaged: `patching` is"):
        check_manifest(options().output, model)


def test_rows_of_another_length_limit_or_split_are_refused(options, model):
    pack_corpus(options(max_bytes={"code": 150}))
    assert load_packed(options().output, "train", LENGTH, model, {"code": 150})
    with pytest.raises(ValueError, match="`max_bytes` is {'code': 9}, .* packed with {'code': 150}"):
        load_packed(options().output, "train", LENGTH, model, {"code": 9})
    with pytest.raises(ValueError, match="`sequence_length` is 25, .* packed with 24"):
        load_packed(options().output, "train", 25, model)
    with pytest.raises(ValueError, match="no split 'test', but"):
        load_packed(options().output, "test", LENGTH, model)


def test_patching_online_gives_the_same_starts_and_the_same_loss(options, model, tmp_path):
    before, online = options(), options(output=tmp_path / "online", patch_online=True)
    pack_corpus(before)
    assert pack_corpus(online)["patching"] is None
    batches = []
    for folder in (before.output, online.output):
        rows = load_packed(folder, "train", LENGTH, model)
        batches.append(collate([rows[i] for i in range(6)]))
    known, found = batches
    assert torch.equal(known["input_ids"], found["input_ids"]) and "patch_starts" not in found
    assert torch.equal(model.patch(found["input_ids"]).patch_starts, known["patch_starts"])
    model.train()
    losses = []
    for batch in batches:
        torch.manual_seed(5)
        output = model(**batch)
        losses.append((output.loss.item(), output.next_byte_loss.item(), output.diffusion_loss.item()))
    assert losses[0] == losses[1]
