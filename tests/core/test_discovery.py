"""Finding plugins: the good work, the broken are named, and nothing stops what does not need it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddpo_core import Option, RewardInfo, hookimpl
from ddpo_core.discovery import Plugin, Registry
from ddpo_core.errors import BrokenPlugin, EnvironmentFault, SpecError, UnknownName, UsageError
from ddpo_core.spec import parse

Install = Callable[..., Path]
BAD = {
    "broken-import": ("ddpo-reward-broken", "broken", "needs the package 'package_that_nobody_has'"),
    "exits": ("ddpo-reward-exits", "broken", "exits when imported"),
    "misspelt-hook": (
        "ddpo-reward-misspelt",
        "broken",
        "no hook is named 'ddpo_reward'; did you mean 'ddpo_rewards'?",
    ),
    "future-api": (
        "ddpo-reward-future",
        "incompatible",
        "written for plugin contract 2.0; this ddpo has 1.0",
    ),
}


def discover(site: Path) -> Registry:
    return Registry.discover([str(site)])


def plugin_named(known: Registry, distribution: str) -> Plugin:
    return next(plugin for plugin in known.plugins if plugin.distribution == distribution)


def test_an_installed_reward_is_found_by_name_alias_and_distribution(install: Install) -> None:
    known = discover(install("good"))
    for name in (
        "brightness",
        "bright",
        "ddpo-reward-brightness/brightness",
        "DDPO_reward.brightness/bright",
    ):
        assert known.find("reward", name).summary == "Mean brightness of the picture"


@pytest.mark.parametrize("folder", BAD)
def test_a_bad_plugin_is_kept_with_its_reason_and_stops_nothing(folder: str, install: Install) -> None:
    known = discover(install("good", folder))
    distribution, status, reason = BAD[folder]
    plugin = plugin_named(known, distribution)
    assert plugin.status == status
    assert reason in plugin.reason
    assert plugin.hint
    assert known.build("reward", "brightness").gamma == 1.0


@pytest.mark.parametrize("name", ["broken", "ddpo-reward-broken/anything"])
def test_asking_for_a_broken_plugin_by_name_is_an_environment_fault(name: str, install: Install) -> None:
    with pytest.raises(BrokenPlugin, match="package_that_nobody_has") as caught:
        discover(install("good", "broken-import")).find("reward", name)
    assert "DDPO_BLOCK=ddpo-reward-broken" in caught.value.hint


def test_an_unknown_name_answers_with_the_nearest_and_tells_what_was_not_loaded(install: Install) -> None:
    with pytest.raises(UnknownName, match="'brightnes' is installed; did you mean 'brightness'") as caught:
        discover(install("good", "exits")).find("reward", "brightnes")
    assert "`ddpo rewards list`" in caught.value.hint
    assert "ddpo-reward-exits" in caught.value.hint


def test_a_name_of_another_kind_says_which() -> None:
    with pytest.raises(UnknownName, match="'ddim' is a sampler"):
        Registry.of().find("estimator", "ddim")


def test_two_plugins_with_one_entry_point_name_are_both_there(install: Install) -> None:
    known = discover(install("good", "entry-clash"))
    assert [entry.info.name for entry in known.entries("reward")] == ["brightness", "contrast"]


def test_two_rewards_of_one_name_are_listed_and_refused_only_when_that_name_is_used(install: Install) -> None:
    known = discover(install("good", "name-clash"))
    qualified = [entry.qualified for entry in known.entries("reward")]
    assert qualified == ["acme-brightness/brightness", "ddpo-reward-brightness/brightness"]
    assert known.find("reward", "bright").name == "brightness"  # only one of them has this alias
    assert known.find("reward", qualified[0]).summary == "Another brightness"
    with pytest.raises(UsageError, match="2 installed plugins have a reward named 'brightness'") as caught:
        known.find("reward", "brightness")
    assert all(name in caught.value.hint for name in qualified)


def test_a_heavy_import_is_measured_and_named(install: Install) -> None:
    site = install("heavy-import")
    code = "from ddpo_core.discovery import registry; print(registry().entry('reward', 'heavy').plugin.heavy)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == "('PIL',)"


def test_a_missing_package_is_an_environment_fault_with_the_command_that_mends_it(install: Install) -> None:
    with pytest.raises(EnvironmentFault, match="needs package_that_nobody_has") as caught:
        discover(install("heavy-import")).build("reward", "heavy")
    assert caught.value.hint == 'pip install "ddpo-reward-heavy[judge]"'


def test_a_factory_that_is_not_there_names_its_plugin(install: Install) -> None:
    with pytest.raises(
        BrokenPlugin, match="'contrast' of acme-contrast cannot be loaded: ModuleNotFoundError"
    ):
        discover(install("entry-clash")).build("reward", "contrast")


def test_blocked_plugins_are_not_imported(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    site = install("good", "exits")
    monkeypatch.setenv("DDPO_BLOCK", "DDPO_Reward_Exits, ddpo-reward-nosuch")
    known = discover(site)
    assert plugin_named(known, "ddpo-reward-exits").status == "blocked"
    assert "ddpo_reward_exits" not in sys.modules
    assert known.unmatched == ("ddpo-reward-nosuch",)
    with pytest.raises(UsageError, match="blocked by DDPO_BLOCK"):
        known.find("reward", "exits")


def test_only_the_listed_plugins_load_and_an_empty_list_is_none(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install("good", "name-clash")
    monkeypatch.setenv("DDPO_ONLY", "acme-brightness")
    assert [entry.qualified for entry in discover(site).entries("reward")] == ["acme-brightness/brightness"]
    monkeypatch.setenv("DDPO_ONLY", "")
    assert discover(site).entries("reward") == []
    assert discover(site).find("sampler", "ddim")  # ddpo's own parts are no plugin to leave out


def test_strict_mode_raises_what_is_otherwise_kept(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    site = install("exits")
    monkeypatch.setenv("DDPO_STRICT_PLUGINS", "1")
    with pytest.raises(BrokenPlugin, match="ddpo-reward-exits"):
        discover(site)


def test_a_plugin_that_prints_does_not_reach_stdout(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    discover(install("exits"))
    assert capsys.readouterr().out == ""


def test_a_stale_copy_further_down_the_path_is_no_second_plugin(install: Install, tmp_path: Path) -> None:
    site = install("good")
    stale = tmp_path / "checkout" / "ddpo_reward_brightness.egg-info"
    stale.mkdir(parents=True)
    (stale / "PKG-INFO").write_text("Name: ddpo_reward_brightness\nVersion: 0.0.1\n")
    (stale / "entry_points.txt").write_text("[ddpo]\nbrightness = elsewhere\n")
    known = Registry.discover([str(site), str(stale.parent)])
    assert [plugin.version for plugin in known.plugins[1:]] == ["0.3.0"]


def test_the_order_of_plugins_is_by_distribution(install: Install) -> None:
    known = discover(install("good", "name-clash", "entry-clash"))
    assert [p.distribution for p in known.plugins[1:]] == sorted(p.distribution for p in known.plugins[1:])


def reward_plugin(**changes: object) -> SimpleNamespace:
    """A plugin module with one reward, without a file."""
    fields = {"name": "grey", "summary": "Greyness", "factory": "builtins:dict", **changes}

    @hookimpl
    def ddpo_rewards() -> list[RewardInfo]:
        return [RewardInfo(**fields)]  # type: ignore[arg-type]

    return SimpleNamespace(__name__="grey_plugin", DDPO_PLUGIN_API=(1, 0), ddpo_rewards=ddpo_rewards)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "Grey_One"}, "lower-case words joined by '-'; got 'Grey_One'"),
        ({"aliases": ("grey",)}, "two rewards named 'grey'"),
        ({"factory": "builtins.dict"}, "must be 'module:attribute'; got 'builtins.dict'"),
        ({"options": (Option(name="as", type="str"),)}, "is named 'as'"),
        ({"options": (Option(name="a", type="int"),) * 2}, "two options of one name"),
    ],
)
def test_a_record_that_cannot_work_breaks_its_plugin(changes: dict[str, object], reason: str) -> None:
    plugin = Registry.of(reward_plugin(**changes)).plugins[-1]
    assert plugin.status == "broken"
    assert reason in plugin.reason


def test_a_hook_without_its_marker_is_an_error_not_silence() -> None:
    module = SimpleNamespace(DDPO_PLUGIN_API=(1, 0), ddpo_rewards=lambda: [])
    assert "'ddpo_rewards' is not marked @hookimpl" in Registry.of(module).plugins[-1].reason


def test_a_plugin_that_does_not_state_its_contract_is_told_what_to_write() -> None:
    assert "DDPO_PLUGIN_API = (1, 0)" in Registry.of(SimpleNamespace()).plugins[-1].reason


def test_a_loose_file_is_a_plugin_when_the_user_names_it(tmp_path: Path) -> None:
    file = tmp_path / "my_loose_reward.py"
    file.write_text(
        "from ddpo_core import RewardInfo, hookimpl\n"
        "DDPO_PLUGIN_API = (1, 0)\n"
        "@hookimpl\n"
        "def ddpo_rewards():\n"
        "    return [RewardInfo(name='mine', summary='Mine', factory='my_loose_reward:build')]\n"
        "def build():\n"
        "    return 'built'\n"
    )
    known = Registry.of().with_file(file)
    assert known.build("reward", "mine") == "built"
    assert known.entry("reward", "mine").qualified == "my_loose_reward.py/mine"


def test_a_loose_file_that_fails_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with pytest.raises(BrokenPlugin, match="ZeroDivisionError"):
        Registry.of().with_file(tmp_path / "bad.py")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UsageError, match="would hide the module 'json'"):
        Registry.of().with_file(tmp_path / "json.py")
    with pytest.raises(UsageError, match="there is no file"):
        Registry.of().with_file(tmp_path / "nosuch.py")


OPTIONS = (
    Option(name="size", type="int", default=4, minimum=1, maximum=8),
    Option(name="scale", type="float"),
    Option(name="mode", type="str", choices=("fast", "slow")),
    Option(name="exact", type="bool", default=False),
    Option(name="texts", type="json"),
)


def checked(text: str, options: tuple[Option, ...] = OPTIONS) -> dict[str, object]:
    known = Registry.of(reward_plugin(options=options))
    return known.check_options(known.find("reward", "grey"), parse(text, weighted=True))


def test_options_get_their_declared_types_and_defaults_that_are_not_none() -> None:
    assert checked("grey") == {"size": 4, "exact": False}
    assert checked('grey,scale=2,mode=fast,exact=true,size=2.0,texts=["a"]') == {
        "size": 2,
        "scale": 2.0,
        "mode": "fast",
        "exact": True,
        "texts": ["a"],
    }
    assert isinstance(checked("grey,scale=2")["scale"], float)


def test_a_text_option_keeps_what_looks_like_a_number_as_it_was_typed() -> None:
    revision = (Option(name="revision", type="str"),)
    for text in ("12e4567", "0012", "1.10", "7", "true"):
        assert checked(f"grey,revision={text}", revision) == {"revision": text}


@pytest.mark.parametrize(
    ("text", "message", "culprit"),
    [
        ("grey,size=0", "size must be at least 1; got 0", "0"),
        ("grey,size=9", "size must be at most 8; got 9", "9"),
        ("grey,size=1.5", "size must be a whole number; got 1.5", "1.5"),
        ("grey,size=true", "size must be a whole number; got true", "true"),
        ("grey,scale=big", "scale must be a number; got 'big'", "big"),
        ("grey,mode=medium,size=2", "mode must be one of fast, slow; got 'medium'", "medium,size=2"),
        ("grey,exact=1", "exact must be true or false; got 1", "1"),
    ],
)
def test_a_value_that_does_not_fit_is_pointed_at(text: str, message: str, culprit: str) -> None:
    with pytest.raises(SpecError) as caught:
        checked(text)
    assert message in str(caught.value)
    assert text[caught.value.position :] == culprit


def test_an_unknown_option_answers_with_the_nearest_and_a_caret() -> None:
    with pytest.raises(UnknownName) as caught:
        checked("grey:2,sise=3")
    assert str(caught.value).splitlines() == [
        "grey has no option 'sise'; did you mean 'size'?",
        "  grey:2,sise=3",
        "         ^",
    ]


def test_a_required_option_that_is_missing_says_what_to_write() -> None:
    with pytest.raises(UsageError, match="grey needs the option 'path'") as caught:
        checked("grey", (Option(name="path", type="str", required=True),))
    assert caught.value.hint == "write grey,path=…"


def test_build_passes_options_and_context_to_the_factory() -> None:
    known = Registry.of(reward_plugin(options=OPTIONS))
    built = known.build("reward", "grey:0.5,scale=3", device="cpu")
    assert built == {"size": 4, "exact": False, "scale": 3.0, "device": "cpu"}
