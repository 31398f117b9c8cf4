"""The one thread that writes: requests wait in line for it, and their texts come out piece by piece.

One text is written at a time. All cores, or the whole accelerator, work on it, and torch's random numbers are its own:
a seed gives the text that it gives `generate`.
"""

import asyncio
import codecs
import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.configuration_fblt import BYTE_OFFSET

from .errors import ApiError

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """A text to write.

    Attributes:
        ids: of the prompt, `<s>` first.
        new: the most bytes to write.
        stops: byte strings to stop at; they are no part of the text.
        settings: further arguments of `generate`.
        seed: of drawn bytes; None goes on with the random numbers of the process.
        deadline: when to stop, on the clock of `time.monotonic`.
        pieces: where the text goes: strings, then [`Finished`] or an [`ApiError`].
    """

    ids: list[int]
    new: int
    stops: list[bytes]
    settings: dict[str, Any]
    seed: int | None
    deadline: float
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def give(self, piece: "str | Finished | ApiError") -> None:
        """Hands over a piece, from the writing thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


@dataclass
class Finished:
    """The end of a text: `"stop"` (by itself or at a stop string) or `"length"` (bytes or time ran out)."""

    reason: str
    new: int


class Cancelled(Exception):
    """Nobody waits for this text any more."""


class Writer:
    """Writes [`Job`]s, one after the other, on a thread of its own.

    Args:
        most: jobs that may be written or wait at the same time.
    """

    def __init__(self, model: FBLTForCausalLM, tokenizer: PreTrainedTokenizerBase, most: int):
        self.model, self.tokenizer, self.most = model, tokenizer, most
        self._line: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: set[int] = set()  # by identity, those that are not done
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="fblt-writer", daemon=True)
        self._thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """Puts jobs in line, all or none.

        Raises:
            ApiError: there are too many.
        """
        with self._lock:
            if len(self._jobs) + len(jobs) > self.most:
                raise ApiError(
                    429,
                    f"{len(self._jobs)} texts are being written or wait, of {self.most} at most: try again later.",
                    code="too_many_requests",
                    kind="server_error",
                )
            self._jobs.update(map(id, jobs))
        for job in jobs:
            self._line.put(job)

    def close(self) -> None:
        """Writes nothing that is not begun."""
        self._line.put(None)

    def _run(self) -> None:
        while (job := self._line.get()) is not None:
            try:
                job.give(self._write(job))
            except Cancelled:
                job.give(ApiError(499, "The client has gone.", code="cancelled"))
            except ApiError as error:
                job.give(error)
            except (ValueError, TypeError) as error:  # what `generate` refuses
                job.give(ApiError(400, str(error), code="invalid_value"))
            except Exception:
                logger.exception("a text could not be written")
                job.give(
                    ApiError(500, "The text could not be written; the server's log says why.", kind="server_error")
                )
            finally:
                with self._lock:
                    self._jobs.discard(id(job))

    def _write(self, job: Job) -> Finished:
        if job.cancelled.is_set():
            raise Cancelled
        left = job.deadline - time.monotonic()
        if left <= 0:
            message = "The time limit passed while the request waited in line: try again later."
            raise ApiError(503, message, code="timeout", kind="server_error")
        if job.seed is not None:
            torch.manual_seed(job.seed)
        ids = torch.tensor([job.ids], device=self.model.device)
        eos = job.settings.get("eos_token_id", self.model.generation_config.eos_token_id)
        ends = set(eos if isinstance(eos, list) else [eos])
        streamer = Pieces(job, ends)
        criteria = [StopAt(job.stops, len(job.ids))] if job.stops else []
        written = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=job.new,
            max_time=left,
            stopping_criteria=StoppingCriteriaList(criteria),
            streamer=streamer,
            **job.settings,
        )
        new = written[0, len(job.ids) :].tolist()
        stopped = streamer.finish(new)
        ended = bool(new) and new[-1] in ends
        return Finished("stop" if stopped or ended else "length", len(new))


def content(ids: list[int]) -> bytes:
    """The bytes among ids; special ids are none."""
    return bytes(i - BYTE_OFFSET for i in ids if BYTE_OFFSET <= i < BYTE_OFFSET + 256)


class StopAt(StoppingCriteria):
    """Stops once the new bytes end in a stop string. What the prompt ends in is no part of it.

    Args:
        stops: the stop strings, as bytes.
        columns: of the prompt.
    """

    def __init__(self, stops: list[bytes], columns: int):
        self.stops, self.columns = tuple(stops), columns
        self.longest = max(map(len, stops))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor | None, **kwargs) -> torch.BoolTensor:
        start = max(self.columns, input_ids.shape[1] - self.longest)
        found = [content(row).endswith(self.stops) for row in input_ids[:, start:].tolist()]
        return torch.tensor(found, device=input_ids.device)


class Pieces(BaseStreamer):
    """Hands a job its text in whole characters, without what may yet turn out to be a stop string.

    Args:
        ends: ids that end the text; where they are bytes, they are no part of it.
    """

    def __init__(self, job: Job, ends: set[int]):
        self.job, self.ends = job, ends
        self.written = bytearray()
        self.given = 0  # bytes of `written` that the decoder has seen
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.prompt_is_next = True

    def put(self, value: torch.Tensor) -> None:
        if self.job.cancelled.is_set():
            raise Cancelled
        if self.prompt_is_next:
            self.prompt_is_next = False
            return
        self.written += self._content(value.flatten().tolist())
        self._give(len(self.written) - self._may_be_a_stop())

    def end(self) -> None:
        """`generate` may still take bytes back: [`finish`] is given what remains."""

    def finish(self, new: list[int]) -> bool:
        """Gives the rest of a text whose new ids are known; whether a stop string ended it, which is left out."""
        self.written = bytearray(self._content(new))
        found = [stop for stop in self.job.stops if self.written.endswith(stop)]
        end = len(self.written) - max(map(len, found), default=0)
        self._give(end, final=True)
        return bool(found)

    def _content(self, ids: list[int]) -> bytes:
        return content([i for i in ids if i not in self.ends])

    def _give(self, end: int, final: bool = False) -> None:
        text = self.decoder.decode(bytes(self.written[self.given : end]), final)
        self.given = max(self.given, end)
        if text:
            self.job.give(text)

    def _may_be_a_stop(self) -> int:
        """Bytes at the end that are a stop string, or the beginning of one."""
        longest = 0
        for stop in self.job.stops:
            for size in range(min(len(stop), len(self.written)), longest, -1):
                if self.written.endswith(stop[:size]):
                    longest = size
                    break
        return longest
