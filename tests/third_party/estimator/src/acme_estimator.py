"""An estimator in one file and one hook: the log-prob of what turned out better than usual, and no more."""

from ddpo_core import EstimatorInfo, Option, hookimpl
from ddpo_core.types import Loss, Minibatch

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_estimators():
    yield EstimatorInfo(
        name="cheer",
        summary="raise the log-prob of samples with a positive advantage",
        factory="acme_estimator:Cheer",
        options=(Option(name="threshold", type="float", default=0.0, minimum=0, help="advantages above it"),),
        requires=("torch",),
        needs=("trajectory", "log_probs"),
        updates_per_epoch=2,
    )


class Cheer:
    """−E[1(A > threshold) · log p]."""

    needs = frozenset({"trajectory", "log_probs"})

    def __init__(self, *, threshold=0.0):
        self.threshold = threshold

    def updates(self, policy, judged, *, num_updates, batch_size):
        import torch  # not when ddpo lists its plugins

        for rows in torch.arange(len(judged.seeds)).chunk(num_updates):
            yield self.minibatches(policy, judged, rows.split(batch_size), len(rows))

    def minibatches(self, policy, judged, chunks, samples):
        """Each sample's rated steps, step by step; the weights of an update add up to 1."""
        rated = policy.schedule.rated
        for rows in chunks:
            for t in rated:
                yield Minibatch(
                    weight=len(rows) / samples / len(rated),
                    latents=judged.trajectory.latents[rows, t],
                    next_latents=judged.trajectory.latents[rows, t + 1],
                    steps=rows.new_full((len(rows),), t),
                    conditioning={k: v[rows] for k, v in judged.trajectory.conditioning.items()},
                    old_log_prob=judged.trajectory.log_probs[rows, t],
                    advantage=judged.advantages[rows],
                )

    def loss(self, policy, minibatch):
        step = policy.step(minibatch.steps, minibatch.latents, minibatch.conditioning)
        cheered = (minibatch.advantage > self.threshold).float()
        value = -(cheered * step.log_prob(minibatch.next_latents)).mean()
        return Loss(value, {"cheered": cheered.mean()})
