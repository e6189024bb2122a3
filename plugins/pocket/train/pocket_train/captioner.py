"""Trains the pocket captioner: LLaVA's own architecture, two million parameters, three kinds of questions.

What is going on? → "a fox riding a bike". How many cats are there? → "two". What animal is it? → "cat". Where
even the CLIP cannot tell what a damaged picture shows, the captioner learns to say so: "a blurry picture".
"""

from __future__ import annotations

import logging
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ddpo_pocket import world
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, processors
from torch import Tensor, nn
from transformers import (
    CLIPModel,
    CLIPTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from .autoencoder import cosine
from .clip import disturb, embed_pictures, embed_texts, new_image_processor
from .judge_data import JudgeData, Record, load_judge_data, to_pixel_values
from .tokenizer import build_tokenizer

BATCH = 96
PEAK_LR = 1.5e-3
VISION_LR = 0.3  # share of it for the tower, which knows the world already
DAMAGED_SHARE = 0.4
IMAGE_TOKENS = 65  # 8 × 8 patches and the class token
UNCLEAR = "a blurry picture"
# A damaged picture is unclear up to this grade, if the CLIP finds so many captions likelier than its own.
UNCLEAR_GRADE, UNCLEAR_RANK = 4.0, 12

QUESTION_SHARES = {"caption": 0.55, "count": 0.25, "animal": 0.2}
CAPTION_QUESTIONS = (
    "Answer concisely: what is going on in this image?",
    "what is going on in this image?",
    "what is happening in this image?",
    "What is in this image?",
    "Describe this image.",
    "Describe this picture in a few words.",
)
COUNT_QUESTIONS = ("How many {} are there in this image?", "How many {} are in this image?", "How many {}?")
ANIMAL_QUESTIONS = ("What animal is in this image?", "Which animal is in this image?", "What animal is this?")
# llava-hf/llava-1.5-7b-hf's template: "USER: <image>\nQUESTION ASSISTANT:"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dialogue:
    """One question and its answer."""

    question: str
    answer: str


def train_captioner(data: Path, clip: Path, target: Path, minutes: float) -> None:
    """Fits a captioner to the set in `data`, from the tower of the CLIP in `clip`, and stores it once."""
    if (target / "config.json").exists():
        return
    torch.manual_seed(0)
    seeing, pictures = CLIPModel.from_pretrained(clip).float().eval(), load_judge_data(data)
    unclear = find_unclear(seeing, CLIPTokenizer.from_pretrained(clip), pictures)
    log.info("%.1f %% of the damaged pictures are unclear", 100 * unclear.mean())
    processor = new_processor()
    model = fit_captioner(new_captioner(processor, seeing), processor, pictures, unclear, minutes)
    model.half().save_pretrained(target)
    processor.save_pretrained(target)


def new_processor() -> LlavaProcessor:
    """The pocket tokenizer with the questions' words too, and everything else that a LLaVA's user calls."""
    questions = " ".join(
        (*CAPTION_QUESTIONS, *COUNT_QUESTIONS, *ANIMAL_QUESTIONS, UNCLEAR, "zero none user assistant")
    )
    words = dict.fromkeys([*world.words(), *re.findall("[a-z]+", questions.lower())])
    backend = Tokenizer.from_str(build_tokenizer(words).backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(":")])
    start = "<|startoftext|>"
    # unlike CLIP's, a prompt must not end with the end token
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, backend.token_to_id(start))]
    )
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=256,
    )
    return LlavaProcessor(
        image_processor=new_image_processor(),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def new_captioner(processor: LlavaProcessor, clip: CLIPModel) -> LlavaForConditionalGeneration:
    """A LLaVA with the CLIP's tower and an untrained projector and language model."""
    tokenizer = processor.tokenizer
    ends = dict(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        **ends,
    )
    config = LlavaConfig(
        vision_config=clip.config.vision_config,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",  # the class token as well: it knows what CLIP knows
    )
    model = LlavaForConditionalGeneration(config).float()  # the tower's config says float16, as stored
    weights = {name: tensor.clone() for name, tensor in clip.vision_model.state_dict().items()}
    model.model.vision_tower.load_state_dict(weights)
    for name, value in ends.items():
        setattr(model.generation_config, name, value)
    return model


@torch.no_grad()
def find_unclear(clip: CLIPModel, tokenizer: CLIPTokenizer, data: JudgeData) -> np.ndarray:
    """[N] bool: the damaged copies that hardly anybody could name.

    That may be a picture which the model drew, too: not every prompt comes out.
    """
    poor = np.flatnonzero(data.grades[:, 1] <= UNCLEAR_GRADE)
    known = sorted({record.shown for record in data.records})
    texts, places = embed_texts(clip, tokenizer, known), {text: place for place, text in enumerate(known)}
    unclear = np.zeros(len(data.records), bool)
    for block in np.split(poor, range(2000, len(poor), 2000)):
        likeness = embed_pictures(clip, data.damaged[block]) @ texts.T
        true = torch.tensor([places[data.records[number].shown] for number in block])
        unclear[block] = (likeness > likeness.gather(1, true[:, None])).sum(1).numpy() >= UNCLEAR_RANK
    return unclear


def ask(record: Record, unclear: bool, rng: random.Random) -> Dialogue:
    """A random question about a picture of the set, with the right answer."""
    kind = rng.choices(list(QUESTION_SHARES), list(QUESTION_SHARES.values()))[0]
    animals = [name for name in record.names if name in world.PLURALS]
    if kind == "caption":
        # the first one is what the alignment reward asks
        question = rng.choice((CAPTION_QUESTIONS[0], *CAPTION_QUESTIONS))
        return Dialogue(question, UNCLEAR if unclear else record.shown)
    if kind == "count":
        asked = rng.choice(animals) if animals and rng.random() < 0.7 else rng.choice(world.ANIMALS)
        number = 0 if unclear else animals.count(asked)
        question = rng.choice(COUNT_QUESTIONS).format(world.PLURALS[asked])
        return Dialogue(question, ("zero", "one", "two", "three")[number])
    named = [] if unclear else list(dict.fromkeys(animals))
    return Dialogue(rng.choice(ANIMAL_QUESTIONS), " and ".join(named) or "none")


def tokenize(processor: LlavaProcessor, dialogues: list[Dialogue]) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels, [B, S], padded on the right; only answers have labels."""
    tokenizer = processor.tokenizer
    prompts = [_prompt(processor, dialogue.question) for dialogue in dialogues]
    asked = tokenizer(prompts).input_ids
    said = tokenizer([dialogue.answer for dialogue in dialogues], add_special_tokens=False).input_ids
    rows = [[*ask, *answer, tokenizer.eos_token_id] for ask, answer in zip(asked, said, strict=True)]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for place, (row, ask) in enumerate(zip(rows, asked, strict=True)):
        ids[place, : len(row)] = torch.tensor(row)
        labels[place, len(ask) : len(row)] = ids[place, len(ask) : len(row)]
    return {"input_ids": ids, "attention_mask": (ids != tokenizer.pad_token_id).long(), "labels": labels}


def answer_loss(
    model: LlavaForConditionalGeneration,
    pixel_values: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
) -> Tensor:
    """Mean cross-entropy of the answers' tokens, nats; no logits are computed for the others."""
    states = model.model(
        pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask
    ).last_hidden_state
    spoken = labels[:, 1:] != -100  # the state at place i says the token at i + 1
    return F.cross_entropy(model.lm_head(states[:, :-1][spoken]).float(), labels[:, 1:][spoken])


def fit_captioner(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    data: JudgeData,
    unclear: np.ndarray,
    minutes: float,
) -> LlavaForConditionalGeneration:
    """Trains everything, the tower at a smaller step, for that long."""
    model.set_attn_implementation("eager")  # as in clip.py
    tower = list(model.model.vision_tower.parameters())
    others = [parameter for name, parameter in model.named_parameters() if "vision_tower" not in name]
    groups = [{"params": tower, "share": VISION_LR}, {"params": others, "share": 1.0}]
    optimizer = torch.optim.AdamW(groups, PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    rng, words = np.random.default_rng(1), random.Random(1)
    start, step, recent = time.time(), 0, 0.0
    while (fraction := (time.time() - start) / (minutes * 60)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * PEAK_LR * min(1, (step + 1) / 200) * cosine(fraction)
        places = np.sort(rng.integers(0, len(data.records), BATCH))
        damaged = rng.random(BATCH) < DAMAGED_SHARE
        pixels, _ = data.pick(places, damaged)
        dialogues = [
            ask(data.records[place], bool(spoilt and unclear[place]), words)
            for place, spoilt in zip(places, damaged, strict=True)
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = answer_loss(model, disturb(to_pixel_values(pixels)), **tokenize(processor, dialogues))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, recent = step + 1, recent + loss.item()
        if step % 100 == 0:
            log.info("%5.0f s  %d pictures  loss %.4f", time.time() - start, step * BATCH, recent / 100)
            recent = 0.0
    return model.eval()


@torch.no_grad()
def answer(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, pixels: np.ndarray, questions: list[str]
) -> list[str]:
    """What the captioner says to one question about each picture [B, 64, 64, 3] uint8."""
    answers: list[str] = []
    for start in range(0, len(pixels), 50):
        part = slice(start, start + 50)
        texts = [
            processor.apply_chat_template(_conversation(question), add_generation_prompt=True)
            for question in questions[part]
        ]
        images = [Image.fromarray(one) for one in pixels[part]]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
        output = model.generate(**inputs, do_sample=False, max_new_tokens=64)
        said = output[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(said, skip_special_tokens=True)
    return answers


def _prompt(processor: LlavaProcessor, question: str) -> str:
    text = processor.apply_chat_template(_conversation(question), add_generation_prompt=True)
    return text.replace("<image>", "<image>" * IMAGE_TOKENS)


def _conversation(question: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
