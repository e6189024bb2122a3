"""Prompt alignment (DDPO, arXiv 2305.13301, section 5.3): picture → caption → BERTScore with the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ddpo_core import Prompt, Scores, UsageError
from ddpo_core.judges import to_pil
from ddpo_reward_llava_bertscore import DEFAULT_BERT, DEFAULT_QUESTION, DEFAULT_REFERENCE
from ddpo_reward_llava_bertscore.answerers import make_answerer
from ddpo_reward_llava_bertscore.bertscore import BertScorer

if TYPE_CHECKING:
    from torch import Tensor

PLACEHOLDER = "{prompt}"


class Align:
    """BERTScore of a vision-language model's caption (candidate) against the prompt (reference)."""

    def __init__(
        self,
        *,
        question: str = DEFAULT_QUESTION,
        reference: str = DEFAULT_REFERENCE,
        score: Literal["recall", "precision", "f1"] = "recall",
        bert_model: str = DEFAULT_BERT,
        bert_layers: int | None = None,
        device: str = "auto",
        **answering: Any,
    ) -> None:
        """`answering` are the options of `make_answerer`, which says what they raise."""
        if PLACEHOLDER not in reference:
            raise UsageError(
                f"reward 'align': reference expects a text with {PLACEHOLDER} in it, got {reference!r}",
                hint=f'such as reference="{DEFAULT_REFERENCE}"',
            )
        self.question = question
        self.reference = reference
        self.score = score
        self.encoder_name = bert_model
        self.bert = BertScorer("align", bert_model, bert_layers, device=device)  # the smaller one first
        self.answerer = make_answerer("align", device=device, **answering)

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        """Scores of images [B, 3, H, W] in [0, 1], each with its caption; NaN where nothing was said."""
        captions = self.answerer(to_pil(images), [self.question] * len(prompts))
        references = [self.reference.replace(PLACEHOLDER, prompt.text) for prompt in prompts]
        said = [index for index, caption in enumerate(captions) if not self.bert.is_empty(caption)]
        values = np.full(len(prompts), np.nan)
        details: list[dict[str, object]] = [_silence(caption) for caption in captions]
        if said:
            scores = self.bert([captions[index] for index in said], [references[index] for index in said])
            values[said] = getattr(scores, self.score)
            for position, index in enumerate(said):
                details[index] = {
                    "caption": captions[index],
                    "precision": float(scores.precision[position]),
                    "recall": float(scores.recall[position]),
                    "f1": float(scores.f1[position]),
                    "bert_model": self.encoder_name,
                    "bert_layers": self.bert.layers,
                }
        return Scores(values, details)

    def close(self) -> None:
        """Let go of both models."""
        self.answerer.close()
        self.bert.close()


def _silence(caption: str) -> dict[str, object]:
    return {"caption": caption, "failure": "the model answered nothing"}
