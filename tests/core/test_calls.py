"""Rewards that raise, hang or take too long: tries, limits, and what an abandoned call may not do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from ddpo_core import calls
from ddpo_core.calls import Patience, Stopped, TookTooLong, Unfinished, ask
from ddpo_core.errors import EnvironmentFault, RewardError, UsageError
from ddpo_core.info import RewardInfo
from ddpo_core.rewards import Judging, Objective, Term
from ddpo_core.types import Prompt

PROMPTS = [Prompt("a cat"), Prompt("a dog"), Prompt("a cat")]
IMAGES = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 2, 2) / 4


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.0)


@pytest.fixture
def gate():
    """What hanging calls wait for; opened at the end, so that no thread outlives its test."""
    opened = threading.Event()
    yield opened
    opened.set()
    assert eventually(lambda: not calls.abandoned())


def eventually(holds, seconds=10.0):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


def objective(reward, *, thread_safe=False, **policy):
    info = RewardInfo(name="mine", summary="", factory="", thread_safe=thread_safe)
    return Objective([Term("mine", 1.0, reward, info, **policy)])


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def one_by_one(objective):
    """The scores of the three samples, each in a batch of its own."""
    with Judging(objective) as judging:
        for row in range(3):
            judging.submit(IMAGES[row : row + 1], PROMPTS[row : row + 1])
        return judging.finish()["mine"]


class Flaky:
    """Raises in its first calls, then answers."""

    def __init__(self, failures, error=OSError("the judge is away")):
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self, images, prompts):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return brightness(images, prompts)


class Hangs:
    """Hangs in the calls of these numbers (from 1) until the gate opens, then answers."""

    def __init__(self, gate, numbers):
        self.gate, self.numbers, self.calls, self.inside, self.most_inside = gate, numbers, 0, 0, 0
        self.closed_while_inside = None

    def __call__(self, images, prompts):
        self.calls += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if self.calls in self.numbers:
            assert self.gate.wait(20)
        self.inside -= 1
        return brightness(images, prompts)

    def close(self):
        self.closed_while_inside = self.inside > 0


# ---- tries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "tries"), [(0, 1), (1, 2), (2, 3), (1, 5)])
def test_a_call_that_raised_is_made_again_until_it_answers(failures, tries):
    reward = Flaky(failures)
    scores = objective(reward, tries=tries).score(IMAGES, PROMPTS)["mine"]
    assert scores.values.tolist() == [0.0, 0.25, 0.5]
    assert (reward.calls, scores.retries, scores.failures, scores.timeouts) == (failures + 1, failures, 0, 0)


def test_no_call_is_made_more_often_than_it_has_tries():
    reward = Flaky(9)
    with pytest.raises(RewardError, match=r"'mine' failed in 3 tries.*OSError: the judge is away"):
        objective(reward, tries=3).score(IMAGES, PROMPTS)
    assert reward.calls == 3


def test_one_try_is_the_default_and_more_are_offered():
    with pytest.raises(RewardError, match=r"'mine' failed on samples such as 'a cat'") as caught:
        objective(Flaky(1)).score(IMAGES, PROMPTS)
    assert "--reward mine,tries=3" in caught.value.hint and "on_error=drop" in caught.value.hint


def test_a_reward_error_is_a_failure_like_any_other_in_the_rewards_own_words():
    own = RewardError("reward 'mine': the server is gone", hint="start it")
    with pytest.raises(RewardError) as caught:
        objective(Flaky(9, own), tries=2).score(IMAGES, PROMPTS)
    assert caught.value is own and caught.value.hint == "start it"
    scores = one_by_one(objective(Flaky(1, own), on_error="drop"))
    assert (scores.failures, scores.error) == (1, "reward 'mine': the server is gone")


@pytest.mark.parametrize("error", [UsageError("no such detector"), EnvironmentFault("no such weights")])
def test_what_no_other_try_mends_ends_the_run_at_once_under_any_policy(error):
    reward = Flaky(1, error)
    with pytest.raises(type(error), match="no such"):
        objective(reward, tries=5, on_error="drop").score(IMAGES, PROMPTS)
    assert reward.calls == 1


def test_scores_of_the_wrong_shape_are_not_asked_for_again():
    asked = []

    def wrong(images, prompts):
        asked.append(1)
        return [1.0]

    with pytest.raises(RewardError, match="one score per image"):
        objective(wrong, tries=3, on_error="drop").score(IMAGES, PROMPTS)
    assert len(asked) == 1


def test_each_pause_is_twice_as_long_as_the_one_before_up_to_the_longest(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_PAUSE", 1.0)
    pauses = []
    monkeypatch.setattr(calls, "wait", lambda futures, timeout: pauses.append(timeout))
    ask(Flaky(99).__call__, Patience(tries=8), Unfinished(), Future())
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_samples_that_failed_in_every_try_follow_the_policy_and_retries_are_counted():
    reward = Flaky(2)
    scores = one_by_one(objective(reward, tries=2, on_error="drop"))
    assert np.isnan(scores.values[0]) and scores.values[1:].tolist() == [0.25, 0.5]
    assert (scores.failures, scores.retries) == (1, 1)
    assert scores.error == "OSError: the judge is away"


# ---- limits of time -------------------------------------------------------------------------------------


def test_a_call_that_takes_too_long_names_the_reward_its_limit_and_what_to_type(gate):
    with pytest.raises(RewardError) as caught:
        objective(Hangs(gate, {1}), time_limit=0.05).score(IMAGES, PROMPTS)
    assert "'mine' had no answer for samples such as 'a cat'" in str(caught.value)
    assert "a call took longer than 0.05 s (time_limit)" in str(caught.value)
    assert "--reward mine,time_limit=0.1" in caught.value.hint and "on_error=drop" in caught.value.hint


def test_a_call_within_its_limit_is_like_one_without():
    scores = objective(brightness, time_limit=20.0).score(IMAGES, PROMPTS)["mine"]
    assert scores.values.tolist() == [0.0, 0.25, 0.5]
    assert (scores.failures, scores.timeouts) == (0, 0)


def test_an_abandoned_call_costs_its_own_samples_and_no_others():
    def slow_once(images, prompts):
        if images.max() == 0:
            time.sleep(0.7)  # over its limit, and over before that of the next call
        return brightness(images, prompts)

    scores = one_by_one(objective(slow_once, time_limit=0.5, on_error="drop"))
    assert np.isnan(scores.values[0]) and scores.values[1:].tolist() == [0.25, 0.5]
    assert (scores.failures, scores.timeouts) == (1, 1)


def test_a_call_that_took_too_long_is_made_again():
    def slow_once(images, prompts, asked=[]):  # noqa: B006
        asked.append(1)
        if len(asked) == 1:
            time.sleep(0.7)
        return brightness(images, prompts)

    scores = objective(slow_once, time_limit=0.5, tries=2).score(IMAGES, PROMPTS)["mine"]
    assert scores.values.tolist() == [0.0, 0.25, 0.5]
    assert (scores.failures, scores.retries, scores.timeouts) == (0, 1, 1)


def test_a_reward_is_never_called_beside_an_abandoned_call_of_its_own(gate):
    reward = Hangs(gate, {1})
    scores = one_by_one(objective(reward, time_limit=0.05, on_error="drop"))
    assert reward.calls == 1 and reward.most_inside == 1
    assert np.isnan(scores.values).all()
    assert (scores.failures, scores.timeouts) == (3, 3)
    assert "still busy with an earlier call" in scores.error


def test_a_thread_safe_reward_is_called_again_beside_it(gate):
    reward = Hangs(gate, {1})
    scores = objective(reward, time_limit=0.5, tries=2, thread_safe=True).score(IMAGES, PROMPTS)["mine"]
    assert scores.values.tolist() == [0.0, 0.25, 0.5]
    assert reward.most_inside == 2


def test_a_reward_that_hangs_for_good_ends_the_round_under_any_policy_and_says_why(gate):
    with pytest.raises(RewardError, match=r"3 of 3 images.*took longer than 0.05 s"):
        objective(Hangs(gate, {1}), time_limit=0.05, on_error="impute").score(IMAGES, PROMPTS)


def test_an_answer_that_comes_too_late_is_nobodys(gate):
    term = objective(Hangs(gate, {1}), time_limit=0.05, on_error="drop")
    with Judging(term) as judging:
        judging.submit(IMAGES, PROMPTS)
        late = judging.finish()["mine"]
    gate.set()
    assert eventually(lambda: not calls.abandoned())
    assert np.isnan(late.values).all()
    assert term.score(IMAGES, PROMPTS)["mine"].values.tolist() == [0.0, 0.25, 0.5]  # it is free again


def test_a_reward_is_closed_when_its_abandoned_call_is_over_and_not_before(gate):
    reward = Hangs(gate, {1})
    judged = objective(reward, time_limit=0.05)
    with pytest.raises(RewardError):
        judged.score(IMAGES, PROMPTS)
    judged.close()  # returns at once
    assert reward.closed_while_inside is None
    gate.set()
    assert eventually(lambda: reward.closed_while_inside is False)


def test_a_call_with_a_limit_runs_without_gradients_and_on_its_share_of_the_cores():
    seen = []

    def judge(images, prompts):
        seen.append((torch.get_num_threads(), torch.is_grad_enabled()))
        return brightness(images, prompts)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with Judging(objective(judge, time_limit=20.0)) as judging:
            judging.submit(IMAGES, PROMPTS)
            assert eventually(lambda: len(seen) == 1)
            torch.set_num_threads(3)  # what a new thread would begin with
            judging.submit(IMAGES, PROMPTS)
            judging.finish()
        assert seen == [(2, False), (2, False)] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# ---- the end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [{"time_limit": 60.0}, {"tries": 5}])
def test_who_stops_a_round_sits_out_neither_limits_nor_pauses(gate, monkeypatch, policy):
    monkeypatch.setattr(calls, "FIRST_PAUSE", 60.0)
    reward = Hangs(gate, {1}) if "time_limit" in policy else Flaky(99)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Judging(objective(reward, **policy)) as judging:
        judging.submit(IMAGES, PROMPTS)
        assert eventually(lambda: reward.calls == 1)
        raise KeyboardInterrupt
    assert time.monotonic() - start < 20


def test_stopped_is_told_from_a_failure():
    stopped = Future()
    stopped.set_result(None)
    with pytest.raises(Stopped):
        ask(Flaky(9).__call__, Patience(tries=2), Unfinished(), stopped)


def test_waiting_for_a_busy_reward_counts_against_the_limit_of_the_call(gate):
    unfinished = Unfinished()
    unfinished.add(calls.in_daemon(lambda: gate.wait(20)))
    start = time.monotonic()
    answer = ask(lambda: 1, Patience(time_limit=0.1), unfinished, Future())
    assert isinstance(answer.error, TookTooLong) and 0.1 <= time.monotonic() - start < 5
