"""A model of transformers answers greedily, one copy of it, and alike in every batch."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from ddpo_reward_llava_bertscore.in_process import InProcess
from transformers import AutoModelForImageTextToText, AutoProcessor

from ddpo_core import EnvironmentFault
from ddpo_core.judges import to_pil
from ddpo_core.testing import example_images

FAMILIES = pytest.mark.parametrize("family", ["tiny_llava", "tiny_gemma3"])
QUESTIONS = [
    "what animal is in this image ?",
    "how many cats are there ?",
    "cat",
    "a dog ?",
    "what is going on",
]
PICTURES = to_pil(example_images(5, 24))


def answerer(folder, batch_size=16, max_new_tokens=6) -> InProcess:
    return InProcess(
        "align",
        str(folder),
        max_new_tokens=max_new_tokens,
        device="cpu",
        dtype="float32",
        batch_size=batch_size,
    )


def greedy_by_hand(folder, picture, question: str, length: int) -> str:
    """One picture, no padding, no cache: the likeliest next token, again and again."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    conversation = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}
    ]
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    tokens, answer = dict(inputs), []
    for _ in range(length):
        with torch.no_grad():
            logits = model(**tokens).logits[0, -1]
        logits[model.generation_config.suppress_tokens] = -torch.inf
        token = int(logits.argmax())
        if token == 3:  # </s>
            break
        answer.append(token)
        for name, value in (("input_ids", token), ("attention_mask", 1), ("token_type_ids", 0)):
            if name in tokens:
                tokens[name] = torch.cat([tokens[name], torch.tensor([[value]])], dim=1)
    return processor.tokenizer.decode(answer, skip_special_tokens=True).strip()


@FAMILIES
def test_answers_are_the_likeliest_tokens_one_by_one(family, request):
    folder = request.getfixturevalue(family)
    expected = [greedy_by_hand(folder, *pair, 6) for pair in zip(PICTURES, QUESTIONS, strict=True)]
    assert answerer(folder)(PICTURES, QUESTIONS) == expected
    assert len(set(expected)) >= 2


@FAMILIES
def test_answers_depend_neither_on_batch_size_nor_on_padding_nor_order(family, request):
    folder = request.getfixturevalue(family)
    pictures, questions = PICTURES * 4, [question for question in QUESTIONS for _ in range(4)]
    together = answerer(folder)(pictures, questions)
    for size in (1, 3):
        assert answerer(folder, batch_size=size)(pictures, questions) == together
    assert answerer(folder)(pictures[::-1], questions[::-1]) == together[::-1]


def test_what_is_asked_and_what_is_seen_both_change_the_answer(tiny_llava):
    answers = answerer(tiny_llava)(PICTURES, [QUESTIONS[0]] * 5)
    assert len(set(answers)) >= 3
    assert answerer(tiny_llava)(PICTURES[:1], [QUESTIONS[1]]) != answers[:1]


def test_a_model_that_samples_by_its_own_settings_answers_greedily_here(tiny_llava, tmp_path, caplog):
    folder = tmp_path / "sampling"
    shutil.copytree(tiny_llava, folder)
    settings = {
        "do_sample": True,
        "temperature": 2.0,
        "top_p": 0.9,
        "top_k": 9,
        "max_length": 5,
        "eos_token_id": 3,
        "suppress_tokens": [4],
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    state = torch.get_rng_state()
    assert answerer(folder)(PICTURES, QUESTIONS) == answerer(tiny_llava)(PICTURES, QUESTIONS)
    assert torch.equal(torch.get_rng_state(), state)
    assert not caplog.text


def test_an_answer_ends_after_so_many_tokens(tiny_llava):
    assert all(len(text.split()) <= 2 for text in answerer(tiny_llava, max_new_tokens=2)(PICTURES, QUESTIONS))


def test_two_rewards_share_one_model_and_the_last_one_frees_it(tiny_llava):
    first, second = answerer(tiny_llava), answerer(tiny_llava, batch_size=2)
    assert first.judge is second.judge
    first.close()
    assert second(PICTURES[:1], QUESTIONS[:1])
    with pytest.raises(RuntimeError, match="closed"):
        first(PICTURES[:1], QUESTIONS[:1])


def test_weights_that_are_not_there_or_no_vision_language_model_are_one_line(tiny_bert, tiny_llava, tmp_path):
    with pytest.raises(EnvironmentFault, match="vlm=nowhere is neither a path that exists nor a hub id"):
        answerer("nowhere")
    with pytest.raises(EnvironmentFault, match=r"is no vision-language model: it has no image processor"):
        answerer(tiny_bert)
    with pytest.raises(EnvironmentFault, match=r"does not hold the weights that vlm= expects"):
        answerer(tmp_path)
    with pytest.raises(
        EnvironmentFault, match=r"llava-hf/llava-1\.5-13b-hf are not on this machine"
    ) as caught:
        answerer("llava-hf/llava-1.5-13b-hf")
    assert "\n" not in str(caught.value)
    mute = tmp_path / "mute"
    shutil.copytree(tiny_llava, mute, ignore=shutil.ignore_patterns("chat_template*"))
    with pytest.raises(EnvironmentFault, match="has no chat template"):
        answerer(mute)
