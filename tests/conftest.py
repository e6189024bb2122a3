"""What several test files share: a tiny Stable Diffusion, other people's plugins, and quiet libraries."""

from __future__ import annotations

import json
import os
import shutil
import string
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the network fails at once
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side, one on each core


def character_tokenizer(folder: Path) -> object:
    """A CLIPTokenizer whose tokens are single letters."""
    from transformers import CLIPTokenizer

    letters = list(string.ascii_lowercase)
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=12,
        unk_token="<|endoftext|>",
    )


def save_tiny_pipeline(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write a StableDiffusionPipeline of random weights: 16 × 16 pictures, 4 × 8 × 8 latents."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = character_tokenizer(folder.parent / f"{folder.name}-tokens")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),  # type: ignore[arg-type]
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=12,
            bos_token_id=tokenizer.bos_token_id,  # type: ignore[attr-defined]
            eos_token_id=tokenizer.eos_token_id,  # type: ignore[attr-defined]
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        latent_channels=4,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,  # type: ignore[arg-type]
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny ε-predicting Stable Diffusion."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="session")
def tiny_v_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, predicting v."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny-sd-v", prediction_type="v_prediction")


# ---- tiny pipelines of the other families ------------------------------------------------------------


def character_t5_tokenizer() -> object:
    """A T5Tokenizer whose tokens are single letters, and the space before a word."""
    from transformers import T5Tokenizer

    vocab = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    vocab += [(letter, -2.0) for letter in ("▁", *string.ascii_lowercase)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=12)


def tiny_clip(tokenizer: object, *, width: int, projected: bool) -> object:
    """A CLIP text encoder of two layers; its pooled embedding has the same width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),  # type: ignore[arg-type]
        hidden_size=width,
        projection_dim=width,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=12,
        bos_token_id=tokenizer.bos_token_id,  # type: ignore[attr-defined]
        eos_token_id=tokenizer.eos_token_id,  # type: ignore[attr-defined]
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def tiny_t5(tokenizer: object, *, width: int) -> object:
    """A T5 encoder of two layers."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),  # type: ignore[arg-type]
            d_model=width,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
        )
    )


def tiny_vae(latent_channels: int, **config: object) -> object:
    """An autoencoder that halves height and width."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        latent_channels=latent_channels,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **config,  # type: ignore[arg-type]
    )


def stir(module: object) -> object:
    """The module with no weight at zero: some layers start there, and would hide what they are given."""
    import torch

    for parameter in module.parameters():  # type: ignore[attr-defined]
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return module


def save_tiny_sdxl(folder: Path) -> Path:
    """Write a StableDiffusionXLPipeline of random weights: 16 × 16 pictures, 4 × 8 × 8 latents."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = character_tokenizer(folder.parent / f"{folder.name}-tokens")
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32 + 48,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 48,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    StableDiffusionXLPipeline(
        vae=tiny_vae(4, force_upcast=True),
        text_encoder=tiny_clip(tokenizer, width=32, projected=False),
        text_encoder_2=tiny_clip(tokenizer, width=48, projected=True),
        tokenizer=tokenizer,  # type: ignore[arg-type]
        tokenizer_2=tokenizer,  # type: ignore[arg-type]
        unet=stir(unet),  # type: ignore[arg-type]
        scheduler=scheduler,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def save_tiny_sd3(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """Write a StableDiffusion3Pipeline of random weights: 16 × 16 pictures, 4 × 8 × 8 latents.

    `without` names the text encoders ("text_encoder", …) that it lacks.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    tokenizer = character_tokenizer(folder.parent / f"{folder.name}-tokens")
    t5_tokenizer = character_t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=96,
        caption_projection_dim=32,
        pooled_projection_dim=16 + 48,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    parts = {
        "text_encoder": tiny_clip(tokenizer, width=16, projected=True),
        "text_encoder_2": tiny_clip(tokenizer, width=48, projected=True),
        "text_encoder_3": tiny_t5(t5_tokenizer, width=96),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "tokenizer_3": t5_tokenizer,
    }
    for name in without:
        parts |= {name: None, name.replace("text_encoder", "tokenizer"): None}
    StableDiffusion3Pipeline(
        vae=tiny_vae(4, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False),  # type: ignore[arg-type]
        transformer=stir(transformer),  # type: ignore[arg-type]
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **parts,  # type: ignore[arg-type]
    ).save_pretrained(folder)
    return folder


def save_tiny_flux(folder: Path, *, guidance_embeds: bool = True) -> Path:
    """Write a FluxPipeline of random weights; its own size is 256 × 256 pictures, 4 × 128 × 128 latents.

    With `guidance_embeds` it is like FLUX.1-dev, else like FLUX.1-schnell.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    tokenizer = character_tokenizer(folder.parent / f"{folder.name}-tokens")
    t5_tokenizer = character_t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8),
    )
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        if guidance_embeds
        else FlowMatchEulerDiscreteScheduler(shift=1.0)
    )
    FluxPipeline(
        vae=tiny_vae(4, shift_factor=0.12, scaling_factor=0.36),  # type: ignore[arg-type]
        text_encoder=tiny_clip(tokenizer, width=32, projected=False),  # type: ignore[arg-type]
        text_encoder_2=tiny_t5(t5_tokenizer, width=32),  # type: ignore[arg-type]
        tokenizer=tokenizer,  # type: ignore[arg-type]
        tokenizer_2=t5_tokenizer,  # type: ignore[arg-type]
        transformer=stir(transformer),  # type: ignore[arg-type]
        scheduler=scheduler,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny SDXL."""
    return save_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl")


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny SD3.5."""
    return save_tiny_sd3(tmp_path_factory.mktemp("models") / "tiny-sd3")


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny FLUX.1-dev."""
    return save_tiny_flux(tmp_path_factory.mktemp("models") / "tiny-flux")


@pytest.fixture(scope="session")
def tiny_schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny FLUX.1-schnell: no guidance, no shift."""
    return save_tiny_flux(tmp_path_factory.mktemp("models") / "tiny-schnell", guidance_embeds=False)


@pytest.fixture
def tiny_sd3_without(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_sd3_without("text_encoder")`: a folder with a tiny SD3.5 that lacks text encoders."""
    return lambda *missing: save_tiny_sd3(tmp_path / "tiny-sd3", without=missing)


THIRD_PARTY = Path(__file__).parent / "third_party"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """`install("good", "exits")`: distributions of tests/third_party; discovery sees them and no others.

    Writes what pip would write, in a thousandth of the time. Returns the folder it writes into.
    """
    from ddpo_core.discovery import registry

    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("DDPO_ONLY", "")

    def install(*folders: str) -> Path:
        for folder in folders:
            project = tomllib.loads((THIRD_PARTY / folder / "pyproject.toml").read_text())["project"]
            shutil.copytree(THIRD_PARTY / folder / "src", site, dirs_exist_ok=True)
            write_dist_info(site, project)
            monkeypatch.setenv("DDPO_ONLY", f"{os.environ['DDPO_ONLY']},{project['name']}")
        registry.cache_clear()
        return site

    yield install
    registry.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(site)):
            del sys.modules[name]


def write_dist_info(site: Path, project: dict[str, object]) -> None:
    """The metadata of an installed distribution."""
    info = site / f"{str(project['name']).replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["ddpo"]  # type: ignore[index]
    lines = "\n".join(f"{name} = {module}" for name, module in points.items())
    (info / "entry_points.txt").write_text(f"[ddpo]\n{lines}\n")
