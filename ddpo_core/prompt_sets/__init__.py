"""The prompt sets that come with ddpo, as records; `words.py` and `files.py` build them.

Importing this costs nothing: no numpy, no torch, no word list is read.
"""

from __future__ import annotations

from ddpo_core.info import Option, PromptSetInfo

INSTALL_INFLECT = "pip install inflect"
PORTRAIT = "a portrait of {}"


def _article(default: bool) -> Option:
    return Option(name="article", type="bool", default=default, help="put 'a' or 'an' before each prompt")


def _split(default: str, help: str) -> Option:
    return Option(name="split", type="str", default=default, choices=("seen", "held_out", "all"), help=help)


def _file_options(*, column: str | None, split: str, unique: bool) -> tuple[Option, ...]:
    return (
        Option(name="path", type="str", required=True, help="the file; never loaded whole"),
        Option(
            name="column",
            type="str",
            default=column,
            help="the prompt's column" + ("" if column else "; else prompt, text or caption"),
        ),
        _article(False),
        _split(split, "prompts to train on, those that are held out, or all"),
        Option(name="held_out", type="int", default=2000, minimum=1, help="how many prompts are held out"),
        Option(name="seed", type="int", default=0, minimum=0, help="draws which prompts are held out"),
        Option(name="unique", type="bool", default=unique, help="take each text once"),
    )


PROMPT_SETS: tuple[PromptSetInfo, ...] = (
    PromptSetInfo(
        name="animals",
        summary="45 common animals, as bare nouns: 'cat'",
        factory="ddpo_core.prompt_sets.words:animals",
        options=(_article(False),),
        doc="What DDPO trained the aesthetic reward on. Metadata: `animal`, `objects`.",
    ),
    PromptSetInfo(
        name="animals-activities",
        summary="45 animals × 3 activities: 'a cat riding a bike'",
        factory="ddpo_core.prompt_sets.words:animals_activities",
        options=(_article(True),),
        requires=("inflect",),
        install_hint=INSTALL_INFLECT,
        doc=(
            "135 prompts; what DDPO trained prompt–image alignment on. Metadata: `animal`, `activity`, "
            "`objects`."
        ),
    ),
    PromptSetInfo(
        name="counting",
        summary="22 animals × two to eight of them: 'two wolves'",
        factory="ddpo_core.prompt_sets.words:counting",
        requires=("inflect",),
        install_hint=INSTALL_INFLECT,
        doc=(
            "154 prompts. Metadata: `count` (2–8), `number` ('two'), `animal` ('wolf'), `plural` ('wolves'), "
            "`objects` (['wolf'])."
        ),
    ),
    PromptSetInfo(
        name="imagenet-animals",
        summary="the 398 animals of ImageNet-1k, as label lines: 'tench, Tinca tinca'",
        factory="ddpo_core.prompt_sets.words:imagenet_animals",
        options=(_article(False),),
        doc="What DDPO trained compressibility on. Metadata: `animal` (the first synonym), `class_index`.",
    ),
    PromptSetInfo(
        name="occupations",
        summary="100 occupations: 'a portrait of an architect'",
        factory="ddpo_core.prompt_sets.words:occupations",
        options=(
            Option(
                name="template", type="str", default=PORTRAIT, help="{} is the occupation with its article"
            ),
        ),
        requires=("inflect",),
        install_hint=INSTALL_INFLECT,
        doc=("What skin tone diversity is tested on in arXiv 2401.12244, Table 7. Metadata: `occupation`."),
    ),
    PromptSetInfo(
        name="object-pairs",
        summary="two of 532 objects in 5 relations: 'a cat next to a red cabbage'",
        factory="ddpo_core.prompt_sets.pairs:object_pairs",
        options=(
            _split("seen", "pairs of the 450 objects to train on, of the 82 others, or of all"),
            Option(name="seed", type="int", default=0, minimum=0, help="draws which objects are held out"),
            _article(True),
        ),
        requires=("inflect",),
        install_hint=INSTALL_INFLECT,
        doc=(
            "What compositionality is trained on in arXiv 2401.12244, Table 8: 1 010 250 prompts of seen "
            "objects, 33 210 of held-out ones. Relations: and, next to, near, on side of, beside. Metadata: "
            "`objects` (the two names), `relation`."
        ),
    ),
    PromptSetInfo(
        name="file",
        summary="prompts from a .txt, .csv, .jsonl or .parquet file of any length",
        factory="ddpo_core.prompt_sets.files:open_prompts",
        options=_file_options(column=None, split="all", unique=False),
        doc=(
            "One prompt per line (.txt), row (.csv with a header, .parquet) or object (.jsonl). Blank "
            "prompts are skipped; every other column becomes metadata. Text is UTF-8. A .parquet file is "
            "read from the start of a row group and needs pyarrow: groups of some thousand rows are quick. "
            "`split=held_out` is a random sample of `held_out` prompts, drawn by `seed`, and `split=seen` is "
            "the others."
        ),
    ),
    PromptSetInfo(
        name="diffusiondb",
        summary="what people typed: DiffusionDB's metadata.parquet, 2 000 prompts held out",
        factory="ddpo_core.prompt_sets.files:open_prompts",
        options=_file_options(column="prompt", split="seen", unique=True),
        requires=("pyarrow",),
        install_hint="pip install pyarrow",
        doc=(
            "The set `file` with the defaults of arXiv 2401.12244: each text once, and 2 000 of them held "
            "out. The file is metadata.parquet (2 million rows) or metadata-large.parquet (14 million) of "
            "DiffusionDB (arXiv 2210.14896)."
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
