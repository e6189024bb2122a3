"""The rewards of this repository keep the contract, as far as they build without weights from elsewhere."""

from __future__ import annotations

import pytest

from ddpo_core.discovery import Registry
from ddpo_core.spec import Spec
from ddpo_core.testing import subjects
from ddpo_core.testing.contract import outcome, outcomes
from ddpo_core.testing.trial import Trial
from ddpo_core.types import Prompt

SHIPPED = Registry.discover()
ENTRIES = [entry for entry in SHIPPED.entries("reward") if entry.plugin.distribution.startswith("ddpo-")]
COUNTS = [Prompt("two cats"), Prompt("three dogs"), Prompt("five ants")]


def told(made):
    return {one.check.key: f"{one.status}: {one.told}" for one in made if one.status in ("failed", "advised")}


def test_all_that_ship_are_here():
    assert {"jpeg", "aesthetic", "align", "clipscore", "skintone-diversity"} <= {e.info.name for e in ENTRIES}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.info.name)
def test_a_reward_that_ships_says_what_it_is_and_takes(entry):
    trial = Trial(subjects.subject_of(SHIPPED, entry, Spec(entry.info.name)))
    assert told(outcome(trial, key) for key in ("record", "options")) == {}


@pytest.mark.parametrize("module", sorted({entry.plugin.module for entry in ENTRIES}))
def test_a_plugin_that_ships_is_listed_without_heavy_imports(module):
    entry = next(entry for entry in ENTRIES if entry.plugin.module == module)
    trial = Trial(subjects.subject_of(SHIPPED, entry, Spec(entry.info.name)))
    assert told([outcome(trial, "light")]) == {}


@pytest.mark.parametrize("spec", ["jpeg,quality=80", "incompressibility"])
def test_a_reward_without_weights_keeps_the_contract(spec):
    assert told(outcomes(Trial(subjects.find(spec)))) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "prompts"),
    [
        ("aesthetic", None),
        ("clipscore", None),
        ("detector-compositionality", None),
        ("align", None),
        ("counting", COUNTS),
    ],
)
def test_a_reward_with_the_judges_of_the_pocket_world_keeps_the_contract(spec, prompts):
    trial = Trial(subjects.find(spec, "pocket"), prompts=prompts)
    made = list(outcomes(trial))
    trial.close()
    assert told(made) == {}
