"""Prompt alignment as a vision-language model sees it. Metadata only: models load when a reward is built."""

from __future__ import annotations

from collections.abc import Iterable

from ddpo_core import Option, RewardInfo, Weights, hookimpl
from ddpo_core.judges import BATCH_SIZE, DEVICE, DTYPE

DDPO_PLUGIN_API = (1, 0)

DEFAULT_VLM = "llava-hf/llava-1.5-13b-hf"
DEFAULT_BERT = "microsoft/deberta-xlarge-mnli"
DEFAULT_QUESTION = "Answer concisely: what is going on in this image?"
DEFAULT_REFERENCE = "The image contains {prompt}"

_LLAVA = Weights(name=DEFAULT_VLM, megabytes=26700, licence="Llama 2 Community License")
_DEBERTA = Weights(name=DEFAULT_BERT, megabytes=1520, licence="MIT")

_WHO_ANSWERS = (
    Option(
        name="vlm",
        type="str",
        default=DEFAULT_VLM,
        help="who looks: folder, PACKAGE:PATH or hub id; with endpoint, its name at the server",
    ),
    Option(
        name="endpoint",
        type="str",
        help="URL of an OpenAI-compatible server that runs the model instead of this process",
    ),
    Option(
        name="api_key_env",
        type="str",
        help="the environment variable that holds the server's key, if it wants one",
    ),
    Option(name="max_new_tokens", type="int", default=64, minimum=1, help="longest answer; it is greedy"),
)
_HOW_A_SERVER_IS_ASKED = (
    Option(name="concurrency", type="int", default=8, minimum=1, help="requests to the server at a time"),
    Option(
        name="timeout",
        type="float",
        default=60.0,
        minimum=0.01,
        help="seconds to wait for an answer of the server",
    ),
    Option(
        name="retries",
        type="int",
        default=3,
        minimum=0,
        help="how often a failed request is sent again, after 1, 2, 4 … 30 seconds",
    ),
    Option(
        name="image_format",
        type="str",
        default="png",
        choices=("png", "jpeg"),
        help="what the server is sent; jpeg has quality 80, as in DDPO's code",
    ),
)
_WHERE_IT_RUNS = (DEVICE, DTYPE, BATCH_SIZE)

_ALIGN_DOC = """\
The vision-language model is asked what is going on in the picture; its answer is the candidate, and
"The image contains {prompt}" the reference of a BERTScore (arXiv 1904.09675) without idf weights and without
baseline rescaling. Recall asks how much of the prompt is found in the answer, as in the DDPO paper
(arXiv 2305.13301, section 5.3).

The scale is the encoder's own: an unrelated answer gets about 0.1 from one encoder and 0.8 from another.
Compare scores of one `bert_model` and `bert_layers` only; both are kept with every score.

An empty answer is a failure of that picture, for the run's `on_error` to settle, and no score. A server that
does not answer is asked again `retries` times; then all of the call's pictures have failed.
"""
_COUNTING_DOC = """\
For the prompt "two wolves" the model is asked "How many wolves are there in this image?" and "What animal is
in this image?". One half of the score is for the number, as a word or in digits, one half for the animal,
singular or plural; both are looked for as whole words. With `match=soft` a wrong number n instead of N gets
1 − |n − N| / N of its half, and 0 from 2N on.

Prompts are a number and a plural, as in the prompt set `counting`, or carry `count` and `animal` as metadata.
"""

_COMMON_REQUIREMENTS = ("torch", "transformers", "PIL", "httpx2")
_INSTALL = "pip install ddpo-reward-llava-bertscore"


@hookimpl
def ddpo_rewards() -> Iterable[RewardInfo]:
    return (
        RewardInfo(
            name="align",
            aliases=("llava-bertscore",),
            summary="BERTScore of a vision-language model's caption against the prompt",
            factory="ddpo_reward_llava_bertscore.align:Align",
            options=(
                *_WHO_ANSWERS,
                Option(name="question", type="str", default=DEFAULT_QUESTION, help="what the model is asked"),
                Option(
                    name="reference",
                    type="str",
                    default=DEFAULT_REFERENCE,
                    help="what its answer is compared with; {prompt} stands for the prompt",
                ),
                Option(
                    name="score",
                    type="str",
                    default="recall",
                    choices=("recall", "precision", "f1"),
                    help="recall: of the prompt in the answer; precision: of the answer in the prompt",
                ),
                Option(
                    name="bert_model",
                    type="str",
                    default=DEFAULT_BERT,
                    help="the encoder of BERTScore: a folder, PACKAGE:PATH or hub id",
                ),
                Option(
                    name="bert_layers",
                    type="int",
                    minimum=1,
                    help="its layer that is compared; default: bert-score's choice; needed for a folder",
                ),
                *_HOW_A_SERVER_IS_ASKED,
                *_WHERE_IT_RUNS,
            ),
            requires=(*_COMMON_REQUIREMENTS, "bert_score"),
            install_hint=_INSTALL,
            range=(-1.0, 1.0),
            higher_is="a caption nearer to the prompt",
            resolution=1e-4,
            weights=(_LLAVA, _DEBERTA),
            licence="MIT; bert-score is MIT; the weights have their own",
            fooled_by="pictures that say the prompt in letters; whatever else makes the captioner repeat it",
            doc=_ALIGN_DOC,
        ),
        RewardInfo(
            name="counting",
            summary="does a vision-language model find that many of that animal",
            factory="ddpo_reward_llava_bertscore.counting:Counting",
            options=(
                *_WHO_ANSWERS,
                Option(
                    name="match",
                    type="str",
                    default="strict",
                    choices=("strict", "soft"),
                    help="strict: a number is right or wrong; soft: a near one gets a part",
                ),
                *_HOW_A_SERVER_IS_ASKED,
                *_WHERE_IT_RUNS,
            ),
            requires=(*_COMMON_REQUIREMENTS, "inflect"),
            install_hint=_INSTALL,
            range=(0.0, 1.0),
            higher_is="the right number of the right animal",
            resolution=0.01,
            weights=(_LLAVA,),
            licence="MIT; the weights have their own",
            fooled_by='the number written into the picture: DDPO\'s runs drew "sixx" above eight turtles',
            doc=_COUNTING_DOC,
        ),
    )
