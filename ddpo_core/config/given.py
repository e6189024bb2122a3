"""What a program hands over that no text can say: functions as rewards, lists of prompts, loaded models.

Each becomes a record like those of plugins, in a registry of this run alone, under a name that specs can
say. From there on everything goes the one way: `{"mine": (fn, 0.5)}` is the spec `mine:0.5`.

A reward that was handed over is called and never closed: it is its maker's.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, get_args

from ddpo_core import spec as grammar
from ddpo_core.errors import SpecError, UnknownName, UsageError
from ddpo_core.info import Info, ModelInfo, PromptSetInfo, RewardInfo
from ddpo_core.nearest import did_you_mean
from ddpo_core.types import Prompt, Scores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ddpo_core.discovery import Registry
    from ddpo_core.protocols import Denoiser, PromptSet

PROGRAM = "this-program"  # stands where a part's distribution stands
PROMPTS = "given-prompts"

# (images [B, 3, H, W] in [0, 1], B prompts) → B numbers
Judge: TypeAlias = "Callable[[Tensor, Sequence[Prompt]], Tensor | np.ndarray | Sequence[float] | Scores]"
Options: TypeAlias = Mapping[str, Any]
Weighted: TypeAlias = "str | float | Judge | tuple[str | Judge, float] | tuple[str | Judge, float, Options]"
Rewards: TypeAlias = "str | Judge | Sequence[str | Judge] | Mapping[str, Weighted]"
Scope = Literal["sample", "group", "batch"]


class About(TypedDict, total=False):
    """What a function may say of itself; the words of `RewardInfo`."""

    summary: str
    unit: str
    range: tuple[float, float]
    higher_is: str
    scope: Scope
    group_size: int
    differentiable: bool
    thread_safe: bool
    resolution: float
    fooled_by: str


class OwnReward:
    """A reward of this program, and what it says of itself. Call it like what it was made from."""

    def __init__(self, judge: Judge, info: RewardInfo) -> None:
        functools.update_wrapper(self, judge, updated=())
        self.judge = judge
        self.info = info

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Any:
        return self.judge(images, prompts)

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Any:
        """The same with a gradient to the images, for a reward that is differentiable."""
        return getattr(self.judge, "score", self.judge)(images, prompts)


def reward(**about: Unpack[About]) -> Callable[[Judge], OwnReward]:
    """Say of a function what a reward of groups, or one with a gradient, has to say.

        @ddpo_core.reward(scope="group", group_size=8, higher_is="more different pictures")
        def variety(images, prompts):
            return (images - images.mean(0)).square().mean((1, 2, 3))

    A function that judges each picture by itself needs none of this. Raises `UnknownName` for another word
    than those of `About`, `UsageError` for another scope.
    """
    words = About.__annotations__
    for key in about:
        if key not in words:
            near = did_you_mean(key, words)
            raise UnknownName(f"reward() takes {', '.join(words)}; got '{key}'{near}")
    scope = about.get("scope", "sample")
    if scope not in get_args(Scope):
        raise UsageError(f"reward(): scope must be one of {', '.join(get_args(Scope))}; got {scope!r}")
    return lambda judge: OwnReward(judge, _info(_name_of(judge) or "reward", judge, about))


def _info(name: str, judge: Judge, about: About) -> RewardInfo:
    first_line = (inspect.getdoc(judge) or "").partition("\n")[0]
    told = {"name": name, "summary": first_line, "factory": "", **about}
    return RewardInfo(**told)  # type: ignore[arg-type]  # a TypedDict loses its types in `**`


def _name_of(judge: object) -> str:
    """What a function, or an object's class, is called; nothing for a lambda."""
    declared = getattr(judge, "info", None)
    if isinstance(declared, RewardInfo):
        return declared.name
    name = str(getattr(judge, "__name__", type(judge).__name__))
    return "" if name == "<lambda>" else name


class Handover:
    """Collects what was handed over, and answers the texts that stand for it."""

    def __init__(self, registry: Registry) -> None:
        self.installed = registry
        self.infos: dict[str, list[Info]] = {"reward": [], "model": [], "prompts": []}

    @property
    def registry(self) -> Registry:
        """What is installed, and what was handed over."""
        from ddpo_core.discovery import Plugin, Registry

        infos = {kind: tuple(given) for kind, given in self.infos.items()}
        own = Plugin(distribution=PROGRAM, version="", entry_point="", module="", infos=infos)
        return Registry([*self.installed.plugins, own], self.installed.unmatched)

    def _named(self, kind: str, info: Info) -> str:
        """Keep a record; the name by which a spec finds it."""
        self.infos[kind].append(info)
        return info.name

    # ---- rewards ---------------------------------------------------------------------------------

    def rewards(self, who: str, asked: Rewards, *, weighted: bool = True) -> list[str]:
        """The specs of rewards in whatever form, given as the argument `who`.

        Raises `UsageError` or `SpecError`.
        """
        if isinstance(asked, Mapping):
            return [self._labelled(who, label, value, weighted) for label, value in asked.items()]
        listed = asked if isinstance(asked, list | tuple) else [asked]
        return [self._bare(who, each) for each in listed]

    def _bare(self, who: str, what: object) -> str:
        if isinstance(what, str):
            return what
        if not callable(what):
            raise UsageError(
                f"{who}: expects a spec such as 'jpeg:0.5', a function, or both by label; got {what!r}",
                hint=f"write {who}={{'mine': (function, 0.5), 'jpeg': 0.5}}",
            )
        label = _name_of(what)
        if not label:
            raise UsageError(f"{who}: a lambda has no name", hint=f"give it one: {who}={{'mine': lambda …}}")
        return str(grammar.Spec(self._judge(who, label, what), label=label))

    def _labelled(self, who: str, label: str, value: object, weighted: bool) -> str:
        what, weight, options = _taken_apart(who, label, value)
        if weight is not None and not weighted:
            raise UsageError(f"{who}: {label} is scored and not trained on, so it takes no weight")
        if callable(what):
            spec = grammar.Spec(self._judge(who, label, what), label=label)
        else:
            spec = grammar.parse(label if what is None else what, weighted=True)
            spec = replace(spec, label=label if what is not None else spec.label, text="")
        spec = replace(spec, weight=spec.weight if weight is None else weight)
        return str(replace(spec, options={**spec.options, **options}))

    def _judge(self, who: str, label: str, judge: Any) -> str:
        """The name of a reward of this program, which is its label unless an installed one has that name.

        Raises `UsageError` for what cannot be a reward.
        """
        _check_is_reward(who, label, judge)
        is_taken = any(entry.is_called(label) for entry in self.installed.entries("reward"))
        name = f"{PROGRAM}-{label}" if is_taken else label
        if any(info.name == name for info in self.infos["reward"]):
            raise UsageError(
                f"{who}: two rewards are both called {label!r}",
                hint=f"give each a label of its own: {{'{label}-2': {label}, …}}",
            )
        declared = getattr(judge, "info", None)
        info = declared if isinstance(declared, RewardInfo) else _info(label, judge, {})
        own = judge if isinstance(judge, OwnReward) else OwnReward(judge, info)
        # it is built already: what it needs to be built is no concern of this run
        made = replace(info, name=name, aliases=(), options=(), requires=(), factory=lambda: own)
        return self._named("reward", made)

    # ---- prompts ---------------------------------------------------------------------------------

    def prompts(self, who: str, asked: Any) -> dict[str, object]:
        """The settings `prompts` or `prompt` for a name, a file, texts, `Prompt`s or a prompt set."""
        from ddpo_core.protocols import PromptSet

        if isinstance(asked, str):
            return {"prompts": _one_text(who, asked)}
        if hasattr(asked, "__fspath__"):
            return {"prompts": str(grammar.Spec("file", options={"path": str(asked)}))}
        if not isinstance(asked, PromptSet) or isinstance(asked, Mapping):
            raise UsageError(f"{who}: expects a name, a file or a list of texts; got {type(asked).__name__}")
        if not len(asked):
            raise UsageError(f"{who}: expects at least one prompt, got an empty {type(asked).__name__}")
        if not isinstance(asked, list | tuple):  # maybe a set of millions, read as it is needed
            return {"prompts": self._prompt_set(who, asked)}
        if all(isinstance(each, str) for each in asked):
            return {"prompt": tuple(asked)}
        return {"prompts": self._prompt_set(who, [Prompt(p) if isinstance(p, str) else p for p in asked])}

    def _prompt_set(self, who: str, prompts: PromptSet) -> str:
        for prompt in prompts if isinstance(prompts, list) else [prompts[0]]:
            if not isinstance(prompt, Prompt):
                raise UsageError(
                    f"{who}: expects texts or ddpo_core.Prompt records; got {prompt!r}",
                    hint=f"write {who}=[Prompt('a cat', {{'count': 1}}), …], or {who}=list(…) of texts",
                )
        count = len(self.infos["prompts"])
        name = f"{PROMPTS}-{count + 1}" if count else PROMPTS
        summary = f"{len(prompts)} prompts of this program"
        return self._named("prompts", PromptSetInfo(name=name, summary=summary, factory=lambda: prompts))

    # ---- the model -------------------------------------------------------------------------------

    def model(self, asked: Any) -> str:
        """The spec of a model: a text, a folder, a loaded diffusers pipeline or a `Denoiser`."""
        if isinstance(asked, str):
            return asked
        if hasattr(asked, "__fspath__"):
            return str(asked)
        if callable(getattr(asked, "noise_pred", None)):
            return self._named("model", self._denoiser_info(asked))
        family = self._family(type(asked))
        if family is None or not family.adapter:
            families = sorted({each for info in self._families() if info.adapter for each in info.pipelines})
            raise UsageError(
                f"model: expects a name, a folder, a hub id, a Denoiser or one of {', '.join(families)};"
                f" got a {type(asked).__name__}",
                hint="a package adds an adapter with the hook ddpo_models, see CONTRIBUTING.md",
            )
        made = functools.partial(_adapted, asked, family)
        return self._named("model", _loaded(family, asked, made, _precision_of(asked)))

    def _families(self) -> Iterator[ModelInfo]:
        yield from self.installed.infos("model")

    def _family(self, kind: type) -> ModelInfo | None:
        """The installed family whose pipeline this class is, or is made from."""
        names = [each.__name__ for each in kind.__mro__]
        return next((f for f in self._families() for name in names if name in f.pipelines), None)

    def _denoiser_info(self, denoiser: Denoiser) -> ModelInfo:
        family = self._family(type(getattr(denoiser, "pipeline", None)))
        about = family or ModelInfo(name="", summary="", factory="")
        about = replace(about, path=denoiser.process.path)
        device = {"device": denoiser.device.type}

        def as_it_is(*, device: torch.device, dtype: torch.dtype) -> Denoiser:
            if device.type != denoiser.device.type:
                raise UsageError(f"--device {device.type}: the model is on {denoiser.device.type}")
            return denoiser

        return _loaded(about, denoiser, as_it_is, device)


def _taken_apart(who: str, label: str, value: object) -> tuple[Any, float | None, Options]:
    """A labelled reward's three parts: what it is (None: the label), weight (None: not given), options."""
    what, weight, options = [*value, None, None][:3] if isinstance(value, tuple) else (value, None, None)
    if _is_number(what) and weight is None:
        what, weight = None, what
    good_weight = weight is None or _is_number(weight)
    if (
        not (what is None or isinstance(what, str) or callable(what))
        or not good_weight
        or not isinstance(options or {}, Mapping)
        or (isinstance(value, tuple) and not 1 <= len(value) <= 3)
    ):
        raise UsageError(
            f"{who}: {label} expects a weight, a spec, a function, or (spec or function, weight, options);"
            f" got {value!r}",
            hint=f"write {who}={{{label!r}: (function, 0.5, {{'on_error': 'drop'}})}}",
        )
    if weight == 0:
        raise UsageError(
            f"{who}: {label} has weight 0, which trains on nothing",
            hint=f"leave it out, or score it without training on it: watch={{{label!r}: …}}",
        )
    return what, None if weight is None else float(weight), options or {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_is_reward(who: str, label: str, judge: Any) -> None:
    """A name that metrics can have, and a call with two arguments: known before a model is loaded."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", label):
        raise UsageError(f"{who}: a label holds letters, digits, '-', '.' and '_'; got {label!r}")
    if isinstance(judge, type):
        raise UsageError(
            f"{who}: {label} is the class {judge.__name__}; expected an instance",
            hint=f"write {who}={{{label!r}: {judge.__name__}()}}",
        )
    try:
        signature = inspect.signature(judge)
    except (TypeError, ValueError):  # some that are written in C do not tell
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise UsageError(
            f"{who}: {label} is called with (images, prompts); it takes {signature}",
            hint=f"write def {label}(images, prompts): … and return one number for each image",
        ) from error


def _one_text(who: str, text: str) -> str:
    """A spec or a file's name; a prompt in its place is told from it by its spaces."""
    try:
        if not text.endswith((".txt", ".csv", ".jsonl", ".parquet")) and "/" not in text:
            grammar.parse(text)
    except SpecError as error:
        error.hint = error.hint or f"prompts themselves come in a list: {who}=[{text!r}]"
        raise
    return text


def _loaded(
    family: ModelInfo, model: object, made: Callable[..., Denoiser], defaults: Mapping[str, object]
) -> ModelInfo:
    """The record of a loaded model: what suits its family, and nothing left to choose in loading it."""
    name = type(model).__name__
    return ModelInfo(
        name=name,
        summary=f"a {name} of this program",
        factory=made,
        path=family.path,
        prompts=family.prompts,
        defaults={**family.defaults, **defaults},
        estimators=family.estimators,
        judges=family.judges,
    )


def _precision_of(pipeline: Any) -> dict[str, object]:
    """Half precision is trained in the precision that the pipeline was loaded in."""
    name = str(getattr(pipeline, "dtype", "")).removeprefix("torch.")
    short = {"float16": "fp16", "bfloat16": "bf16"}.get(name)
    return {"mixed_precision": short} if short else {}


def _adapted(pipeline: Any, family: ModelInfo, *, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """A loaded pipeline as its family's `Denoiser`, moved as a whole to where it is trained."""
    from ddpo_core.denoisers.pipeline import Loading
    from ddpo_core.discovery import imported

    make: Callable[[Any], Any] = imported(family.adapter)
    loading = Loading(pretrained="", offload_text_encoders=False, device=device, dtype=dtype)
    denoiser: Denoiser = loading.adopt(make(pipeline))
    return denoiser
