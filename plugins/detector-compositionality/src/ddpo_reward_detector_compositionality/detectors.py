"""Detectors: pictures and the names to look for in each → boxes. One class for each way of asking.

    Owl             OWL-ViT, OWLv2: one query per name; each patch of the picture answers all of them
    GroundingDino   the names as one sentence, "cat. dog."; each box answers with the tokens it means
    Labelled        DETR, YOLOS, RT-DETR, …: a fixed list of names

All three give a box to the one name that fits it best, as their own post-processing does, and confidences in
[0, 1]. Lists of names may differ from picture to picture; how many pictures are seen at a time changes
nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ddpo_core import RewardError, UsageError
from ddpo_core.judges import loading, locate, pick_device, pick_dtype, pretrained, shared
from ddpo_reward_detector_compositionality.rules import SAME_OBJECT, Found
from ddpo_reward_detector_compositionality.scenes import REWARD, singular, with_article

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULTS = {
    "zero-shot": "google/owlv2-base-patch16-ensemble",
    "grounding-dino": "IDEA-Research/grounding-dino-tiny",
    "detr": "facebook/detr-resnet-50",
}
OWL_TYPES = ("owlv2", "owlvit")
DINO_TYPES = ("grounding-dino", "mm-grounding-dino")
OWL_QUERY, DINO_QUERY = "a photo of a {object}", "{object}"
MOST_BOXES = 100  # of each name in one picture, best first

# What prompts call a thing → what COCO's 80 labels call it. Synonyms only: no boy is looked for as a person.
SYNONYMS = {
    "bike": "bicycle",
    "motorbike": "motorcycle",
    "plane": "airplane",
    "aeroplane": "airplane",
    "aircraft": "airplane",
    "sofa": "couch",
    "television": "tv",
    "doughnut": "donut",
    "mobile phone": "cell phone",
    "hair dryer": "hair drier",
    "table": "dining table",
    "plant": "potted plant",
    "ball": "sports ball",
}


class Detector(Protocol):
    """Looks for names in pictures."""

    overlap: float  # IoU from which two boxes of one name are one object

    def __call__(self, pictures: Sequence[Image], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        """For each picture, the boxes of the names asked for in it, in parts of its width and height."""


@dataclass(eq=False)
class Network:
    """A model and its processor, held once for all rewards that use it."""

    model: Any
    processor: Any

    @property
    def kind(self) -> str:
        kind: str = self.model.config.model_type
        return kind

    def __call__(self, inputs: Any) -> Any:
        """The model's outputs for a processor's answer, moved to where the model is."""
        inputs = inputs.to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        with torch.no_grad():
            return self.model(**inputs)


def load(
    detector: str,
    weights: str | None,
    *,
    query: str | None = None,
    min_score: float = 0.1,
    device: str = "auto",
    dtype: str = "auto",
) -> Detector:
    """The detector of these weights; their own config says of which kind it is.

    Raises `EnvironmentFault` for weights that cannot be had, `UsageError` for a query that cannot be asked.
    """
    source = locate(weights or DEFAULTS[detector])
    place = pick_device(device)
    network: Network
    with loading(REWARD, "weights", source):
        from transformers import AutoConfig

        kind: str = pretrained(AutoConfig, source).model_type
        precision = _precision(dtype, kind, place)
        network = shared(
            (REWARD, source, str(place), str(precision)), lambda: _network(source, place, precision)
        )
    if kind in OWL_TYPES:
        return Owl(network, _checked(query or OWL_QUERY), min_score)
    if kind in DINO_TYPES:
        return GroundingDino(network, _checked(query or DINO_QUERY), min_score)
    if query is not None:
        raise UsageError(f"the reward {REWARD}: {source} ({kind}) has fixed names and takes no query=")
    return Labelled(network, source, min_score)


# ---- open vocabulary ---------------------------------------------------------------------------------


@dataclass
class Owl:
    """OWL-ViT (2205.06230) and OWLv2 (2306.09683): sigmoid of the match of each patch with each query."""

    network: Network
    query: str
    min_score: float
    overlap: float = 0.5  # neighbouring patches answer for one object, and nothing suppresses them

    def __call__(self, pictures: Sequence[Image], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        queries = [[asked(self.query, name) for name in some] for some in names]
        most = max(map(len, queries))
        # The filling queries get answers as well, which are cut off below: their tokens are not masked.
        filled = [some + [" "] * (most - len(some)) for some in queries]
        processor = self.network.processor
        outputs = self.network(
            processor(images=list(pictures), text=filled, return_tensors="pt", truncation=True)
        )
        logits = outputs.logits.float()  # [B, patches, queries]
        boxes = _corners(outputs.pred_boxes.float())
        return [
            _found(some, answers[:, : len(some)], box * self._stretch(picture), self.min_score)
            for some, answers, box, picture in zip(names, logits, boxes, pictures, strict=True)
        ]

    def _stretch(self, picture: Image) -> Tensor:
        """OWLv2 sees the picture padded to a square, right and below; OWL-ViT sees it squeezed into one."""
        if self.network.kind != "owlv2":
            return torch.ones(4, device=self.network.model.device)
        longer = max(picture.size)
        width, height = longer / picture.width, longer / picture.height
        return torch.tensor([width, height, width, height], device=self.network.model.device)


@dataclass
class GroundingDino:
    """Grounding DINO (2303.05499): a box's score for a name is the best sigmoid among the name's tokens."""

    network: Network
    query: str
    min_score: float
    overlap: float = SAME_OBJECT

    def __call__(self, pictures: Sequence[Image], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        phrases = [
            [asked(self.query, name).lower().replace(".", " ").strip() for name in some] for some in names
        ]
        captions = [". ".join(some) + "." for some in phrases]
        processor = self.network.processor
        tokens = processor.tokenizer(captions, padding=True, return_offsets_mapping=True)
        outputs = self.network(
            processor(images=list(pictures), text=captions, padding=True, return_tensors="pt")
        )
        logits = outputs.logits.float()  # [B, boxes, tokens]; −∞ where there is no token
        boxes = _corners(outputs.pred_boxes.float())
        found = []
        for place, (some, asked_for) in enumerate(zip(names, phrases, strict=True)):
            spans = _token_spans(asked_for, tokens["offset_mapping"][place])
            columns = [logits[place][:, span].amax(dim=1) for span in spans]
            found.append(_found(some, torch.stack(columns, dim=1), boxes[place], self.min_score))
        return found


def asked(template: str, name: str) -> str:
    """The query for one name."""
    return template.replace("{object}", name).replace("{a_object}", with_article(name))


def _checked(template: str) -> str:
    rest = template.replace("{object}", "").replace("{a_object}", "")
    if rest == template or "{" in rest or "}" in rest:
        raise UsageError(
            f"the reward {REWARD} expects query= with {{object}} or {{a_object}} in it, got {template!r}",
            hint=f"{REWARD},query='a photo of {{a_object}}'",
        )
    return template


def _token_spans(phrases: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The tokens of each phrase in "first. second.": those whose characters lie in it."""
    spans, start = [], 0
    for phrase in phrases:
        end = start + len(phrase)
        spans.append([place for place, (low, high) in enumerate(offsets) if start <= low < high <= end])
        start = end + len(". ")
    return spans


# ---- fixed names -------------------------------------------------------------------------------------


class Labelled:
    """A detector with a list of names of its own, such as DETR's (2005.12872) 80 of COCO."""

    def __init__(self, network: Network, source: str, min_score: float) -> None:
        self.network, self.source, self.min_score, self.overlap = network, source, min_score, SAME_OBJECT
        self.labels = {
            str(label).lower(): int(place) for place, label in network.model.config.id2label.items()
        }

    def __call__(self, pictures: Sequence[Image], names: Sequence[Sequence[str]]) -> list[list[Found]]:
        wanted = [{self._label(name): name for name in some} for some in names]
        processor = self.network.processor
        outputs = self.network(processor(images=list(pictures), return_tensors="pt"))
        answers = processor.post_process_object_detection(
            outputs, threshold=self.min_score, target_sizes=[(1, 1)] * len(pictures)
        )
        return [
            [
                Found(some[label], score, _clipped(box))
                for score, label, box in zip(
                    answer["scores"].tolist(),
                    answer["labels"].tolist(),
                    answer["boxes"].tolist(),
                    strict=True,
                )
                if label in some
            ]
            for some, answer in zip(wanted, answers, strict=True)
        ]

    def _label(self, name: str) -> int:
        """The number of a name. Raises `RewardError` for one that the detector was never taught."""
        words = name.lower().split()
        last = [words[-1], singular(words[-1])]
        for form in (" ".join([*words[:-1], word]) for word in last):
            label = SYNONYMS.get(form, form)
            if form in self.labels or label in self.labels:
                return self.labels[form if form in self.labels else label]
        near = difflib.get_close_matches(name.lower(), self.labels, n=3)
        raise RewardError(
            f"the reward {REWARD}: {self.source} knows {len(self.labels)} names, and {name!r} is none of them"
            + (f"; nearest: {', '.join(near)}" if near else ""),
            hint=f"{REWARD},detector=zero-shot looks for any name",
        )


# ---- helpers -----------------------------------------------------------------------------------------


def _network(source: str, place: torch.device, precision: torch.dtype) -> Network:
    import transformers

    kind = pretrained(transformers.AutoConfig, source).model_type
    if kind in (*OWL_TYPES, *DINO_TYPES):
        model = pretrained(transformers.AutoModelForZeroShotObjectDetection, source, dtype=precision)
        processor = pretrained(transformers.AutoProcessor, source)
    else:
        model = pretrained(transformers.AutoModelForObjectDetection, source, dtype=precision)
        processor = pretrained(transformers.AutoImageProcessor, source)
    return Network(model.to(place).eval(), processor)


def _precision(dtype: str, kind: str, place: torch.device) -> torch.dtype:
    """Half precision by default for OWL only: deformable attention is written for float32."""
    if dtype == "auto" and kind not in OWL_TYPES:
        return torch.float32
    return pick_dtype(dtype, place)


def _corners(boxes: Tensor) -> Tensor:
    """Centre x, y, width, height [..., 4] → left, top, right, bottom."""
    cx, cy, width, height = boxes.unbind(-1)
    return torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], dim=-1)


def _found(names: Sequence[str], logits: Tensor, boxes: Tensor, min_score: float) -> list[Found]:
    """Of logits [N, names] and boxes [N, 4], those from `min_score`, each for its best name.

    The best is told by logits: their sigmoids are equal where float32 has no room between them.
    """
    highest, labels = logits.max(dim=1)
    best = highest.sigmoid()
    found = []
    for place, name in enumerate(names):
        chosen = ((labels == place) & (best >= min_score)).nonzero().flatten()
        chosen = chosen[best[chosen].argsort(descending=True, stable=True)][:MOST_BOXES]
        for score, box in zip(best[chosen].tolist(), boxes[chosen].tolist(), strict=True):
            found.append(Found(name, score, _clipped(box)))
    return found


def _clipped(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)
    return left, top, right, bottom
