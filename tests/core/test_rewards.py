import threading
import time

import numpy as np
import pytest
import torch

from ddpo_core.errors import RewardError
from ddpo_core.info import RewardInfo
from ddpo_core.rewards import Judging, Objective, Term, checked_scores, settled
from ddpo_core.types import Prompt, Scores

PROMPTS = [Prompt("a cat"), Prompt("a dog"), Prompt("a cat")]
IMAGES = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 2, 2) / 4
GROUPED = [Prompt("a cat"), Prompt("a cat"), Prompt("a dog")]


def objective(reward, *, label="mine", scope="sample", on_error="raise", weight=1.0):
    info = RewardInfo(name=label, summary="", factory="", scope=scope)
    return Objective([Term(label, weight, reward, info, on_error)])


def brightness(images, prompts):
    return images.mean((1, 2, 3))


@pytest.mark.parametrize(
    "output",
    [torch.tensor([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16), [1, 2, 3], (1.0, 2, 3)],
)
def test_any_numbers_become_float64(output):
    scores = checked_scores("mine", output, PROMPTS)
    assert scores.values.dtype == np.float64
    assert scores.values.tolist() == [1, 2, 3]


@pytest.mark.parametrize("shape", [(3, 3), (3, 1), (2,), (4,), ()])
def test_any_shape_but_one_score_per_image_is_refused(shape):
    with pytest.raises(RewardError, match=r"reward 'mine': expected one score per image, shape \(3,\)"):
        checked_scores("mine", torch.zeros(shape), PROMPTS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_names_the_reward_the_sample_and_its_prompt(bad):
    with pytest.raises(RewardError, match=r"'mine'.*1 of 3.*sample 1, prompt 'a dog'"):
        objective(lambda images, prompts: [0.5, bad, 0.5]).score(IMAGES, PROMPTS)


def test_a_crash_names_the_reward_and_what_happened():
    def broken(images, prompts):
        raise OSError("the judge is away")

    with pytest.raises(RewardError, match=r"'mine' failed.*OSError: the judge is away"):
        objective(broken).score(IMAGES, PROMPTS)


def test_dropped_failures_stay_missing_and_are_counted():
    scores = objective(lambda images, prompts: [1.0, float("nan"), 3.0], on_error="drop").score(
        IMAGES, PROMPTS
    )["mine"]
    assert np.isnan(scores.values[1]) and scores.failures == 1


def test_imputed_failures_get_the_mean_of_the_others_and_are_counted():
    scores = objective(lambda images, prompts: [1.0, float("nan"), 3.0], on_error="impute").score(
        IMAGES, PROMPTS
    )
    assert scores["mine"].values.tolist() == [1.0, 2.0, 3.0] and scores["mine"].failures == 1


@pytest.mark.parametrize("on_error", ["drop", "impute"])
def test_a_crash_of_one_batch_is_settled_by_policy_over_the_round(on_error):
    def fragile(images, prompts):
        if any(prompt.text == "a dog" for prompt in prompts):
            raise OSError
        return brightness(images, prompts)

    (term,) = objective(fragile, on_error=on_error).terms
    with Judging(Objective([term])) as judging:
        for row in range(3):
            judging.submit(IMAGES[row : row + 1], PROMPTS[row : row + 1])
        scores = judging.finish()["mine"]
    assert scores.failures == 1
    middle = settled(term, scores.values, PROMPTS)[1]
    assert np.isnan(middle) if on_error == "drop" else middle == pytest.approx(0.25)


@pytest.mark.parametrize("on_error", ["drop", "impute"])
def test_a_round_in_which_every_score_failed_is_an_error_under_any_policy(on_error):
    with pytest.raises(RewardError, match="3 of 3"):
        objective(lambda images, prompts: [float("nan")] * 3, on_error=on_error).score(IMAGES, PROMPTS)


def test_batches_come_back_in_the_order_they_were_submitted():
    with Judging(objective(brightness)) as judging:
        for row in range(3):
            judging.submit(IMAGES[row : row + 1], PROMPTS[row : row + 1])
        assert judging.finish()["mine"].values.tolist() == [0.0, 0.25, 0.5]


def test_a_group_reward_sees_all_images_of_one_prompt_and_no_others():
    seen = []

    def group(images, prompts):
        seen.append([prompt.text for prompt in prompts])
        return [float(len(prompts))] * len(prompts)

    with Judging(objective(group, scope="group"), group_size=2) as judging:
        for row in range(3):
            judging.submit(IMAGES[row : row + 1], GROUPED[row : row + 1])
        assert judging.finish()["mine"].values.tolist() == [2, 2, 1]
    assert seen == [["a cat", "a cat"], ["a dog"]]


def test_a_batch_reward_sees_the_whole_round():
    with Judging(
        objective(lambda images, prompts: images.mean((1, 2, 3)) * len(prompts), scope="batch")
    ) as judging:
        judging.submit(IMAGES[:1], PROMPTS[:1])
        judging.submit(IMAGES[1:], PROMPTS[1:])
        assert judging.finish()["mine"].values.tolist() == [0.0, 0.75, 1.5]


def test_details_stay_with_their_samples():
    def captioner(images, prompts):
        return Scores(np.zeros(len(prompts)), [{"caption": prompt.text} for prompt in prompts])

    with Judging(objective(captioner)) as judging:
        judging.submit(IMAGES[:1], PROMPTS[:1])
        judging.submit(IMAGES[1:], PROMPTS[1:])
        details = judging.finish()["mine"].details
    assert [detail["caption"] for detail in details] == ["a cat", "a dog", "a cat"]


def test_rewards_are_scored_while_the_caller_goes_on_sampling():
    scoring, sampled = threading.Event(), threading.Event()

    def slow(images, prompts):
        scoring.set()
        assert sampled.wait(10)  # only the caller's next batch lets it finish
        return brightness(images, prompts)

    with Judging(objective(slow)) as judging:
        judging.submit(IMAGES, PROMPTS)
        assert scoring.wait(10)
        sampled.set()
        assert judging.finish()["mine"].seconds > 0


def test_two_rewards_work_side_by_side():
    meeting = threading.Barrier(2, timeout=10)  # broken unless both are inside at once

    def meets(images, prompts):
        meeting.wait()
        return brightness(images, prompts)

    terms = [objective(meets, label=label).terms[0] for label in ("one", "two")]
    assert set(Objective(terms).score(IMAGES, PROMPTS)) == {"one", "two"}


def test_seconds_are_those_of_the_reward():
    def sleepy(images, prompts):
        time.sleep(0.05)
        return brightness(images, prompts)

    assert 0.05 <= objective(sleepy).score(IMAGES, PROMPTS)["mine"].seconds < 5


def test_a_watched_reward_is_scored_and_has_no_weight():
    watched = objective(brightness, weight=0)
    assert watched.weights == {} and "mine" in watched.score(IMAGES, PROMPTS)


def test_rewards_share_the_cores_and_leave_the_networks_threads_alone():
    seen = []

    def judge(images, prompts):
        seen.append(torch.get_num_threads())
        return brightness(images, prompts)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        objective(judge).score(IMAGES, PROMPTS)
        assert seen == [2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_closing_an_objective_frees_what_its_rewards_hold():
    class Judge:
        closed = False

        def close(self):
            self.closed = True

    judge = Judge()
    objective(judge).close()
    assert judge.closed
    objective(brightness).close()  # nothing to free
