"""What failed samples come to after the door: over all processes, in the advantages, in the metrics."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import pytest

from ddpo_core.advantages import Normaliser
from ddpo_core.errors import RewardError
from ddpo_core.info import RewardInfo
from ddpo_core.judgement import Judge, Judgement
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.tasks import Task
from ddpo_core.types import Prompt, Scores

NAN = float("nan")
PROMPTS = [Prompt(text) for text in "abcdefgh"]


class TwoProcesses:
    """Two processes as two threads: what either gathers is both of theirs, in the order of the processes."""

    def __init__(self):
        self.meeting = threading.Barrier(2, timeout=20)
        self.brought = {}

    def process(self, rank):
        return OneOfTwo(self, rank)


class OneOfTwo:
    def __init__(self, both, rank):
        self.both, self.rank = both, rank

    def gather(self, mine):
        self.both.brought[self.rank] = mine
        self.both.meeting.wait()
        gathered = [*self.both.brought[0], *self.both.brought[1]]
        self.both.meeting.wait()
        return gathered

    def interleave(self, group_size, mine):
        gathered = self.gather(mine)
        half = len(gathered) // 2
        return [gathered[i // 2 + half * (i % 2)] for i in range(len(gathered))]


class Alone:
    def gather(self, mine):
        return mine

    def interleave(self, group_size, mine):
        return mine


def task(**policies):
    """A task whose rewards have these policies, all of weight 1."""
    terms = [
        Term(
            label, 1.0, lambda images, prompts: [0.0], RewardInfo(name=label, summary="", factory=""), policy
        )
        for label, policy in policies.items()
    ]
    return Task(PromptStream(PROMPTS, seed=0), Objective(terms))


def judged(objective_task, scores: Mapping[str, Scores]) -> Judgement:
    judge = Judge([objective_task], Normaliser("batch"), Alone())
    return judge(objective_task, PROMPTS[: len(next(iter(scores.values())).values)], scores)


def judged_by_two(objective_task, scores: Mapping[str, Scores]) -> list[object]:
    """What either of two processes comes to, sample 0, 2, … being the first one's; an error as itself."""
    both, results = TwoProcesses(), [None, None]

    def work(rank):
        mine = {
            label: Scores(
                said.values[rank::2],
                failures=int(np.isnan(said.values[rank::2]).sum()),
                retries=rank + 1,
                timeouts=10 * (rank + 1),
                error=said.error if rank == 1 else "",  # the other process is told
            )
            for label, said in scores.items()
        }
        judge = Judge([objective_task], Normaliser("batch"), both.process(rank))
        try:
            results[rank] = judge(objective_task, PROMPTS[rank:8:2], mine)
        except RewardError as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


ONE_SIDED = np.array([NAN, 1.0, NAN, 2.0, NAN, 3.0, 4.0, 5.0])  # all but one failure on the first process


def test_a_dropped_sample_has_no_advantage_and_does_not_move_the_others():
    values = np.array([1.0, NAN, 3.0])
    found = judged(task(mine="drop"), {"mine": Scores(values, failures=1)})
    assert found.mixed.directions["all"].tolist() == [
        -1.0,
        0.0,
        1.0,
    ]  # mean 2 and σ 1 of those that are there
    assert found.metrics["reward/mine/mean"] == 2.0 and found.metrics["reward/mine/failures"] == 1


def test_an_imputed_sample_has_the_mean_and_so_no_advantage_over_the_batch():
    found = judged(task(mine="impute"), {"mine": Scores(np.array([1.0, NAN, 3.0]), failures=1)})
    assert found.values["mine"].tolist() == [1.0, 2.0, 3.0]
    assert found.mixed.directions["all"] == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5])  # σ² = 2/3


def test_an_imputed_mean_makes_no_standard_error_smaller():
    found = judged(task(mine="impute"), {"mine": Scores(np.array([1.0, NAN, 3.0]), failures=1)})
    assert found.metrics["reward/mine/std"] == pytest.approx(2**0.5)  # of 1 and 3
    assert found.metrics["reward/mine/stderr"] == pytest.approx(1.0)  # √2 / √2


def test_with_another_reward_a_dropped_sample_follows_that_one_alone():
    scores = {"failing": Scores(np.array([NAN, 1.0, 3.0])), "whole": Scores(np.array([1.0, 2.0, 3.0]))}
    found = judged(task(failing="drop", whole="raise"), scores)
    only_whole = judged(task(whole="raise"), {"whole": scores["whole"]}).mixed.directions["all"]
    advantages = found.mixed.directions["all"]
    assert np.sign(advantages).tolist() == [-1, -1, 1]
    assert np.sign(only_whole).tolist() == [-1, 0, 1]  # sample 1 is pushed down by the failing reward only
    assert np.isfinite(advantages).all()


def test_two_processes_impute_the_mean_of_all_samples_as_one_does():
    scores = {"mine": Scores(ONE_SIDED)}
    one = judged(task(mine="impute"), scores)
    two = judged_by_two(task(mine="impute"), scores)
    assert one.values["mine"].tolist() == [3.0, 1.0, 3.0, 2.0, 3.0, 3.0, 4.0, 5.0]
    for each in two:
        assert each.values["mine"].tolist() == one.values["mine"].tolist()
        assert each.mixed.directions["all"].tolist() == one.mixed.directions["all"].tolist()


def test_failures_retries_and_time_outs_of_two_processes_are_added_up():
    for each in judged_by_two(task(mine="drop"), {"mine": Scores(ONE_SIDED)}):
        counts = [each.metrics[f"reward/mine/{kind}"] for kind in ("failures", "retries", "timeouts")]
        assert counts == [3, 3, 30]


def test_a_process_none_of_whose_samples_has_a_score_goes_on_with_the_others():
    values = np.array([NAN, 1.0, NAN, 2.0, NAN, 3.0, NAN, 4.0])
    for each in judged_by_two(task(mine="drop"), {"mine": Scores(values)}):
        assert each.metrics["reward/mine/mean"] == 2.5


def test_where_no_sample_of_any_process_has_a_score_every_process_says_so_and_why():
    two = judged_by_two(task(mine="drop"), {"mine": Scores(np.full(8, NAN), error="OSError: away")})
    for each in two:
        assert isinstance(each, RewardError)
        assert "no finite score for 8 of 8 images" in str(each) and "OSError: away" in str(each)
