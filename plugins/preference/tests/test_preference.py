"""Each score is what its authors' formula, or their own code, gives for the picture's PNG file and prompt."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ddpo_reward_preference import ddpo_rewards
from ddpo_reward_preference.blip import network_of, renamed
from ddpo_reward_preference.clipscore import ClipScore
from ddpo_reward_preference.hpsv2 import HpsV2
from ddpo_reward_preference.imagereward import ImageReward
from ddpo_reward_preference.pickscore import PickScore
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPModel

from ddpo_core import EnvironmentFault, Prompt, UsageError
from ddpo_core.testing import check_reward, example_images, example_prompts

INFOS = {info.name: info for info in ddpo_rewards()}
TEXTS = (
    "a cat",
    "two dog riding bike on the moon",
    "an old woman with a red ball , sitting . abc",
    " ".join(["a red cat and a wolf"] * 12),
)
# What image-reward 1.5's and hpsv2 1.2.0's own code gave for `picture_set` and `TEXTS`, the README says how.
IMAGE_REWARD = (-0.342915, -0.491257, -0.234098, -0.297083)
HPS = (0.170927, 0.035684, -0.489865, -0.461804)


def prompts(texts=TEXTS) -> list[Prompt]:
    return [Prompt(text) for text in texts]


def picture_set(count: int = 4, height: int = 40, width: int = 48) -> torch.Tensor:
    """Smooth pictures [count, 3, height, width] by formula, in whole 8-bit levels."""
    y = torch.linspace(0, 1, height, dtype=torch.float64).view(1, 1, -1, 1)
    x = torch.linspace(0, 1, width, dtype=torch.float64).view(1, 1, 1, -1)
    k = torch.arange(1, count + 1, dtype=torch.float64).view(-1, 1, 1, 1)
    c = torch.arange(3, dtype=torch.float64).view(1, -1, 1, 1)
    waves = 0.5 + 0.5 * torch.sin(3 * k * x + 5 * y * (c + 1) + k * c)
    return ((waves * 255).round() / 255).float()


def files(images: torch.Tensor, folder) -> list[Image.Image]:
    """The images as PNG files, opened again."""
    opened = []
    for index, image in enumerate(images):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")
        opened.append(Image.open(folder / f"{index}.png"))
    return opened


@pytest.fixture(scope="session")
def build(clip_folder, hps, image_reward_options):
    """name, options → the small reward of that name."""
    makers = {
        "clipscore": (ClipScore, {"clip": str(clip_folder)}),
        "pickscore": (PickScore, {"clip": str(clip_folder), "processor": str(clip_folder)}),
        "hpsv2": (HpsV2, hps),
        "imagereward": (ImageReward, image_reward_options),
    }

    def make(name: str, **options):
        maker, own = makers[name]
        assert INFOS[name].factory == f"{maker.__module__}:{maker.__name__}"
        return maker(**{**own, "device": "cpu", **options})

    return make


@pytest.fixture(params=list(INFOS), scope="module")
def reward(request, build):
    reward = build(request.param)
    reward.name = request.param
    return reward


# ---- the numbers -------------------------------------------------------------------------------------


def clip_cosines(folder, reward, images, texts, tmp_path) -> np.ndarray:
    """One picture and one text at a time, through the whole of CLIPModel, without padding."""
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    cosines = []
    for picture, text in zip(files(images, tmp_path), texts, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=20, return_tensors="pt")
        pixels = reward.clip.processor(picture, return_tensors="pt").pixel_values
        with torch.no_grad():
            output = model(input_ids=tokens.input_ids, pixel_values=pixels)
        cosines.append((output.image_embeds @ output.text_embeds.T).item())
    return np.array(cosines)


@pytest.mark.parametrize("shape", [(32, 32), (40, 48), (70, 51)])
def test_clipscore_is_the_cosine_of_clips_embeddings(build, clip_folder, tmp_path, shape):
    reward, images = build("clipscore"), picture_set(4, *shape)
    expected = clip_cosines(clip_folder, reward, images, TEXTS, tmp_path)
    assert reward(images, prompts()).values == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.01
    scaled = build("clipscore", scale=2.5)
    assert scaled(images, prompts()).values == pytest.approx(2.5 * expected, abs=1e-5)


def test_clipscore_as_in_the_paper_is_two_and_a_half_cosines_and_never_negative(build, clip_folder, tmp_path):
    reward, images = build("clipscore", paper=True), picture_set()
    depicted = [f"A photo depicts {text}" for text in TEXTS]
    cosines = clip_cosines(clip_folder, reward, images, depicted, tmp_path)
    expected = [2.5 * max(0.0, cosine) for cosine in cosines]
    assert reward(images, prompts()).values == pytest.approx(expected, abs=1e-5)


def test_pickscore_is_the_cosine_times_the_exponential_of_the_logit_scale(build, clip_folder, tmp_path):
    reward, images = build("pickscore"), picture_set()
    cosines = clip_cosines(clip_folder, reward, images, TEXTS, tmp_path)
    assert reward(images, prompts()).values == pytest.approx(90 * cosines, abs=1e-3)


def test_hpsv2_gives_what_its_authors_code_gives(build):
    assert build("hpsv2")(picture_set(), prompts()).values == pytest.approx(HPS, abs=1e-5)


def test_imagereward_gives_what_its_authors_code_gives(build):
    assert build("imagereward")(picture_set(), prompts()).values == pytest.approx(IMAGE_REWARD, abs=1e-5)


def test_without_antialiasing_hpsv2_gives_other_numbers_near_by(build):
    scores = build("hpsv2", antialias=False)(picture_set(), prompts()).values
    assert 1e-4 < np.abs(scores - HPS).max() < 0.02


def test_versions_of_hpsv2_are_files_of_the_hub(no_hub):
    for version in ("2.0", "2.1"):
        with pytest.raises(EnvironmentFault, match="xswu/HPSv2 are not on this machine"):
            HpsV2(version=version)
    with pytest.raises(UsageError, match=r"version is 2\.0 or 2\.1, got 3"):
        HpsV2(version="3")


# ---- imagereward's names of tensors ------------------------------------------------------------------


def test_every_tensor_of_imagereward_finds_its_place_and_no_place_is_left_at_random(image_reward_tensors):
    checkpoint = image_reward_tensors
    network = network_of(checkpoint)
    assert set(renamed(checkpoint)) == set(network.state_dict())
    unused = {"blip.vision_proj", "blip.text_proj"}
    kept = [
        name for name in checkpoint if name.rpartition(".")[0] not in unused and "position_ids" not in name
    ]
    assert len(kept) == len(network.state_dict())


def test_each_block_keeps_its_own_tensors(image_reward_tensors):
    checkpoint = image_reward_tensors
    for old, new in (
        (
            "blip.visual_encoder.blocks.1.attn.proj.weight",
            "vision.encoder.layers.1.self_attn.projection.weight",
        ),
        ("blip.visual_encoder.blocks.0.norm2.bias", "vision.encoder.layers.0.layer_norm2.bias"),
        ("blip.text_encoder.encoder.layer.1.crossattention.self.key.weight",) * 2,
    ):
        new = new.replace("blip.text_encoder.", "text.")
        assert torch.equal(renamed(checkpoint)[new], checkpoint[old])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tensors: tensors.pop("blip.visual_encoder.norm.bias"), "post_layernorm.bias is missing"),
        (
            lambda tensors: tensors.pop("blip.visual_encoder.pos_embed"),
            "there is no vision.embeddings.position",
        ),
        (lambda tensors: tensors.update({"blip.odd": torch.zeros(1)}), "blip.odd has no place"),
        (
            lambda tensors: tensors.update({"mlp.layers.7.bias": torch.zeros(2)}),
            r"mlp.7.bias is \[2\], not \[1\]",
        ),
    ],
)
def test_another_checkpoint_is_refused_with_the_tensor_that_differs(image_reward_tensors, spoil, reason):
    spoil(image_reward_tensors)
    with pytest.raises(ValueError, match=reason):
        network_of(image_reward_tensors)


# ---- what all four promise ---------------------------------------------------------------------------


def test_the_contract_is_kept(reward):
    check_reward(reward, INFOS[reward.name])


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_the_batch_size_changes_no_score(reward, build, batch_size):
    """With prompts of 2 to 72 tokens, so that padding is in play."""
    other = build(reward.name, batch_size=batch_size)
    scores = reward(picture_set(), prompts()).values
    assert other(picture_set(), prompts()).values == pytest.approx(scores, rel=1e-5, abs=1e-5)


def test_the_prompt_and_the_picture_both_matter(reward):
    images = picture_set()
    scores = reward(images, prompts()).values
    assert np.abs(reward(images.flip(0), prompts()).values - scores).max() > 1e-3
    assert np.abs(reward(images, prompts()[::-1]).values - scores).max() > 1e-3


def test_a_prompt_that_is_cut_is_noted_in_its_record(reward):
    longer = [*TEXTS[:3], TEXTS[3] + " on the moon ."]
    details = reward(picture_set(), prompts(longer)).details
    limit, count = {"hpsv2": (77, 78), "imagereward": (35, 78)}.get(reward.name, (20, 192))
    assert details[0] == {}
    assert details[3] == {"note": f"read {limit} of the prompt's {count} tokens"}
    assert reward(picture_set(1), prompts(TEXTS[:1])).details == []


def test_a_picture_and_its_png_file_score_alike(reward, tmp_path):
    images = example_images(5)
    opened = [torch.from_numpy(np.array(file)).permute(2, 0, 1) / 255 for file in files(images, tmp_path)]
    first = reward(images, example_prompts()).values
    assert reward(torch.stack(opened), example_prompts()).values.tolist() == first.tolist()


def test_an_image_that_is_not_all_numbers_has_no_score_and_the_others_keep_theirs(reward):
    images = picture_set()
    whole = reward(images, prompts()).values
    images[1, 0, 0, 0] = torch.nan
    scores = reward(images, prompts()).values
    assert np.isnan(scores).tolist() == [False, True, False, False]
    assert scores[[0, 2, 3]] == pytest.approx(whole[[0, 2, 3]], abs=1e-5)
    assert reward(images[:0], []).values.shape == (0,)


def test_the_differentiable_score_is_the_score_but_for_rounding(reward):
    images = picture_set(4, 32, 32)  # nothing to resize: nothing is rounded
    scores = reward(images, prompts()).values
    assert reward.score(images, prompts()).numpy() == pytest.approx(scores, rel=1e-4, abs=1e-4)
    resized = reward(picture_set(), prompts()).values
    tolerance = 0.02 * max(1.0, float(np.abs(resized).max()))
    assert reward.score(picture_set(), prompts()).numpy() == pytest.approx(resized, abs=tolerance)


def test_the_gradient_is_the_slope_of_the_score(reward):
    images = picture_set().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(images, prompts()).sum(), images)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        rise = reward.score(images + step, prompts()).sum() - reward.score(images - step, prompts()).sum()
    assert rise.item() == pytest.approx(2e-2 * gradient.norm().item(), rel=0.05)


def test_half_precision_is_near(reward, build):
    half = build(reward.name, dtype="bfloat16")
    scores = reward(picture_set(), prompts()).values
    tolerance = 0.05 * max(1.0, float(np.abs(scores).max()))
    assert half(picture_set(), prompts()).values == pytest.approx(scores, abs=tolerance)


def test_two_rewards_use_their_one_copy_from_two_threads_at_once(build):
    first, second = build("clipscore"), build("pickscore")
    alone = [reward(picture_set(), prompts()).values.tolist() for reward in (first, second)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            calls = [pool.submit(reward, picture_set(), prompts()) for reward in (first, second)]
            assert [call.result().values.tolist() for call in calls] == alone


def test_closing_lets_go_of_the_model(build, clip_folder):
    first, second = build("clipscore"), build("pickscore")
    assert first.clip.model is second.clip.model  # one copy for two rewards
    first.close()
    assert second(picture_set(), prompts()).values.shape == (4,)
    for name, attribute in (("hpsv2", "model"), ("imagereward", "network")):
        reward = build(name)
        reward.close()
        assert not hasattr(reward, attribute)


# ---- what goes wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "missing", "option"),
    [
        (ClipScore, "openai/clip-vit-large-patch14", "clipscore,clip=PATH"),
        (PickScore, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "pickscore,processor=PATH"),
        (ImageReward, "google-bert/bert-base-uncased", "imagereward,tokenizer=PATH"),
        (HpsV2, "xswu/HPSv2", "hpsv2,checkpoint=PATH"),
    ],
)
def test_without_a_network_one_question_and_one_line(no_hub, make, missing, option):
    options = {"architecture": "ViT-B-32"} if make is HpsV2 else {}
    with pytest.raises(
        EnvironmentFault, match=f"the weights {missing} .*the model hub does not answer"
    ) as caught:
        make(**options)
    assert option in caught.value.hint
    assert len(no_hub) == 1


def test_a_file_with_code_in_it_is_not_run(image_reward_options, tmp_path):
    torch.save({"state_dict": subprocess.Popen}, tmp_path / "bad.pt")
    with pytest.raises(EnvironmentFault, match="not a file of tensors and nothing else"):
        ImageReward(**{**image_reward_options, "checkpoint": str(tmp_path / "bad.pt")})


def test_a_folder_that_lacks_weights_is_refused_instead_of_filled_at_random(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = CLIPModel.from_pretrained(clip_folder).state_dict()
    del tensors["text_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(EnvironmentFault, match=r"a CLIPModel without text_projection\.weight"):
        ClipScore(clip=str(tmp_path))


def test_hpsv2_names_architectures_near_an_unknown_one():
    with pytest.raises(UsageError, match="knows no architecture 'ViT-H14'; did you mean ViT-H-14"):
        HpsV2(architecture="ViT-H14")


def test_metadata_imports_neither_torch_nor_transformers():
    code = (
        "import sys, ddpo_reward_preference; print({'torch', 'transformers', 'open_clip'} & {*sys.modules})"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "set()"
