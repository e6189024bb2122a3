"""The grade is w·e + b of CLIP's embedding e of the 8-bit picture, however the pictures are batched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ddpo_reward_aesthetic import HEAD, HEAD_SHA256, ddpo_rewards
from ddpo_reward_aesthetic.head import AestheticHead, head_of, load_head
from ddpo_reward_aesthetic.reward import Aesthetic
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPModel

from ddpo_core import EnvironmentFault, Prompt, UsageError, judges
from ddpo_core.testing import check_reward, example_images, example_prompts

INFO = next(iter(ddpo_rewards()))
LAION = Path(os.environ.get("DDPO_LAION_HEAD", "sac+logos+ava1-l14-linearMSE.pth"))


def grades(reward, images) -> np.ndarray:
    return reward(images, [Prompt("a cat")] * len(images)).numpy()


def as_files(images: torch.Tensor, folder) -> list[Image.Image]:
    """The images as PNG files, opened again."""
    opened = []
    for index, image in enumerate(images):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")
        opened.append(Image.open(folder / f"{index}.png"))
    return opened


@pytest.fixture(scope="module")
def reward(clip_folder, head_file):
    return Aesthetic(clip=str(clip_folder), head=str(head_file), device="cpu")


# ---- the head ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [768, 128])
def test_the_five_layers_are_one_affine_map(width):
    torch.manual_seed(3)
    head = AestheticHead(width).double().eval()
    weight, bias = head.affine()
    embeds = torch.nn.functional.normalize(torch.randn(9, width, dtype=torch.float64), dim=1)
    assert torch.allclose(head(embeds), embeds @ weight + bias, atol=1e-12)


def test_the_state_dict_has_laions_names():
    names = {f"layers.{layer}.{kind}" for layer in (0, 2, 4, 6, 7) for kind in ("weight", "bias")}
    assert set(AestheticHead().state_dict()) == names


@pytest.mark.skipif(not LAION.exists(), reason="LAION's head is not on this machine")
def test_laions_own_weights_are_one_affine_map():
    head = load_head(str(LAION))
    weight, bias = head.affine()
    assert bias.item() == pytest.approx(5.2366, abs=5e-5)
    assert weight.norm().item() == pytest.approx(17.996, abs=5e-4)
    torch.manual_seed(4)
    embeds = torch.nn.functional.normalize(torch.randn(200, 768), dim=1)
    assert torch.allclose(head(embeds), (embeds.double() @ weight + bias).float(), atol=1e-5)
    assert judges.sha256(LAION) == HEAD_SHA256


def test_a_pth_file_and_a_safetensors_file_hold_the_same_head(head, head_file, tmp_path):
    torch.save(head.state_dict(), tmp_path / "head.pth")
    embeds = torch.randn(3, head.width)
    for path in (head_file, tmp_path / "head.pth"):
        assert torch.equal(load_head(str(path))(embeds), head(embeds))


# ---- the grade ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (50, 71), (20, 16)])
def test_the_grade_is_the_affine_map_of_clips_own_embedding(reward, clip_folder, head, tmp_path, shape):
    images = torch.rand(3, 3, *shape, generator=torch.Generator().manual_seed(5))
    model = CLIPModel.from_pretrained(clip_folder)
    pixels = reward.tower.processor(as_files(images, tmp_path), return_tensors="pt").pixel_values
    with torch.no_grad():
        embeds = model(pixel_values=pixels, input_ids=torch.tensor([[1, 49]])).image_embeds
    weight, bias = head.affine()
    assert grades(reward, images) == pytest.approx((embeds.double() @ weight + bias).numpy(), abs=1e-4)


def test_grades_differ_between_pictures(reward):
    assert np.ptp(grades(reward, example_images(5))) > 0.1


def test_a_picture_and_its_png_file_have_the_same_grade(reward, tmp_path):
    images = example_images(4)
    files = as_files(images, tmp_path)
    again = torch.stack([torch.from_numpy(np.array(file)).permute(2, 0, 1) / 255 for file in files])
    assert grades(reward, images).tolist() == grades(reward, again).tolist()


def test_the_preprocessor_is_never_given_floats(reward, monkeypatch):
    """The early aesthetic runs gave it floats in [0, 1]: black pictures, and grades of nothing."""
    seen = []
    processor = reward.tower.processor

    def spy(images, **options):
        seen.extend(images)
        return processor(images=images, **options)

    monkeypatch.setattr(reward.tower, "processor", spy)
    images = example_images(3)
    published = grades(reward, images)
    assert [(type(picture), picture.mode) for picture in seen] == [(Image.Image, "RGB")] * 3
    black = processor(images=list(images.numpy()), return_tensors="pt").pixel_values
    assert np.ptp(published) > 50 * np.ptp(reward.head(reward.tower.embed(black)).numpy())


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_the_batch_size_changes_no_grade(clip_folder, head_file, reward, batch_size):
    other = Aesthetic(clip=str(clip_folder), head=str(head_file), device="cpu", batch_size=batch_size)
    images = example_images(5)
    assert grades(other, images) == pytest.approx(grades(reward, images), abs=1e-5)


def test_an_image_that_is_not_all_numbers_has_no_grade_and_the_others_keep_theirs(reward):
    images = example_images(3)
    whole = grades(reward, images)
    images[1, 0, 0, 0] = torch.inf
    assert np.isnan(grades(reward, images)).tolist() == [False, True, False]
    assert grades(reward, images)[[0, 2]] == pytest.approx(whole[[0, 2]], abs=1e-6)
    assert len(reward(images[:0], [])) == 0


def test_the_reward_keeps_the_contract(reward):
    check_reward(reward, INFO)
    assert INFO.factory == f"{Aesthetic.__module__}:{Aesthetic.__name__}"
    assert INFO.aliases == ("laion-aesthetic",)


def test_half_precision_moves_a_grade_by_less_than_its_spread(clip_folder, head_file, reward):
    half = Aesthetic(clip=str(clip_folder), head=str(head_file), device="cpu", dtype="bfloat16")
    images = example_images(5)
    assert grades(half, images) == pytest.approx(grades(reward, images), abs=0.1)


# ---- the gradient ------------------------------------------------------------------------------------


def test_tensor_preprocessing_is_clips_where_nothing_is_resized(reward, tmp_path):
    levels = torch.randint(0, 256, (2, 3, 32, 40), generator=torch.Generator().manual_seed(6)) / 255
    for processor in (reward.tower.processor, CLIPImageProcessor(**vars(reward.tower.processor))):
        expected = processor(as_files(levels, tmp_path), return_tensors="pt").pixel_values
        assert torch.allclose(reward.tower.read_tensor(levels), expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(64, 64), (50, 71), (20, 16)])
def test_tensor_preprocessing_is_clips_but_for_rounding_where_pictures_are_resized(reward, tmp_path, shape):
    smooth = torch.nn.functional.interpolate(example_images(3, 8), shape, mode="bicubic").clamp(0, 1)
    expected = reward.tower.processor(as_files(smooth, tmp_path), return_tensors="pt").pixel_values
    difference = (reward.tower.read_tensor(smooth) - expected).abs()
    level = 1 / 255 / min(reward.tower.processor.image_std)
    assert difference.mean() < 0.5 * level  # Pillow rounds, and clamps, after each of its two passes
    assert difference.max() < 6 * level


def test_the_differentiable_score_is_the_grade_but_for_rounding(reward):
    images = example_images(4)
    assert reward.score(images, example_prompts()[: len(images)]).detach().numpy() == pytest.approx(
        grades(reward, images), abs=0.05
    )


def test_the_gradient_is_the_slope_of_the_score(reward):
    images, prompts = example_images(2, 48).requires_grad_(), example_prompts()[:2]
    (gradient,) = torch.autograd.grad(reward.score(images, prompts).sum(), images)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        rise = reward.score(images + step, prompts).sum() - reward.score(images - step, prompts).sum()
    assert rise.item() == pytest.approx(2e-3 * gradient.norm().item(), rel=0.05)
    assert all(parameter.grad is None for parameter in reward.tower.model.parameters())


# ---- open_clip ---------------------------------------------------------------------------------------


def test_open_clips_grade_is_the_affine_map_of_its_own_embedding(open_clip_folder, head, head_file, tmp_path):
    import open_clip

    name = f"local-dir:{open_clip_folder}"
    reward = Aesthetic(backend="open-clip", clip=name, head=str(head_file), device="cpu", batch_size=2)
    images = example_images(3, 50)
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    pixels = torch.stack([preprocess(picture) for picture in as_files(images, tmp_path)])
    with torch.no_grad():
        embeds = model.eval().encode_image(pixels, normalize=True).double()
    weight, bias = head.affine()
    expected = (embeds @ weight + bias).numpy()
    assert grades(reward, images) == pytest.approx(expected, abs=1e-4)
    assert reward.score(images, example_prompts()[: len(images)]).numpy() == pytest.approx(expected, abs=0.05)


def test_an_unknown_architecture_of_open_clip_is_answered_with_near_ones(head_file):
    pytest.importorskip("open_clip")
    with pytest.raises(UsageError, match="knows no architecture 'ViT-L14'; did you mean ViT-L-14"):
        Aesthetic(backend="open-clip", clip="ViT-L14", head=str(head_file))
    with pytest.raises(UsageError, match="clip_pretrained=opnai is neither a file nor a tag of ViT-L-14"):
        Aesthetic(backend="open-clip", clip_pretrained="opnai", head=str(head_file))


# ---- one copy ----------------------------------------------------------------------------------------


def test_two_rewards_on_one_clip_hold_one_copy(clip_folder, head_file, reward):
    other = Aesthetic(clip=str(clip_folder), head=str(head_file), device="cpu")
    assert other.tower.model is reward.tower.model
    other.close()
    assert not hasattr(other, "tower")


# ---- what goes wrong ---------------------------------------------------------------------------------


def test_a_head_for_another_clip_is_refused_in_one_line(clip_folder, tmp_path):
    save_file(AestheticHead(768).state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(UsageError, match=r"reads embeddings of 768 numbers, clip=.* makes 24$"):
        Aesthetic(clip=str(clip_folder), head=str(tmp_path / "wide.safetensors"))


def test_a_file_with_other_layers_is_refused():
    tensors = {**AestheticHead(24).state_dict(), "layers.8.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"not LAION's five layers .*layers\.8\.weight"):
        head_of(tensors)


def test_a_head_that_is_not_the_file_it_should_be_is_refused(monkeypatch, head_file):
    monkeypatch.setattr(judges, "fetch", lambda repo_id, filename: head_file)
    with pytest.raises(EnvironmentFault, match=r"should be LAION's head, sha256 21dd590f3ccd…, got"):
        load_head(HEAD)


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    torch.save({"layers.0.weight": Path}, tmp_path / "head.pth")
    with pytest.raises(EnvironmentFault, match="not a file of tensors and nothing else"):
        load_head(str(tmp_path / "head.pth"))


def test_a_folder_that_lacks_weights_is_refused_instead_of_filled_at_random(clip_folder, tmp_path, head_file):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = CLIPModel.from_pretrained(clip_folder).state_dict()
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(EnvironmentFault, match=r"a CLIPModel without visual_projection\.weight"):
        Aesthetic(clip=str(tmp_path), head=str(head_file))


def test_without_a_network_one_question_and_one_line(no_hub, head_file):
    with pytest.raises(EnvironmentFault, match="the model hub does not answer") as caught:
        Aesthetic()
    assert HEAD in str(caught.value) and "aesthetic,head=PATH" in caught.value.hint
    with pytest.raises(EnvironmentFault, match="openai/clip-vit-large-patch14 are not on this machine"):
        Aesthetic(head=str(head_file))
    assert len(no_hub) == 2


def test_clip_pretrained_is_refused_where_it_would_be_ignored(clip_folder, head_file):
    with pytest.raises(UsageError, match="is for backend=open-clip"):
        Aesthetic(clip=str(clip_folder), head=str(head_file), clip_pretrained="openai")


def test_metadata_imports_neither_torch_nor_transformers():
    code = "import sys, ddpo_reward_aesthetic; print({'torch', 'transformers'} & {*sys.modules})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "set()"
