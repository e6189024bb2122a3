"""What a pipeline's networks were asked to do, and how long that took, while something else runs them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

TEXT, SAMPLING, DECODING = "text encoder", "UNet forward, sampling", "VAE decoding"
FORWARD, BACKWARD = "UNet forward, update", "backward, update"
PARTS = (TEXT, SAMPLING, DECODING, FORWARD, BACKWARD)


def gpu_clock() -> float:
    """Wall seconds once the GPU has done all it was given. Stopping it so often slows the whole."""
    torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Probe:
    """Calls, rows (images or texts in a call) and seconds of each part, since the last `clear`."""

    clock: Callable[[], float] = time.perf_counter
    calls: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def clear(self) -> None:
        self.calls.clear()
        self.rows.clear()
        self.seconds.clear()

    @contextmanager
    def part(self, name: str, rows: int) -> Iterator[None]:
        """Book the block under this part."""
        start = self.clock()
        yield
        self.seconds[name] += self.clock() - start
        self.calls[name] += 1
        self.rows[name] += rows

    def attach(self, pipeline: StableDiffusionPipeline) -> None:
        """Watch the three networks. The UNet's part depends on whether a gradient is recorded."""
        self._wrap(pipeline.text_encoder, "forward", lambda: TEXT)
        self._wrap(pipeline.vae, "decode", lambda: DECODING)
        self._wrap(pipeline.unet, "forward", lambda: FORWARD if torch.is_grad_enabled() else SAMPLING)

    def _wrap(self, owner: Any, name: str, part: Callable[[], str]) -> None:
        method = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            first = args[0] if args else kwargs["input_ids"]
            with self.part(part(), len(first)):
                return method(*args, **kwargs)

        setattr(owner, name, watched)

    @contextmanager
    def watch_backward(self) -> Iterator[None]:
        """Book every backward pass inside the block."""
        backward = torch.autograd.backward

        def watched(*args: Any, **kwargs: Any) -> None:
            with self.part(BACKWARD, 0):
                backward(*args, **kwargs)

        torch.autograd.backward = watched
        try:
            yield
        finally:
            torch.autograd.backward = backward
