"""A vision-language model in this process: any image-text-to-text model of transformers.

Pictures and questions → the processor's chat template → left-padded batch → greedy answer.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddpo_core.errors import EnvironmentFault
from ddpo_core.judges import loading, locate, pick_device, pick_dtype, pretrained, shared

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(eq=False)
class VisionLanguageModel:
    """One loaded model; rewards that share it take turns."""

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    turn: threading.Lock = field(default_factory=threading.Lock)


class InProcess:
    """Answers with a model on this machine."""

    def __init__(
        self, reward: str, vlm: str, *, max_new_tokens: int, device: str, dtype: str, batch_size: int
    ) -> None:
        """Load `vlm`, or share another reward's copy. Raises `EnvironmentFault` where it is not there."""
        source = locate(vlm)
        place = pick_device(device)
        precision = pick_dtype(dtype, place)
        with loading(reward, "vlm", source):
            self.judge: VisionLanguageModel | None = shared(
                ("vision-language", source, place, precision), lambda: load(source, place, precision)
            )
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size

    def __call__(self, images: Sequence[Image], questions: Sequence[str]) -> list[str]:
        """N answers, computed `batch_size` at a time."""
        if self.judge is None:
            raise RuntimeError("this reward was closed")
        answers: list[str] = []
        pairs = list(zip(images, questions, strict=True))
        for start in range(0, len(pairs), self.batch_size):
            with self.judge.turn:
                answers += answer(self.judge, pairs[start : start + self.batch_size], self.max_new_tokens)
        return answers

    def close(self) -> None:
        self.judge = None


def load(source: str, device: torch.device, dtype: torch.dtype) -> VisionLanguageModel:
    """Model and processor. Raises `EnvironmentFault` for one that takes no pictures or no questions."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = pretrained(AutoProcessor, source)
    if getattr(processor, "image_processor", None) is None:
        raise EnvironmentFault(
            f"vlm={source} is no vision-language model: it has no image processor",
            hint="vlm takes an image-text-to-text model such as llava-hf/llava-1.5-7b-hf",
        )
    if getattr(processor, "chat_template", None) is None:
        raise EnvironmentFault(
            f"vlm={source} has no chat template, so it cannot be asked anything",
            hint="take an instruction-tuned model such as llava-hf/llava-1.5-7b-hf",
        )
    processor.tokenizer.padding_side = "left"  # answers begin where questions end, in every row
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    model = pretrained(AutoModelForImageTextToText, source, dtype=dtype)
    # greedy: the model's own end tokens stay, its sampling goes
    model.generation_config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None)
    model.generation_config.update(max_length=None, pad_token_id=processor.tokenizer.pad_token_id)
    return VisionLanguageModel(model.to(device).eval().requires_grad_(False), processor, device, dtype)


def answer(judge: VisionLanguageModel, pairs: Sequence[tuple[Image, str]], max_new_tokens: int) -> list[str]:
    """The greedy answer for each (picture, question)."""
    import torch

    processor = judge.processor
    questions = [ask(processor, question) for _, question in pairs]
    begin = processor.tokenizer.bos_token
    inputs = processor(
        text=questions,
        images=[[image] for image, _ in pairs],
        padding=True,
        return_tensors="pt",
        # a template that writes the first token itself must not get it twice
        add_special_tokens=begin is None or not questions[0].startswith(begin),
    ).to(judge.device, judge.dtype)
    with torch.inference_mode():
        tokens = judge.model.generate(**inputs, max_new_tokens=max_new_tokens)
    new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
    texts = processor.batch_decode(new_tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def ask(processor: Any, question: str) -> str:
    """The question after a picture, in the model's own chat format."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return text
