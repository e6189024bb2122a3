"""The whole way from nothing to a measured model, stage by stage; finished stages are not repeated."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from .autoencoder import refine_decoder, train_autoencoder
from .classifier import fit_classifier
from .collect import collect
from .denoiser import encode_dataset, export_pipeline, train_denoiser
from .evaluate import evaluate
from .render import render_dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What to make, where, and how long each stage may take."""

    work: Path  # everything that is not the result; delete it to start anew
    model: Path  # the diffusers folder
    docs: Path  # contact sheets and evaluation.json
    workers: int  # single-threaded processes, best one for each core
    pictures: int
    autoencoder_minutes: float
    denoiser_minutes: float
    decoder_minutes: float
    classifier_minutes: float


def run(plan: Plan) -> None:
    """Runs every stage that is not finished yet; a killed run goes on where its last checkpoint stands."""
    drawings, data = plan.work / "drawings", plan.work / "data"
    autoencoder, refined = plan.work / "autoencoder", plan.work / "autoencoder-refined"
    latents, state = plan.work / "latents.npy", plan.work / "denoiser.state"

    plan.work.mkdir(parents=True, exist_ok=True)
    (plan.work / ".gitignore").write_text("*\n")  # gigabytes that nobody should commit
    log.info("1/7  drawings")
    collect(drawings)
    log.info("2/7  %d renderings", plan.pictures)
    render_dataset(drawings, data, plan.pictures, plan.workers)
    log.info("3/7  autoencoder, %g minutes", plan.autoencoder_minutes)
    train_autoencoder(data, autoencoder, plan.autoencoder_minutes, plan.workers)
    log.info("4/7  denoiser and text encoder, %g minutes", plan.denoiser_minutes)
    encode_dataset(data, autoencoder, latents, plan.workers)
    train_denoiser(data, latents, state, plan.denoiser_minutes, plan.workers)
    log.info("5/7  decoder once more, %g minutes", plan.decoder_minutes)
    refine_decoder(data, autoencoder, refined, plan.decoder_minutes, plan.workers)
    export_pipeline(state, refined, plan.model)
    log.info("6/7  classifier for the evaluation, %g minutes", plan.classifier_minutes)
    classifier = fit_classifier(data, plan.work / "classifier.pt", plan.classifier_minutes)
    log.info("7/7  evaluation")
    log.info(json.dumps(evaluate(plan.model, classifier, data / "sprites.npz", plan.docs), indent=2))
