"""The Hugging Face Trainer, with FBLT's optimizers and metrics, and with checkpoints that a kill cannot spoil."""

import hashlib
import json
import logging
import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Console
from torch.utils.data import DataLoader
from transformers import Trainer, set_seed
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME

from fblt.checksums import write_checksums
from fblt.files import publish
from modeling_fblt import FBLTForCausalLM

from .evaluation.run_metrics import StepSums, draft_metrics, print_metrics
from .evaluation.samples import Anchor
from .packing.damaged_lines import DamagedLines
from .packing.similar_lengths import SimilarLengths, row_lengths
from .packing.streamed import PLACES, StreamedRows, StreamLoader, read_states
from .running.checkpoints import UNFINISHED, clean, rotate
from .running.finite import FiniteWatch
from .running.optimizers import build_optimizer
from .running.sharded import (
    is_sharded,
    load_sharded_model,
    load_sharded_optimizer,
    load_whole_model,
    load_whole_optimizer,
    root_gathered,
    separate_parts,
)

logger = logging.getLogger(__name__)

SUMS_NAME = "log_sums_{}.pt"  # by process


class RecipeTrainer(Trainer):
    """The Trainer with a recipe's optimizer, which stops at the first loss that is not finite.

    Args:
        recipe_optimizer: arguments of `build_optimizer`.
    """

    def __init__(self, *args, recipe_optimizer: dict, **kwargs):
        super().__init__(*args, **kwargs)
        self.recipe_optimizer = recipe_optimizer
        self.watch = FiniteWatch(self.args.device)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.watch.add(self.state.global_step + 1, loss)
        return loss

    def check_finite(self) -> None:
        """Raises an error if a loss so far or a weight is not finite. All processes call it, before they save."""
        self.watch.check_losses(self.accelerator)
        self.watch.check_weights(self.accelerator, self.model, self.state.global_step)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            self.watch.check_losses(self.accelerator)
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        self.check_finite()
        super()._save_checkpoint(model, trial)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model, **self.recipe_optimizer)
        return self.optimizer


class FBLTTrainer(RecipeTrainer):
    """Trains an FBLT as a recipe says.

    Args:
        anchors: where to draft when evaluating.
    """

    def __init__(self, *args, anchors: list[Anchor], **kwargs):
        super().__init__(*args, **kwargs)
        self.anchors = anchors
        self.output = Path(self.args.output_dir)
        self.sums = StepSums(self.args.device)
        self.writes_aside = False

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, StreamedRows):
            return super().get_train_dataloader()
        # Not prepared by Accelerate: every process has its own rows already.
        settings = {"num_workers": self.args.dataloader_num_workers, "pin_memory": self.args.dataloader_pin_memory}
        settings["prefetch_factor"] = self.args.dataloader_prefetch_factor
        return StreamLoader(self.train_dataset, self.args.train_batch_size, **settings)

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if isinstance(rows, DamagedLines):
            return SimilarLengths(rows.lengths, step, self.args.seed, stride=len(rows))
        if isinstance(rows, Dataset) and self.args.train_sampling_strategy == "group_by_length":
            return SimilarLengths(row_lengths(rows), step, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    # --- metrics ---

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.sums.add(inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if isinstance(self.train_dataset, StreamedRows):
            # A stream has no epochs: the run is one, of which the Trainer counts this process's steps alone.
            self.state.epoch = self.state.global_step / self.state.max_steps
        if "loss" in logs:
            logs["bits_per_byte"] = logs["loss"] / math.log(2)  # without blocks; the next-byte loss's otherwise
            totals = (self.accelerator.reduce(sums, "sum") for sums in (self.sums.losses, self.sums.counts))
            logs |= self.sums.figures(*totals, self.state.global_step)
            self.sums.begin(self.state.global_step)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics[f"{metric_key_prefix}_bits_per_byte"] = output.metrics[f"{metric_key_prefix}_loss"] / math.log(2)
        if self.anchors:
            # All processes draft at the same anchors: sharded layers are gathered by calls that all of them make.
            with root_gathered(self.model) if self.is_fsdp_enabled else nullcontext():
                drafts = draft_metrics(self.model, self.anchors, self.args.eval_batch_size, self.args.seed)
            output.metrics.update(drafts)
        return output

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Evaluates without taking random numbers from training, so that no later step depends on it."""
        began = time.perf_counter()
        with torch.random.fork_rng():
            metrics = super().evaluate(*args, **kwargs)
        if self.is_world_process_zero():
            print_metrics(self.state.global_step, metrics, Console())
        self.sums.paused += time.perf_counter() - began
        return metrics

    # --- what a checkpoint holds ---

    def _run_epoch(self, **kwargs) -> None:
        if kwargs["epoch"] == kwargs["epochs_trained"]:
            self._begin(kwargs["resume_from_checkpoint"])
        if self.state.global_step >= self.state.max_steps:
            # The Trainer would go one step beyond the last one.
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _begin(self, checkpoint: str | None) -> None:
        """Before the first step of this process: its random numbers, and the sums that the next log reports."""
        self.sums.begin(self.state.global_step)
        if self.args.process_index > 0:
            # Processes begin with one seed, but their blocks should not all be corrupted alike.
            torch.manual_seed(self.args.seed + self.args.process_index)
        if checkpoint is None:
            return
        if isinstance(self.train_dataset, StreamedRows):
            self.train_dataset.load(read_states(Path(checkpoint)))
        file = Path(checkpoint) / SUMS_NAME.format(self.args.process_index)
        state = torch.load(file, weights_only=True) if file.is_file() else {}
        if (before := state.get("rows_a_step", self.rows_a_step)) != self.rows_a_step:
            logger.warning(
                "%s was trained on %d rows a step, and now there are %d: the place in the data is counted in steps, so "
                "rows are left out or come again. With `per_device_train_batch_size` x `gradient_accumulation_steps` x "
                "processes as it was, they do not.",
                Path(checkpoint).name,
                before,
                self.rows_a_step,
            )
        if state.get("processes") == self.args.world_size:
            self.sums.restore(state["sums"])
            self._tr_loss += state["loss"].to(self._tr_loss.device)
            self._globalstep_last_logged = state["last_logged"]
            # The mean loss at the end of training is of this process's steps.
            self._total_loss_scalar -= self.accelerator.reduce(self._tr_loss, "mean").item()

    @property
    def rows_a_step(self) -> int:
        """Rows that a step takes, of all processes."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _log_state(self) -> dict:
        return {
            "processes": self.args.world_size,
            "rows_a_step": self.rows_a_step,
            "sums": self.sums.state(),
            "loss": self._tr_loss.cpu(),
            "last_logged": self._globalstep_last_logged,
        }

    # --- writing checkpoints ---

    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / UNFINISHED) if self.writes_aside else folder

    def _save_checkpoint(self, model, trial) -> None:
        """Writes aside, then renames: under its name a checkpoint is whole, whenever the process is killed."""
        began = time.perf_counter()
        self.writes_aside = True
        super()._save_checkpoint(model, trial)
        self.writes_aside = False
        final = self.output / f"checkpoint-{self.state.global_step}"
        written = self.output / UNFINISHED / final.name
        torch.save(self._log_state(), written / SUMS_NAME.format(self.args.process_index))
        if isinstance(self.train_dataset, StreamedRows):
            places = written / PLACES.format(self.args.process_index)
            places.write_text(json.dumps(self.train_dataset.state()))
        if self.state.best_model_checkpoint == str(written):
            self.state.best_model_checkpoint = str(final)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            write_checksums(written)
            publish(written, final)
            rotate(self.output, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        self.sums.paused += time.perf_counter() - began

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.writes_aside:  # what is pushed must stay where it is
            super()._push_from_checkpoint(checkpoint_folder)

    def save_final(self) -> None:
        """Writes the trained model to `<output>/final`, whole or not at all."""
        self.check_finite()
        written = self.output / UNFINISHED / "final"
        if self.is_fsdp_enabled:
            weights = self.accelerator.get_state_dict(self.model)
            if self.args.should_save:
                # FSDP makes a class of its own of the model's, which would save FSDP's code in place of ours.
                with torch.device("meta"):
                    whole = FBLTForCausalLM(self.model.config)
                whole.generation_config = self.model.generation_config
                whole.save_pretrained(written, state_dict=weights)
        else:
            self.save_model(str(written), _internal_call=True)
        if self.args.should_save:
            publish(written, self.output / "final")
            clean(self.output)
        self.accelerator.wait_for_everyone()

    # --- loading: Muon with AdamW counts as two optimizers, and sharded runs and others read each other's checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        whole = self.optimizer
        with separate_parts(whole) as self.optimizer:
            super()._save_optimizer_and_scheduler(output_dir)
        self.optimizer = whole

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if is_sharded(resume_from_checkpoint):
            load_sharded_model(model or self.model, resume_from_checkpoint)
        elif self.is_fsdp_enabled:
            load_whole_model(model or self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if is_sharded(self.state.best_model_checkpoint) or self.is_fsdp_enabled:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not (is_sharded(checkpoint) or self.is_fsdp_enabled):
            return super()._load_optimizer_and_scheduler(checkpoint)
        if is_sharded(checkpoint):
            load_sharded_optimizer(self.model, self.optimizer, checkpoint)
        else:
            load_whole_optimizer(self.optimizer, checkpoint)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
        return None

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Random numbers go on; those of other processes than these cannot, so new ones begin, the same every time."""
        if checkpoint is not None and len(list(Path(checkpoint).glob("rng_state*.pth"))) != self.args.world_size:
            place = (self.args.seed, self.state.global_step, self.args.process_index, self.args.world_size)
            set_seed(int.from_bytes(hashlib.sha256(str(place).encode()).digest()[:4], "big"))
        else:
            super()._load_rng_state(checkpoint)
