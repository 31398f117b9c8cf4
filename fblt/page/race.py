"""Two generations side by side on one machine: they take turns, and each is timed for itself.

At once they would compete for the processor, and neither time would mean anything. So the run that has had less time
goes on, up to its next draft or its next bytes; what a reader sees is then how far each gets in the same time.
"""

import threading
import time
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from ..drafts import DraftStreamer


class Stopped(Exception):
    """Raised inside a generation whose reader has gone."""


class Run:
    """One `generate` call in a thread of its own, which works only while [`advance`] waits for it.

    Args:
        model: the model; runs of the same one take turns.
        inputs: of `generate`, one row.
        settings: of `generate`.
        seed: of drawn bytes. The text is the one that `generate` writes alone after `torch.manual_seed(seed)`.

    Attributes:
        streamer: what came so far.
        seconds: the generation's own time.
        output: the `FBLTGenerateOutput`, once it has ended.
        error: what ended it, if that was an error.
    """

    def __init__(self, model: PreTrainedModel, inputs, settings: dict, seed: int):
        self.streamer = DraftStreamer(self._hand_over)
        self.seconds = 0.0
        self.output = self.error = None
        self._random = _Random(model.device, seed)
        self._turn, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._stopped = self._started = False
        self._work = lambda: model.generate(**inputs, **settings, streamer=self.streamer, return_dict_in_generate=True)
        self._thread = threading.Thread(target=self._generate, daemon=True)

    @property
    def ended(self) -> bool:
        return self.output is not None or self.error is not None

    @property
    def drafting(self) -> bool:
        """Whether a draft is pending."""
        return bool(self.streamer.draft) and not self.ended

    def advance(self) -> None:
        """Works until the next draft, the next bytes, or the end."""
        if self.ended:
            return
        if not self._started:
            self._started = True
            self._thread.start()
        with self._random:
            began = time.perf_counter()
            self._turn.release()
            self._waits.acquire()
            self.seconds += time.perf_counter() - began

    def stop(self) -> None:
        """Ends it, wherever it is."""
        self._stopped = True
        if self._started and not self.ended:
            self._turn.release()
            self._thread.join()

    def _generate(self) -> None:
        self._turn.acquire()
        try:
            if not self._stopped:
                self.output = self._work()
        except Stopped:
            pass
        except Exception as error:  # shown to the reader, whatever it is
            self.error = error
        self._waits.release()

    def _hand_over(self, streamer: DraftStreamer) -> None:
        self._waits.release()
        self._turn.acquire()
        if self._stopped:
            raise Stopped


class _Random:
    """The random numbers of one run: as long as it is entered, torch draws from them."""

    def __init__(self, device: torch.device, seed: int):
        self.devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(self.devices):
            torch.manual_seed(seed)
            self.state = self._read()

    def _read(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.devices)]

    def _write(self, state: list[torch.Tensor]) -> None:
        torch.set_rng_state(state[0])
        for device, its_state in zip(self.devices, state[1:], strict=True):
            torch.cuda.set_rng_state(its_state, device)

    def __enter__(self) -> None:
        self.others = self._read()
        self._write(self.state)

    def __exit__(self, *_) -> None:
        self.state = self._read()
        self._write(self.others)


def race(runs: list[Run]) -> Iterator[Run]:
    """Lets runs work in turns until all have ended; gives the one that has just worked. Closing it stops them."""
    try:
        while going := [run for run in runs if not run.ended]:
            run = min(going, key=lambda run: run.seconds)
            run.advance()
            yield run
    finally:
        for run in runs:
            run.stop()
