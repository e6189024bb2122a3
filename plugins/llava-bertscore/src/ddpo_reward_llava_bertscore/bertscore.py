"""BERTScore (Zhang et al., arXiv 1904.09675), computed by the package bert-score.

Every token of the reference looks for its nearest token of the candidate, by the cosine of hidden states:

    recall = 1/|x| Σ_{x_i ∈ reference} max_{y_j ∈ candidate} cos(x_i, y_j)

and precision the other way round. No idf weights, no baseline rescaling; the marks at both ends weigh 0.

The encoder is loaded here and not by bert-score 0.3.13, which takes any path with "t5" in it for a T5,
computes in whatever precision the file has, and hands the tokeniser a length limit of 10³⁰ where the model
names none, as DeBERTa does and transformers 5 refuses (Tiiiger/bert_score issue 205). Tests compare with its
own scorer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo_core.errors import UsageError
from ddpo_core.judges import loading, locate, pick_device, pretrained, shared

if TYPE_CHECKING:
    import torch

TEXTS_AT_A_TIME = 64
LONGEST_TEXT = 512  # tokens, where the encoder names no limit


@dataclass(eq=False)
class Encoder:
    """A text encoder that ends at the layer to be compared."""

    model: Any
    tokenizer: Any


@dataclass(frozen=True)
class BertScores:
    """[N] float64 each, in [−1, 1]."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


class BertScorer:
    """BERTScore with one encoder, in float32."""

    def __init__(self, reward: str, bert_model: str, layers: int | None, *, device: str) -> None:
        """Load the encoder, or share that of another reward.

        Raises `EnvironmentFault` where it is not there, `UsageError` for a layer it has not, or where none is
        given and bert-score knows no best one.
        """
        source = locate(bert_model)
        place = pick_device(device)
        with loading(reward, "bert_model", source):
            self.layers = pick_layers(reward, bert_model, source, layers)
            self.encoder: Encoder | None = shared(
                ("bertscore", source, self.layers, place), lambda: load(source, self.layers, place)
            )

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> BertScores:
        """The scores of N candidates against N references, none of them empty."""
        from bert_score.utils import bert_cos_score_idf

        encoder = self._encoder()
        scores = bert_cos_score_idf(
            encoder.model,
            list(references),
            list(candidates),
            encoder.tokenizer,
            equal_weights(encoder.tokenizer),
            batch_size=TEXTS_AT_A_TIME,
            device=str(next(encoder.model.parameters()).device),
        )
        return BertScores(*scores.double().numpy().T)

    def is_empty(self, text: str) -> bool:
        """Whether nothing of the text reaches the encoder."""
        return not self._encoder().tokenizer(text.strip(), add_special_tokens=False)["input_ids"]

    def close(self) -> None:
        self.encoder = None

    def _encoder(self) -> Encoder:
        if self.encoder is None:
            raise RuntimeError("this reward was closed")
        return self.encoder


def pick_layers(reward: str, bert_model: str, source: str, layers: int | None) -> int:
    """The layer to compare: the given one, or bert-score's for models it knows. Raises `UsageError`."""
    from bert_score.utils import model2layers
    from transformers import AutoConfig

    total = pretrained(AutoConfig, source).num_hidden_layers
    if layers is None and bert_model not in model2layers:
        raise UsageError(
            f"reward '{reward}': bert_layers is needed with bert_model={bert_model}, for which"
            f" bert-score knows no best layer; it has 1 to {total}",
            hint="the layer that ranks a few captions best, usually one of the last: "
            f"{reward},bert_model={bert_model},bert_layers={total}",
        )
    chosen = model2layers[bert_model] if layers is None else layers
    if not 1 <= chosen <= total:
        raise UsageError(f"reward '{reward}': bert_layers={chosen}: {bert_model} has layers 1 to {total}")
    return int(chosen)


def load(source: str, layers: int, device: torch.device) -> Encoder:
    """The first `layers` layers of a text encoder; of an encoder-decoder, its encoder."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = pretrained(AutoTokenizer, source)
    model: Any = pretrained(AutoModel, source, num_hidden_layers=layers, dtype=torch.float32)
    positions = getattr(model.config, "max_position_embeddings", None) or LONGEST_TEXT
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions, LONGEST_TEXT)
    if hasattr(model, "encoder") and hasattr(model, "decoder"):
        model = model.encoder
    return Encoder(model.to(device).eval().requires_grad_(False), tokenizer)


def equal_weights(tokenizer: Any) -> defaultdict[int, float]:
    """What bert-score takes for "no idf": 1 for every token, 0 for the marks at both ends of a text."""
    weights = defaultdict(lambda: 1.0)
    weights[tokenizer.cls_token_id] = 0.0
    weights[tokenizer.sep_token_id] = 0.0
    return weights
