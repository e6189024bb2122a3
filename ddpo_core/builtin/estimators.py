"""What ddpo's estimators say of themselves. docs/estimators.md has their formulas."""

from __future__ import annotations

from dataclasses import replace

from ddpo_core.builtin.packages import INSTALL_TRAIN
from ddpo_core.info import EstimatorInfo, Option

CLIP_RANGE = Option(
    name="clip_range",
    type="float",
    default=1e-4,
    minimum=0,
    help="the ratio is clipped at 1 ± this; log-probs are means over latent elements, so it is small",
)
CLIP_NATS = Option(
    name="clip_nats",
    type="float",
    minimum=0,
    help="clip in nats of the summed log-prob instead; takes the place of clip_range",
)
ADVANTAGE_CLIP = Option(
    name="advantage_clip", type="float", default=5.0, minimum=0, help="advantages are cut off at ± this"
)
INNER_EPOCHS = Option(
    name="inner_epochs", type="int", default=1, minimum=1, help="passes over each epoch's samples"
)
TIMESTEP_FRACTION = Option(
    name="timestep_fraction",
    type="float",
    default=1.0,
    minimum=0.001,
    maximum=1,
    help="part of each sample's steps that is trained on, drawn by its seed",
)
TIMESTEP_COUNT = Option(
    name="timestep_count",
    type="int",
    minimum=1,
    help="train on so many of each sample's steps, drawn by its seed; takes the place of timestep_fraction",
)
UPDATE_PER_TIMESTEP = Option(
    name="update_per_timestep",
    type="bool",
    default=False,
    help="an optimiser step for each of a sample's steps, over all samples, as arXiv 2401.12244 has it",
)
WINDOW = Option(
    name="window",
    type="int",
    default=0,
    minimum=0,
    help="train on so many neighbouring steps that slide from the noise to the picture; 0: no window",
)
WINDOW_EVERY = Option(
    name="window_every", type="int", default=1, minimum=1, help="epochs before the window moves on"
)
WINDOW_STRIDE = Option(
    name="window_stride", type="int", default=1, minimum=1, help="steps by which the window moves"
)
EARLY_FRACTION = Option(
    name="early_fraction",
    type="float",
    default=1.0,
    minimum=0.001,
    maximum=1,
    help="part of the steps, counted from the noise, that is trained on; see docs/notes.md",
)
KL_WEIGHT = Option(
    name="kl_weight",
    type="float",
    default=0.04,
    minimum=0,
    help="weight of the KL divergence, in nats per latent element, from the model before training",
)
INVERSE_TEMPERATURE = Option(
    name="inverse_temperature",
    type="float",
    default=1.0,
    minimum=0,
    help="weights are exp(this × reward); 0 weighs all samples the same",
)
PERCENTILE = Option(
    name="percentile",
    type="float",
    default=0.9,
    minimum=0,
    maximum=1,
    help="part of the samples that is left out; the others weigh the same",
)
WEIGHED = (
    Option(
        name="on",
        type="str",
        default="standardised",
        choices=("standardised", "raw"),
        help="weigh advantages, or the rewards as they are in their own units (the paper's way)",
    ),
    Option(
        name="over",
        type="str",
        default="round",
        choices=("round", "prompt"),
        help="weigh all samples of a round against each other, or those of each prompt",
    ),
    INNER_EPOCHS,
    Option(
        name="timestep_count",
        type="int",
        default=1,
        minimum=1,
        help="timesteps and noises drawn for each sample in each pass",
    ),
    Option(
        name="guided",
        type="bool",
        default=True,
        help="train the guided prediction (the paper's way), or the prompt's alone",
    ),
)
GUIDED = Option(
    name="guided",
    type="bool",
    default=True,
    help="train the guided prediction, which is what sampled, or the prompt's alone",
)
TIMESTEPS = (
    TIMESTEP_FRACTION,
    TIMESTEP_COUNT,
    UPDATE_PER_TIMESTEP,
    EARLY_FRACTION,
    WINDOW,
    WINDOW_EVERY,
    WINDOW_STRIDE,
)
CLIPPED = (CLIP_RANGE, CLIP_NATS, ADVANTAGE_CLIP, INNER_EPOCHS, *TIMESTEPS)
FORWARD = (
    INNER_EPOCHS,
    Option(
        name="timesteps",
        type="str",
        default="schedule",
        choices=("schedule", "uniform"),
        help="look at the sampler's own timesteps, or at as many from the whole process",
    ),
    GUIDED,
    *TIMESTEPS,
)
PREDICTION_KL = Option(
    name="kl_weight",
    type="float",
    default=0.0,
    minimum=0,
    help="weight of the squared distance from the prediction of the model before training; 0: none",
)

# Those that rate steps first.
ESTIMATORS: tuple[EstimatorInfo, ...] = (
    EstimatorInfo(
        name="ddpo-is",
        summary="DDPO with importance sampling and PPO's clip; several updates per epoch",
        factory="ddpo_core.estimators.ddpo:ImportanceSampling",
        options=CLIPPED,
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "log_probs"),
        updates_per_epoch=4,
    ),
    EstimatorInfo(
        name="ddpo-sf",
        summary="DDPO's score function, that is REINFORCE; one update per epoch",
        factory="ddpo_core.estimators.ddpo:ScoreFunction",
        options=(ADVANTAGE_CLIP, *TIMESTEPS),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "log_probs"),
        updates_per_epoch=1,
        fixed_updates=True,
    ),
    EstimatorInfo(
        name="grpo",
        summary="group-relative: images of one prompt against each other, held near the model by KL",
        factory="ddpo_core.estimators.grpo:KLRegularised",
        options=(KL_WEIGHT, *CLIPPED),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "log_probs", "untrained"),
        updates_per_epoch=4,
        defaults={"advantages": "group,size=8"},
    ),
    EstimatorInfo(
        name="dpok",
        summary="DPOK: policy gradient towards one reward, held near the model by KL",
        factory="ddpo_core.estimators.grpo:KLRegularised",
        options=(replace(KL_WEIGHT, default=0.01), *CLIPPED),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "log_probs", "untrained"),
        updates_per_epoch=4,
        defaults={"advantages": "batch"},
    ),
    EstimatorInfo(
        name="rwr",
        summary="reward-weighted regression: denoise the round's pictures again, each by exp(β · reward)",
        factory="ddpo_core.estimators.rwr:RewardWeighted",
        options=(INVERSE_TEMPERATURE, *WEIGHED),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        updates_per_epoch=4,
    ),
    EstimatorInfo(
        name="rwr-sparse",
        summary="the same with the round's best pictures only, from a percentile of the rewards on",
        factory="ddpo_core.estimators.rwr:Sparse",
        options=(PERCENTILE, *WEIGHED),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        updates_per_epoch=4,
    ),
    EstimatorInfo(
        name="nft",
        summary="DiffusionNFT: a denoising loss that learns from good and bad samples; any sampler",
        factory="ddpo_core.estimators.nft:NegativeAware",
        options=(
            Option(
                name="beta",
                type="float",
                default=1.0,
                minimum=0.001,
                help="how far the implicit policies lie from the one that sampled; smaller learns faster",
            ),
            replace(ADVANTAGE_CLIP, help="an advantage of this much makes a sample good with certainty"),
            PREDICTION_KL,
            *FORWARD,
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        updates_per_epoch=2,
    ),
    EstimatorInfo(
        name="awm",
        summary="advantage weighted matching: the denoising loss as log-likelihood; any sampler",
        factory="ddpo_core.estimators.awm:AdvantageWeightedMatching",
        options=(
            replace(
                CLIP_RANGE,
                default=1.0,
                help="the ratio is clipped at 1 ± this; losses are means over latent elements",
            ),
            ADVANTAGE_CLIP,
            Option(
                name="weighting",
                type="str",
                default="uniform",
                choices=("uniform", "ghuber"),
                help="count every timestep's loss as it is, or noisier ones more and large ones less",
            ),
            PREDICTION_KL,
            *FORWARD,
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        updates_per_epoch=2,
    ),
    EstimatorInfo(
        name="draft",
        summary="DRaFT, AlignProp: the reward's own gradient through the last denoising steps",
        factory="ddpo_core.estimators.draft:BackPropagation",
        options=(
            Option(
                name="steps",
                type="int",
                default=1,
                minimum=1,
                help="how many steps from the end the gradient goes back through",
            ),
            Option(
                name="lv",
                type="int",
                default=0,
                minimum=0,
                help="DRaFT-LV: look at the last step so many times more, with new noise",
            ),
            Option(
                name="random_steps",
                type="bool",
                default=False,
                help="AlignProp: draw the number of steps, at most `steps`, for each update",
            ),
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "gradient"),
        updates_per_epoch=4,
    ),
)
