import pytest
import torch

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.estimators.nft import NegativeAware
from ddpo_core.info import RewardInfo
from ddpo_core.pretraining import Pretraining, picture_size
from ddpo_core.processes import Flow
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.testing import ToyDenoiser, example_images
from ddpo_core.training import Settings, Task, train
from ddpo_core.types import Prompt


class Pictures:
    """Twenty pictures of 4 × 4 pixels; it keeps count of what was opened."""

    def __init__(self, size=4):
        self.images = example_images(20, size) * 0.8 + 0.1
        self.opened = []

    def __len__(self):
        return 20

    def __getitem__(self, index):
        self.opened.append(index)
        return self.images[index], f"picture {index}"


@pytest.fixture
def policy():
    denoiser, sampler = ToyDenoiser(), DDIM()
    return Policy(denoiser, sampler, sampler.schedule(denoiser, 4), 3.0)


def batch(pretraining, policy, epoch=1, process=0, processes=1):
    return list(pretraining.minibatches(policy, epoch=epoch, process=process, processes=processes))


def gradient(policy, pretraining, minibatches):
    policy.denoiser.network.zero_grad()
    for each in minibatches:
        (pretraining.loss(policy, each).value * each.weight).backward()
    return torch.cat([parameter.grad.flatten() for parameter in policy.denoiser.trainable_parameters()])


@pytest.mark.parametrize("process", [None, Flow()])
def test_the_loss_is_the_weighted_mean_square_error_of_the_unguided_prediction(process):
    denoiser, sampler = ToyDenoiser(process=process), DDIM()
    schedule = sampler.schedule(ToyDenoiser(), 4)
    policy = Policy(denoiser, sampler, schedule, 3.0)
    pretraining = Pretraining(Pictures(), batch_size=3, weight=0.5)
    (minibatch,) = batch(pretraining, policy)

    network, t = denoiser.network, minibatch.timesteps.float()
    if process is None:
        alpha = denoiser.process.alphas_cumprod[minibatch.timesteps].float()
        signal, noise, target = alpha.sqrt(), (1 - alpha).sqrt(), minibatch.noise
    else:
        signal, noise, target = 1 - t / 1000, t / 1000, minibatch.noise - minibatch.clean
    total = 0.0
    for row in range(3):
        x = signal[row] * minibatch.clean[row] + noise[row] * minibatch.noise[row]
        embedding = minibatch.conditioning["prompt_embeds"][row, 0]
        bias = (network.prompt_weight @ embedding).view(1, 4, 4)
        answer = network.gain * x + network.drift * t[row] / 1000 + bias
        total += (answer - target[row]).square().mean().item()
    loss = pretraining.loss(policy, minibatch)
    assert loss.value.item() == pytest.approx(0.5 * total / 3, rel=1e-5)
    assert loss.diagnostics["denoising_error"].item() == pytest.approx(total / 3, rel=1e-5)


def test_a_minibatch_holds_the_latents_and_captions_of_the_pictures_that_were_opened(policy):
    data = Pictures()
    (minibatch,) = batch(Pretraining(data, batch_size=5), policy)
    expected = policy.denoiser.encode_images(torch.stack([data.images[index] for index in data.opened]))
    torch.testing.assert_close(minibatch.clean, expected)
    embeds = policy.denoiser.encode([f"picture {index}" for index in data.opened])["prompt_embeds"]
    assert torch.equal(minibatch.conditioning["prompt_embeds"], embeds)


def test_an_epochs_pairs_follow_from_the_seed_and_its_number(policy):
    def drawn(seed, epoch, minibatch_size=8):
        data = Pictures()
        pretraining = Pretraining(data, batch_size=16, seed=seed, minibatch_size=minibatch_size)
        noise = torch.cat([each.noise for each in batch(pretraining, policy, epoch)])
        return data.opened, noise

    pairs, noise = drawn(0, 1)
    again, same_noise = drawn(0, 1, minibatch_size=3)
    assert again == pairs and torch.equal(same_noise, noise)
    assert drawn(0, 2)[0] != pairs and drawn(1, 1)[0] != pairs


@pytest.mark.parametrize(("batch_size", "processes"), [(8, 2), (7, 2), (5, 3)])
def test_several_processes_make_the_gradient_of_one(policy, batch_size, processes):
    pretraining = Pretraining(Pictures(), batch_size=batch_size, minibatch_size=2)
    alone = gradient(policy, pretraining, batch(pretraining, policy))
    parts = [
        gradient(policy, pretraining, batch(pretraining, policy, process=process, processes=processes))
        for process in range(processes)
    ]
    torch.testing.assert_close(sum(parts) / processes, alone, rtol=1e-4, atol=1e-6)


def test_a_process_without_a_pair_is_refused():
    with pytest.raises(UsageError, match="a batch of 2 pairs is too small for 4 processes"):
        Pretraining(Pictures(), batch_size=2).check(4)


def test_pictures_of_another_size_are_refused(policy):
    with pytest.raises(UsageError, match=r"latents are \(1, 4, 4\), those of pictures of 6 × 6 pixels"):
        batch(Pretraining(Pictures(6), batch_size=2), policy)
    assert picture_size(policy.denoiser) == (4, 4)
    assert picture_size(ToyDenoiser((2, 4, 6), pixels=8)) == (32, 48)


def run(pretraining, epochs=2):
    """The states of a run after its epochs, and their metrics."""
    info = RewardInfo(name="bright", summary="", factory="")
    objective = Objective([Term("bright", 1.0, lambda images, prompts: images.mean((1, 2, 3)), info)])
    settings = Settings(
        epochs=epochs,
        samples_per_epoch=4,
        sample_batch_size=4,
        updates_per_epoch=2,
        num_steps=3,
        guidance_scale=1.0,
    )
    model = ToyDenoiser()
    run = train(
        denoiser=model,
        sampler=DDIM(),
        estimator=NegativeAware(),
        tasks=[Task(PromptStream([Prompt("a cat"), Prompt("a dog")], seed=0), objective)],
        settings=settings,
        pretraining=pretraining,
    )
    return [(epoch.capture(), dict(epoch.metrics)) for epoch in run], model


def test_it_makes_exactly_one_update_more_and_reports_itself():
    (with_it, _), (without, _) = run(Pretraining(Pictures(), batch_size=4)), run(None)
    assert [state.updates for state, _ in with_it] == [3, 6]
    assert [state.updates for state, _ in without] == [2, 4]
    added = set(with_it[0][1]) - set(without[0][1])
    assert added == {
        "pretraining/loss",
        "pretraining/denoising_error",
        "pretraining/grad_norm",
        "seconds/pretraining",
    }
    assert with_it[0][1]["reward/bright/mean"] == without[0][1]["reward/bright/mean"]


def test_steps_of_it_bring_a_spoilt_network_back():
    data = Pictures()
    denoiser, sampler = ToyDenoiser(), DDIM()
    with torch.no_grad():
        denoiser.network.gain.fill_(3.0)
    policy = Policy(denoiser, sampler, sampler.schedule(denoiser, 4), 1.0)
    pretraining = Pretraining(data, batch_size=16)
    optimizer = torch.optim.Adam(denoiser.trainable_parameters(), lr=0.05)
    errors = []
    for epoch in range(80):
        optimizer.zero_grad()
        for each in batch(pretraining, policy, epoch):
            loss = pretraining.loss(policy, each)
            (loss.value * each.weight).backward()
        optimizer.step()
        errors.append(loss.diagnostics["denoising_error"].item())
    assert sum(errors[-10:]) < 0.2 * sum(errors[:10])
