"""What does not go together is refused before anything is loaded, with what would."""

import pytest

from ddpo_core.config.pairs import check_built
from ddpo_core.config.resolve import Layer, resolve
from ddpo_core.errors import UsageError

TOY = Layer("preset toy", {"model": "toy", "reward": ["brightness"]})


def of(toys, **flags):
    return resolve([TOY, Layer("flag", flags)], toys)


def built(toys, **flags):
    """The estimator and the sampler, once they have been checked."""
    config = of(toys, **flags).config
    estimator, sampler = toys.build("estimator", config.estimator), toys.build("sampler", config.sampler)
    check_built(estimator, sampler, config, toys)
    return estimator, sampler


@pytest.mark.parametrize("estimator", ["ddpo-is", "ddpo-sf", "grpo", "dpok"])
def test_an_estimator_that_rates_steps_is_refused_a_sampler_without_noise(toys, estimator):
    with pytest.raises(UsageError, match=f"{estimator} needs the log-prob of every step") as caught:
        built(toys, estimator=estimator, sampler="ddim,eta=0")
    assert f"with {estimator} take one of " in caught.value.hint
    assert "ddim" in caught.value.hint


def test_such_an_estimator_takes_a_sampler_with_noise(toys):
    estimator, sampler = built(toys, estimator="grpo", sampler="ddim,eta=0.3")
    assert "log_probs" in estimator.needs and sampler.has_log_prob


def test_an_estimator_that_looks_at_the_model_before_training_needs_a_lora(toys):
    with pytest.raises(UsageError, match="only at hand with a LoRA; got --lora-rank 0"):
        built(toys, estimator="grpo", lora_rank=0)
    built(toys, estimator="grpo,kl_weight=0", lora_rank=0)
    built(toys, estimator="ddpo-is", lora_rank=0)


def test_an_estimators_own_settings_stand_over_the_models_and_under_a_flag(toys):
    assert of(toys, estimator="grpo").config.advantages == "group,size=8"
    assert of(toys, estimator="grpo").origins["advantages"] == "estimator grpo"
    assert of(toys, estimator="grpo", advantages="batch").config.advantages == "batch"


def test_what_suits_model_and_estimator_together_stands_over_both(toys):
    resolved = of(toys, model="picky-toy", estimator="grpo")
    assert resolved.config.learning_rate == 0.5
    assert resolved.origins["learning_rate"] == "estimator grpo on picky-toy"
    assert of(toys, model="picky-toy").config.learning_rate == 0.01


def test_an_estimators_options_that_nobody_gave_are_those_that_suit_the_model(toys):
    estimator = of(toys, model="picky-toy", estimator="grpo,inner_epochs=2").config.estimator
    assert estimator == "grpo,clip_range=0.25,inner_epochs=2"
    given = of(toys, model="picky-toy", estimator="grpo,clip_range=0.125").config.estimator
    assert given == "grpo,clip_range=0.125"
