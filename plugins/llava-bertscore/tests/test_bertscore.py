"""BERTScore is what the formula says, whatever else is in the batch and however long the texts."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from ddpo_reward_llava_bertscore.bertscore import BertScorer
from transformers import AutoModel, AutoTokenizer

from ddpo_core import EnvironmentFault, UsageError

PAIRS = [
    ("a cat", "the image contains a cat"),
    ("two dogs riding a bike", "the image contains a cat"),
    ("the animal is a wolf", "the image contains two wolves"),
    ("a red ball", "the image contains a cat washing the dishes in this image"),
]
CANDIDATES = [candidate for candidate, _ in PAIRS]
REFERENCES = [reference for _, reference in PAIRS]


def scorer(folder, layers=2) -> BertScorer:
    return BertScorer("align", str(folder), layers, device="cpu")


def by_hand(folder, layer: int, candidate: str, reference: str) -> tuple[float, float, float]:
    """Precision, recall and F1 by loops over tokens, from the hidden states of the whole encoder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float64).eval()

    def tokens(text: str) -> list[torch.Tensor]:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
        return [vector / vector.norm() for vector in hidden]

    ours, theirs = tokens(reference), tokens(candidate)
    recall = [max(float(x @ y) for y in theirs) for x in ours][1:-1]  # [CLS] and [SEP] may be found,
    precision = [max(float(x @ y) for x in ours) for y in theirs][1:-1]  # and look for nothing
    p, r = sum(precision) / len(precision), sum(recall) / len(recall)
    return p, r, 2 * p * r / (p + r)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_scores_are_greedy_matching_of_the_encoders_own_hidden_states(tiny_bert, layer):
    scores = scorer(tiny_bert, layer)(CANDIDATES, REFERENCES)
    expected = np.array([by_hand(tiny_bert, layer, *pair) for pair in PAIRS])
    assert np.allclose(scores.precision, expected[:, 0], atol=1e-6)
    assert np.allclose(scores.recall, expected[:, 1], atol=1e-6)
    assert np.allclose(scores.f1, expected[:, 2], atol=1e-6)
    assert np.ptp(scores.recall) > 0.01


def test_scores_are_those_of_the_packages_own_scorer(tiny_bert):
    from bert_score import BERTScorer

    theirs = BERTScorer(model_type=str(tiny_bert), num_layers=2, device="cpu", rescale_with_baseline=False)
    theirs._tokenizer.model_max_length = 40
    ours = scorer(tiny_bert)(CANDIDATES, REFERENCES)
    for mine, its in zip(
        (ours.precision, ours.recall, ours.f1), theirs.score(CANDIDATES, REFERENCES), strict=True
    ):
        assert np.array_equal(mine, its.double().numpy())


def test_a_text_against_itself_scores_one(tiny_bert):
    assert scorer(tiny_bert)(["two wolves"], ["two wolves"]).recall == pytest.approx(1, abs=1e-6)


def test_a_score_depends_neither_on_the_batch_nor_on_its_padding(tiny_bert):
    bert = scorer(tiny_bert)
    together = bert(CANDIDATES * 40, REFERENCES * 40).recall  # three encodings of 64
    alone = [bert([candidate], [reference]).recall[0] for candidate, reference in PAIRS]
    assert np.allclose(together, alone * 40, atol=1e-6)


def test_what_is_longer_than_the_encoder_can_read_is_cut(tiny_bert):
    bert = scorer(tiny_bert)
    endless, cut = "cat dog " * 500, "cat dog " * 19  # 40 positions, two of them marks
    assert bert([endless], ["a cat"]).recall == bert([cut], ["a cat"]).recall


def test_a_file_in_half_precision_is_computed_in_float32(tiny_bert, tmp_path):
    half = AutoModel.from_pretrained(tiny_bert, dtype=torch.float16)
    half.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    bert = scorer(tmp_path)
    assert next(bert.encoder.model.parameters()).dtype == torch.float32
    assert np.allclose(
        bert(CANDIDATES, REFERENCES).recall, scorer(tiny_bert)(CANDIDATES, REFERENCES).recall, atol=0.01
    )


def test_a_path_with_t5_in_it_is_not_taken_for_a_t5(tiny_bert, tmp_path):
    folder = tmp_path / "scott5" / "bert"
    shutil.copytree(tiny_bert, folder)
    assert type(scorer(folder).encoder.model).__name__ == "BertModel"


def test_of_an_encoder_with_a_decoder_the_encoder_is_used(tiny_bert, tmp_path):
    from bert_score import BERTScorer
    from transformers import BartConfig, BartModel

    config = BartConfig(
        vocab_size=64,
        d_model=32,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=40,
        init_std=0.3,
    )
    torch.manual_seed(0)
    BartModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    theirs = BERTScorer(model_type=str(tmp_path), num_layers=2, device="cpu")
    theirs._tokenizer.model_max_length = 40
    expected = theirs.score(CANDIDATES, REFERENCES)[1].double().numpy()
    assert np.array_equal(scorer(tmp_path, 2)(CANDIDATES, REFERENCES).recall, expected)


def test_an_answer_without_a_token_is_empty(tiny_bert):
    bert = scorer(tiny_bert)
    assert [bert.is_empty(text) for text in ("", " \n", "\t ", "cat", "?")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_two_rewards_share_one_encoder_and_the_last_one_frees_it(tiny_bert):
    first, second = scorer(tiny_bert), scorer(tiny_bert)
    assert first.encoder is second.encoder
    assert scorer(tiny_bert, 1).encoder is not first.encoder
    first.close()
    assert second(["a cat"], ["a cat"]).recall > 0.99
    with pytest.raises(RuntimeError, match="closed"):
        first(["a cat"], ["a cat"])


def test_a_folder_needs_to_say_which_layer(tiny_bert):
    with pytest.raises(UsageError, match=r"bert_layers is needed with bert_model=.*it has 1 to 3"):
        scorer(tiny_bert, None)
    with pytest.raises(UsageError, match=r"bert_layers=4: .* has layers 1 to 3"):
        scorer(tiny_bert, 4)


def test_weights_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"reward 'align': bert_model=nowhere is neither a path"):
        scorer("nowhere")
    with pytest.raises(EnvironmentFault, match=r"'ddpo_core:nowhere': the package ddpo_core has no nowhere"):
        scorer("ddpo_core:nowhere")
    with pytest.raises(EnvironmentFault, match=r"does not hold the weights that bert_model= expects"):
        scorer(tmp_path)
    with pytest.raises(
        EnvironmentFault, match="microsoft/deberta-xlarge-mnli are not on this machine"
    ) as caught:
        scorer("microsoft/deberta-xlarge-mnli", None)
    assert "\n" not in str(caught.value) and "hf download microsoft/deberta-xlarge-mnli" in caught.value.hint
