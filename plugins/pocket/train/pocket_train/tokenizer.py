"""Builds the tokenizer: CLIP's own class and byte-pair scheme, with merges that make every world word one
token.

Other words are spelt in letters, so any lower-case text has tokens; digits and a few marks are there too.
"""

from __future__ import annotations

import itertools
import json
import string
import tempfile
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

MAX_LENGTH = 16  # tokens, start and end included; the longest caption of the world has 14
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CHARACTERS = string.ascii_lowercase + string.digits + ".,'!?-"
_WORD_END = "</w>"

Merge = tuple[str, str]


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A CLIPTokenizer for which each of `words` (a to z) is a single token; pads with the end token."""
    vocabulary, merges = _learn_merges(words)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_file, merges_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary_file.write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
        lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
        merges_file.write_text("\n".join(lines) + "\n")
        return CLIPTokenizer(
            vocab=str(vocabulary_file), merges=str(merges_file), model_max_length=MAX_LENGTH, unk_token=_END
        )


def _learn_merges(words: Iterable[str]) -> tuple[list[str], list[Merge]]:
    """(vocabulary in the order of its numbers, merges in the order of their rank)."""
    vocabulary = [*_CHARACTERS, *(character + _WORD_END for character in _CHARACTERS)]
    merges: list[Merge] = []
    for word in words:
        pieces = _split([*word[:-1], word[-1] + _WORD_END], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            vocabulary.append(pieces[0] + pieces[1])
            # a new merge may fit in more places of the word than the one it was made for
            pieces = _split([*word[:-1], word[-1] + _WORD_END], merges)
    return [*dict.fromkeys(vocabulary), _START, _END], merges


def _split(pieces: list[str], merges: list[Merge]) -> list[str]:
    """The byte-pair encoding of `pieces`: merges by rank, each wherever it fits."""
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    while True:
        known = [merge for merge in itertools.pairwise(pieces) if merge in ranks]
        if not known:
            return pieces
        pieces = _apply(min(known, key=ranks.__getitem__), pieces)


def _apply(merge: Merge, pieces: list[str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == merge:
            merged[-1] = merged[-1] + piece
        else:
            merged.append(piece)
    return merged
