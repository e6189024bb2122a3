"""Weights from a path, a package or the hub; whatever goes wrong is one clear line."""

import gc
import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ddpo_core import judges
from ddpo_core.errors import EnvironmentFault, UsageError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package `weights_of_mine` with a file in it."""
    folder = tmp_path / "weights_of_mine"
    (folder / "clip").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (folder / "clip" / "head.pth").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


def test_a_file_of_a_package_is_found_without_importing_it(package):
    assert judges.locate("weights_of_mine:clip/head.pth") == str(package / "clip" / "head.pth")
    assert "weights_of_mine" not in sys.modules


def test_paths_and_hub_ids_stay_what_they_are(tmp_path):
    assert judges.locate(str(tmp_path)) == str(tmp_path)
    assert judges.locate("openai/clip-vit-large-patch14") == "openai/clip-vit-large-patch14"
    assert judges.locate("C:\\models\\clip") == "C:\\models\\clip"


def test_a_missing_package_says_what_to_install():
    with pytest.raises(EnvironmentFault, match="names a file in the package no_such_weights") as caught:
        judges.locate("no_such_weights:model")
    assert caught.value.hint == "pip install no-such-weights"


def test_a_package_without_the_file_says_so(package):
    with pytest.raises(EnvironmentFault, match=r"has no clip/other\.pth"):
        judges.locate("weights_of_mine:clip/other.pth")


@pytest.mark.parametrize(
    ("source", "name", "inside"),
    [
        ("me/head", "me/head", "head.pth"),
        ("me/head/v2/other.pt", "me/head", "v2/other.pt"),
        ("/no/such/folder/head.pth", "/no/such/folder/head.pth", ""),
        ("./head.pth", "./head.pth", ""),
    ],
)
def test_a_file_of_weights_is_on_the_hub_or_a_path(source, name, inside):
    assert judges.weights_file(source, "head.pth") == judges.WeightsFile(name, inside)


def test_a_file_of_weights_that_is_here_needs_no_hub(package):
    file = judges.weights_file("weights_of_mine:clip/head.pth")
    assert file.path() == package / "clip" / "head.pth" and file.name == str(file.path())


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_tensors_are_read_from_either_format(tmp_path, name):
    save = save_file if name.endswith("safetensors") else torch.save
    save({"weight": torch.tensor([1.0, 2.0])}, tmp_path / name)
    assert judges.read_tensors(tmp_path / name)["weight"].tolist() == [1, 2]


@pytest.mark.parametrize("content", [b"junk\n", b"", b"\x80\x04junk"])
def test_what_torch_never_saved_is_no_file_of_tensors(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match="not a file of tensors and nothing else"):
        judges.read_tensors(tmp_path / "a.pth")


def test_a_tensor_alone_is_no_file_of_tensors_by_name(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="not tensors by name but a Tensor"):
        judges.read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, r"weight is \[1, 3\], not \[1, 2\]"),
        ({"weight": torch.zeros(1, 2)}, "bias is missing"),
        ({"weight": torch.zeros(1, 2), "bias": torch.zeros(1), "c": torch.zeros(1)}, "c has no place"),
    ],
)
def test_tensors_that_do_not_fit_are_told_by_name(tensors, reason):
    with pytest.raises(ValueError, match=f"not a line: {reason}"):
        judges.fill(nn.Linear(2, 1), tensors, "a line")


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        (
            "owner/model",
            "are not on this machine and could not be fetched: OSError: no",
            "hf download owner/model",
        ),
        ("./nowhere", "is neither a path that exists nor a hub id", "ddpo rewards show mine"),
    ],
)
def test_weights_that_are_not_there_say_what_to_do(source, message, hint):
    with pytest.raises(EnvironmentFault) as caught, judges.loading("mine", "clip", source):
        raise OSError("no\n  network")
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_wrong_file_is_named(tmp_path):
    file = tmp_path / "head.pth"
    file.write_bytes(b"x")
    expected = "does not hold the weights that head= expects: KeyError"
    with pytest.raises(EnvironmentFault, match=expected), judges.loading("mine", "head", str(file)):
        raise KeyError("layers.0.weight")


def test_errors_of_our_own_pass_through():
    with pytest.raises(UsageError, match="mine"), judges.loading("a", "b", "c/d"):
        raise UsageError("mine")


def test_a_model_is_loaded_once_and_freed_with_its_last_user():
    loads = []

    def load():
        loads.append(1)
        return nn.Linear(1, 1)

    first, second = judges.shared("key", load), judges.shared("key", load)
    assert first is second and loads == [1]
    del first, second
    gc.collect()
    judges.shared("key", load)
    assert loads == [1, 1]


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="device=cuda:99: there is no such device here"):
        judges.pick_device("cuda:99")
    assert judges.pick_device("cpu") == torch.device("cpu")


def test_auto_precision_is_full_on_a_cpu():
    assert judges.pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert judges.pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_pictures_are_rounded_as_a_file_would_round_them():
    images = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.5, -1.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert judges.to_uint8(images)[0, 0, 0].tolist() == [0, 0, 1, 255, 255, 0]
    assert judges.to_pil(images)[0].size == (6, 1)


def test_a_checksum_is_that_of_the_bytes(tmp_path):
    file = Path(tmp_path / "x")
    file.write_bytes(b"abc")
    assert judges.sha256(file).startswith("ba7816bf8f01cfea")  # FIPS 180-2, example B.1
