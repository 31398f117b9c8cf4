"""Publishes a saved FBLT on the Hugging Face Hub: weights, code, tokenizer, generation config and model card.

\b
    hf auth login
    fblt push --model checkpoints/fblt-demo --repo-id USER/NAME [--revision BRANCH] [--private]

Nothing is sent unless the folder is complete. Files that are links are sent as what they point to; a training
checkpoint's optimizer and random states stay at home. What is pushed loads with
`AutoModelForCausalLM.from_pretrained("USER/NAME", trust_remote_code=True, revision=...)`.
"""

import json
import re
import tempfile
from pathlib import Path

import click
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_imports
from transformers.trainer import TRAINER_STATE_NAME

from fblt.commands import Command
from fblt.tokenizers import check_saved_tokenizer

CARD = "README.md"
REQUIRED = {
    "config.json": "the model's config",
    "generation_config.json": "the decoding settings",
    "tokenizer.json": "the tokenizer",
    "tokenizer_config.json": "the tokenizer's settings",
    CARD: "the model card, which `fblt model-card` writes",
}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SENT = ("*.json", "*.jinja", "*.py", "*.safetensors", "*.md", "*.txt", "*.png", "*.svg", "LICENSE*", "NOTICE*")
# Of an earlier push: old weights in one file would be loaded instead of new shards.
REPLACED = ["*.safetensors", "*.safetensors.index.json", "*.py"]
# The line of a card's example that says where to load from; on the Hub that is the repository.
CARD_FOLDER = re.compile(r'^folder = ".*"$', re.MULTILINE)


def missing_parts(folder: Path) -> list[str]:
    """What a folder lacks to be loaded by somebody else, one line each; empty for a complete one."""
    missing = [f"{name}: {what}" for name, what in REQUIRED.items() if not (folder / name).is_file()]
    missing += _missing_weights(folder)
    if (folder / "config.json").is_file():
        missing += _missing_code(folder)
    if (folder / CARD).is_file():
        missing += _missing_in_card((folder / CARD).read_text(encoding="utf-8"))
    return missing


def _missing_weights(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return []
    if not (folder / INDEX).is_file():
        return [f"{WEIGHTS}: the weights"]
    shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    return [f"{name}: weights that {INDEX} names" for name in sorted(shards) if not (folder / name).is_file()]


def _missing_code(folder: Path) -> list[str]:
    """Code files that `auto_map` names, and those that these import in turn."""
    auto_map = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map", {})
    missing = [
        f"config.json: `auto_map` has no {name}"
        for name in ("AutoConfig", "AutoModelForCausalLM")
        if name not in auto_map
    ]
    wanted, seen = {reference.partition(".")[0] for reference in auto_map.values()}, set()
    while wanted:
        name = wanted.pop()
        seen.add(name)
        file = folder / f"{name}.py"
        if file.is_file():
            wanted |= set(get_relative_imports(file)) - seen
        else:
            broken = "a link that points nowhere" if file.is_symlink() else "code that the model imports"
            missing.append(f"{file.name}: {broken}")
    return sorted(missing)


def _missing_in_card(text: str) -> list[str]:
    missing = []
    if ModelCard(text, ignore_metadata_errors=True).data.license is None:
        missing.append(f"{CARD}: YAML metadata with a `license`")
    if "from_pretrained" not in text:
        missing.append(f"{CARD}: an example that loads the model with `from_pretrained`")
    return missing


def files_to_send(folder: Path) -> list[Path]:
    """The files of a folder that belong to a published model, sorted by name."""
    files = {file for pattern in SENT for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in files if file.name != TRAINER_STATE_NAME)


def push(folder: Path, repo_id: str, revision: str | None, private: bool | None, api: HfApi) -> str:
    """Publishes `folder` and returns the commit's URL. Weights and code of an earlier push that it lacks are deleted.

    Args:
        revision: branch to commit to, made if need be; `main` when None.
        private: who may see a repository made for this push; the account's default when None.

    Raises:
        ValueError: the folder is incomplete, its tokenizer is not the weights', or `repo_id` is no name; nothing was
            sent then.
    """
    if not folder.is_dir():
        raise ValueError(f"--model {folder}: no such folder; give the folder of a saved FBLT")
    if repo_id.count("/") != 1:
        raise ValueError(f"--repo-id {repo_id}: give USER/NAME")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo-id {repo_id}: {error}") from error
    if missing := missing_parts(folder):
        raise ValueError(f"--model {folder} is incomplete, nothing was sent. It lacks\n  " + "\n  ".join(missing))
    check_saved_tokenizer(folder, f"--model {folder}")

    with tempfile.TemporaryDirectory() as scratch:
        # A folder of links: the client sends what they point to, and the card can name the repository.
        staged = Path(scratch)
        for file in files_to_send(folder):
            (staged / file.name).symlink_to(file.resolve())
        (staged / CARD).unlink()
        card = (folder / CARD).read_text(encoding="utf-8")
        (staged / CARD).write_text(CARD_FOLDER.sub(f'folder = "{repo_id}"', card), encoding="utf-8")

        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        message = f"Upload {folder.resolve().name}"
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=staged,
            revision=revision,
            commit_message=message,
            delete_patterns=REPLACED,
        )
    return commit.commit_url


@click.command(cls=Command, help=__doc__)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Folder of a saved FBLT.")
@click.option("--repo-id", required=True, help="USER/NAME on the Hub; made if it does not exist.")
@click.option("--revision", help="Branch to commit to; made from main if it does not exist. Default: main.")
@click.option(
    "--private", is_flag=True, default=None, help="Make a new repository private; default: as the account says."
)
def main(model: Path, repo_id: str, revision: str | None, private: bool | None) -> None:
    click.echo(f"pushed: {push(model, repo_id, revision, private, HfApi())}")


if __name__ == "__main__":
    main()
