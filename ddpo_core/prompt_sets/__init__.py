"""The prompt sets that come with ddpo, as records; `words.py` and `files.py` build them.

Importing this costs nothing: no numpy, no torch, no word list is read.
"""

from __future__ import annotations

from ddpo_core.info import Option, PromptSetInfo

INSTALL_INFLECT = "pip install inflect"


def _article(default: bool) -> Option:
    return Option(name="article", type="bool", default=default, help="put 'a' or 'an' before each prompt")


PROMPT_SETS: tuple[PromptSetInfo, ...] = (
    PromptSetInfo(
        name="animals",
        summary="45 common animals, as bare nouns: 'cat'",
        factory="ddpo_core.prompt_sets.words:animals",
        options=(_article(False),),
        doc="What DDPO trained the aesthetic reward on. Metadata: `animal`.",
    ),
    PromptSetInfo(
        name="animals-activities",
        summary="45 animals × 3 activities: 'a cat riding a bike'",
        factory="ddpo_core.prompt_sets.words:animals_activities",
        options=(_article(True),),
        requires=("inflect",),
        install_hint=INSTALL_INFLECT,
        doc="135 prompts; what DDPO trained prompt–image alignment on. Metadata: `animal`, `activity`.",
    ),
    PromptSetInfo(
        name="counting",
        summary="22 animals × two to eight of them: 'two wolves'",
        factory="ddpo_core.prompt_sets.words:counting",
        requires=("inflect",),
        install_hint=INSTALL_INFLECT,
        doc="154 prompts. Metadata: `count` (2–8), `number` ('two'), `animal` ('wolf'), `plural` ('wolves').",
    ),
    PromptSetInfo(
        name="imagenet-animals",
        summary="the 398 animals of ImageNet-1k, as label lines: 'tench, Tinca tinca'",
        factory="ddpo_core.prompt_sets.words:imagenet_animals",
        options=(_article(False),),
        doc="What DDPO trained compressibility on. Metadata: `animal` (the first synonym), `class_index`.",
    ),
    PromptSetInfo(
        name="file",
        summary="prompts from a .txt, .csv, .jsonl or .parquet file of any length",
        factory="ddpo_core.prompt_sets.files:open_prompts",
        options=(
            Option(name="path", type="str", required=True, help="the file; never loaded whole"),
            Option(name="column", type="str", help="the prompt's column; else prompt, text or caption"),
            _article(False),
        ),
        doc=(
            "One prompt per line (.txt), row (.csv with a header, .parquet) or object (.jsonl). Blank "
            "prompts are skipped; every other column becomes metadata. Text is UTF-8. A .parquet file is "
            "read from the start of a row group and needs pyarrow: groups of some thousand rows are quick."
        ),
    ),
    PromptSetInfo(
        name="inline",
        summary="""prompts typed on the spot: texts='["a cat", "a dog"]'""",
        factory="ddpo_core.prompt_sets.words:inline",
        options=(
            Option(name="texts", type="json", required=True, help="a JSON list of prompts"),
            _article(False),
        ),
    ),
)
