"""The whole way from nothing to a measured model, stage by stage; finished stages are not repeated."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from .aesthetic import train_aesthetic
from .autoencoder import refine_decoder, train_autoencoder
from .captioner import train_captioner
from .classifier import fit_classifier
from .clip import train_clip
from .collect import collect
from .denoiser import encode_dataset, export_pipeline, train_denoiser
from .detector import train_detector
from .detector_data import make_detector_data
from .detector_report import report_detector
from .evaluate import evaluate
from .judge_data import make_judge_data
from .judge_report import report
from .render import render_dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What to make, where, and how long each stage may take."""

    work: Path  # everything that is not the result; delete it to start anew
    model: Path  # the diffusers folder
    judges: Path  # folder of the judges' folders
    docs: Path  # contact sheets, evaluation.json and judges.json
    workers: int  # single-threaded processes, best one for each core
    pictures: int
    autoencoder_minutes: float
    denoiser_minutes: float
    decoder_minutes: float
    classifier_minutes: float
    judge_pictures: int
    clip_minutes: float
    clip_tune_minutes: float
    captioner_minutes: float
    detector_minutes: float


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
    train_judges(plan)


def train_judges(plan: Plan) -> None:
    """Makes CLIP, aesthetic head and captioner from renderings and the finished model, and measures them."""
    sprites, data, made = plan.work / "data/sprites.npz", plan.work / "judge-data", plan.work / "judges"
    log.info("judges: %d pictures", plan.judge_pictures)
    make_judge_data(sprites, plan.model, data, plan.judge_pictures, plan.workers)
    log.info("judges: CLIP, %g minutes; aesthetic head", plan.clip_minutes + plan.clip_tune_minutes)
    train_clip(data, plan.model / "tokenizer", made / "clip", plan.clip_minutes, plan.clip_tune_minutes)
    train_aesthetic(data, made / "clip", made / "aesthetic/head.safetensors")
    log.info("judges: captioner, %g minutes", plan.captioner_minutes)
    train_captioner(data, made / "clip", made / "captioner", plan.captioner_minutes)
    log.info("judges: detector, %g minutes", plan.detector_minutes)
    boxes = make_detector_data(sprites, plan.model, plan.work / "detector-data.npz")
    train_detector(boxes, plan.model / "tokenizer", made / "detector", plan.detector_minutes)
    shutil.copytree(made, plan.judges, dirs_exist_ok=True)
    log.info("judges: report")
    log.info(json.dumps(report(sprites, plan.model, plan.judges, plan.docs), indent=2))
    detector = report_detector(plan.judges / "detector", sprites, plan.model, plan.docs)
    log.info(json.dumps(detector, indent=2))
