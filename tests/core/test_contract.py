"""Every clause of a reward's contract: a good reward keeps it, a bad one breaks that clause and no other."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddpo_core.errors import RewardError
from ddpo_core.info import Option
from ddpo_core.testing import example_images
from ddpo_core.testing.contract import CHECKS
from ddpo_core.types import Prompt, Scores

_spec = importlib.util.spec_from_file_location("bad_rewards", Path(__file__).parent / "bad_rewards.py")
bad_rewards = sys.modules["bad_rewards"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bad_rewards)
brightness, of, pictures, tried, Scored = (
    getattr(bad_rewards, name) for name in ("brightness", "of", "pictures", "tried", "Scored")
)


def failed(outcomes):
    return [key for key, made in outcomes.items() if made.status == "failed"]


@pytest.mark.parametrize("bad", bad_rewards.BAD, ids=lambda bad: bad.name)
def test_a_bad_reward_breaks_one_clause_and_no_other(bad):
    torch.manual_seed(1)
    outcomes = tried(bad.factory, **bad.claims)
    assert {key: outcomes[key].told for key in failed(outcomes)} == {bad.check: outcomes[bad.check].told}
    assert outcomes[bad.check].told.startswith(bad.told)


def test_there_is_a_bad_reward_for_every_clause():
    elsewhere = {"light"}  # needs a plugin on disk, see below
    assert {bad.check for bad in bad_rewards.BAD} | elsewhere == {check.key for check in CHECKS}


# ---- good rewards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "good",
    [
        brightness,
        lambda images, prompts: brightness(images, prompts).tolist(),
        lambda images, prompts: [len(prompt.text) for prompt in prompts],  # whole numbers are numbers
        lambda images, prompts: brightness(images, prompts).bfloat16(),
        lambda images, prompts: brightness(images, prompts) > 0.3,
        lambda images, prompts: [score for score in brightness(images, prompts)],  # tensors of one number
        lambda images, prompts: Scores(brightness(images, prompts).numpy(), details=[{}] * len(prompts)),
        lambda images, prompts: torch.zeros(len(images)),
    ],
)
def test_a_good_reward_breaks_nothing(good):
    outcomes = tried(of(good), range=(0.0, 100.0))
    assert failed(outcomes) == []
    assert {made.status for made in outcomes.values()} == {"passed", "skipped"}


def test_whole_numbers_are_fine_enough_for_a_count():
    outcomes = tried(of(lambda images, prompts: [len(p.text) for p in prompts]), resolution=1)
    assert outcomes["digits"].status == "passed"


def credits_and_levels(images, prompts):
    scores = brightness(images, prompts).numpy().astype(np.float64)
    return Scores(scores - scores.mean(), levels=np.full(len(scores), scores.mean()))


@pytest.mark.parametrize("claims", [{"scope": "batch"}, {"scope": "group", "group_size": 4}])
def test_a_reward_that_judges_together_may_look_at_the_others_and_keeps_its_level(claims):
    outcomes = tried(of(credits_and_levels), **claims)
    assert failed(outcomes) == []
    assert outcomes["neighbours"].told == "it judges images together"
    assert outcomes["levels"].told == f"{example_images(5, 16).mean():.4g} for the example pictures"


def test_one_score_for_a_whole_set_is_advised_against():
    outcomes = tried(of(lambda images, prompts: images.mean().expand(len(images))), scope="batch")
    assert outcomes["levels"].status == "advised"
    assert "cancels against their mean" in outcomes["levels"].told


def test_a_group_is_given_one_prompt():
    seen = []

    def watching(images, prompts):
        seen.append({prompt.text for prompt in prompts})
        return brightness(images, prompts)

    tried(of(watching), scope="group", group_size=4)
    assert seen and all(texts == {"a cat"} for texts in seen)


def test_the_better_pictures_of_a_set_have_the_higher_level():
    known = {"better": pictures(0.9), "worse": pictures(0.2), "scope": "batch"}
    assert tried(of(credits_and_levels), **known)["direction"].status == "passed"
    without_levels = tried(of(lambda images, prompts: brightness(images, prompts)), **known)
    assert without_levels["direction"].told == "it judges images together and gives no levels to compare"


def test_the_direction_is_told_with_its_means_and_pairs():
    made = tried(of(brightness), better=pictures(0.9), worse=pictures(0.2))["direction"]
    assert made.told == "means of 0.9 for the better and 0.2 for the worse; 100% of the pairs are in order"


def test_a_differentiable_reward_passes_a_gradient():
    outcomes = tried(lambda: Scored(brightness), differentiable=True)
    assert failed(outcomes) == [] and outcomes["gradient"].status == "passed"


class WithModel(Scored):
    def __init__(self):
        self.model = nn.Linear(2, 2)

    def close(self):
        self.model = None


def test_a_reward_with_a_model_lets_go_of_it_or_is_advised_to():
    assert tried(WithModel)["close"].status == "passed"
    without_close = tried(lambda: Scored(nn.Identity()))["close"]
    assert without_close.status == "advised"
    assert without_close.told == "it holds a Identity: a method close() could let go of it"


# ---- refusals, advice, and what is not made ----------------------------------------------------------


def squares_only(images, prompts):
    if images.shape[2] != images.shape[3]:
        raise RewardError("bad judges squares, got 24 × 16")
    return brightness(images, prompts)


def test_another_size_may_be_refused_in_so_many_words():
    made = tried(of(squares_only))["sizes"]
    assert (made.status, made.told) == ("passed", "24 × 16 is refused: bad judges squares, got 24 × 16")


def nothing_in_black(images, prompts):
    return torch.where(images.amax((1, 2, 3)) == 0, torch.nan, brightness(images, prompts))


def test_no_score_for_a_black_picture_is_advised_against():
    made = tried(of(nothing_in_black))["flat"]
    assert made.status == "advised"
    assert "([nan, 1.0, 0.5]): a run that draws one stops" in made.told


def test_what_people_want_to_know_is_advised():
    made = tried(of(brightness), fooled_by="", licence="")["record"]
    assert (made.status, made.told.split(" in the")[0]) == ("advised", "say fooled_by, licence")


def test_bounds_are_tried_for_a_minute_at_most(monkeypatch):
    monkeypatch.setattr("ddpo_core.testing.declared.BOUNDS_TIME", -1.0)
    gamma = Option(name="gamma", type="float", default=1.0, minimum=0.5, maximum=2)
    assert tried(with_a_secret, options=(gamma,))["bounds"].told == "0 of 2 tried, in -1 s"


def with_a_secret(gamma=1.0, secret=2):
    return brightness


def test_an_undeclared_keyword_of_the_factory_is_advised_against():
    made = tried(with_a_secret, options=(Option(name="gamma", type="float", default=1.0),))["options"]
    assert made.status == "advised" and "also takes secret, which no user can set" in made.told


def with_a_need(gamma):
    return brightness


def test_what_the_factory_needs_is_declared():
    made = tried(with_a_need)["options"]
    assert made.told == "expected an Option for each keyword that the factory needs, got none for 'gamma'"
    made = tried(with_a_need, options=(Option(name="gamma", type="float"),))["options"]
    assert made.told.startswith("expected required=True or a default for the option 'gamma'")


def test_what_rests_on_a_failed_check_waits_for_it():
    outcomes = tried(of(lambda images, prompts: None))
    waiting = {made.told for made in outcomes.values() if made.blocked}
    assert waiting == {
        "waits until it gives one score per image",
        "waits until it gives finite scores",
        "waits until it scores the same twice",
        "waits until it does not mind the order of a batch",
    }


def test_a_reward_for_prompts_of_one_kind_may_be_given_some():
    counts = [Prompt("two cats", {"count": 2}), Prompt("six ants", {"count": 6})]
    reward = of(lambda images, prompts: [prompt.metadata["count"] for prompt in prompts])
    assert failed(tried(reward, prompts=counts)) == []
    assert (
        tried(reward)["one-score"].told == "expected scores for the example pictures, got KeyError: 'count'"
    )


# ---- listing -----------------------------------------------------------------------------------------

PLUGIN = """
import {imports}
from ddpo_core import RewardInfo, hookimpl

DDPO_PLUGIN_API = (1, 0)

@hookimpl
def ddpo_rewards():
    yield RewardInfo(name="bad", summary="bad", factory="x:y")
"""


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """`listed("numpy")`: a module that imports it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(imports, name="a_listed_plugin"):
        (tmp_path / f"{name}.py").write_text(PLUGIN.format(imports=imports))
        return name

    return write


def light(listed):
    return tried(of(brightness), listed)["light"]


def test_a_plugin_that_imports_nothing_heavy_is_light(listed):
    made = light(listed("math"))
    assert made.status == "passed" and made.told.endswith(" ms")


def test_a_plugin_that_imports_numpy_to_be_listed_is_not_light(listed):
    made = light(listed("numpy"))
    assert made.status == "failed"
    assert made.told.startswith("expected to be listed without heavy imports, got numpy in ")


def test_a_plugin_that_a_fresh_interpreter_cannot_load_is_not_light(listed):
    made = light(listed("a_package_that_is_not_there"))
    assert made.status == "failed" and "needs the package 'a_package_that_is_not_there'" in made.told


def test_a_loose_file_may_import_what_it_judges_with(listed, tmp_path):
    made = light(str(tmp_path / f"{listed('numpy')}.py"))
    assert made.status == "advised" and made.told.startswith("the file imports numpy in ")


def test_another_plugin_that_is_broken_does_not_matter(listed, install):
    install("exits")
    assert light(listed("math")).status == "passed"


def test_the_page_on_checks_has_a_row_for_each_in_their_order():
    page = (Path(__file__).parents[2] / "docs/how-to/check-a-reward.md").read_text()
    places = [page.find(f"\n| {check.says} |") for check in CHECKS]
    assert min(places) > 0
    assert places == sorted(places)
