"""The grammar NAME[:WEIGHT][,KEY=VALUE]…"""

from __future__ import annotations

import pytest

from ddpo_core.errors import SpecError, UsageError
from ddpo_core.spec import Spec, parse, parse_all


def error_of(text: str, *, weighted: bool = True) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(text, weighted=weighted)
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jpeg", Spec("jpeg")),
        ("aesthetic:0.5", Spec("aesthetic", 0.5)),
        ("jpeg:-1,quality=80", Spec("jpeg", -1.0, {"quality": 80})),
        ("ddpo-reward-jpeg/jpeg", Spec("ddpo-reward-jpeg/jpeg", label="jpeg")),
        ("jpeg,as=small", Spec("jpeg", label="small")),
        ("jpeg,on_error=drop", Spec("jpeg", on_error="drop")),
        ("jpeg,on-error=drop", Spec("jpeg", on_error="drop")),
        ("jpeg,tries=3,time_limit=0.5", Spec("jpeg", tries=3, time_limit=0.5)),
        ("jpeg,time-limit=60", Spec("jpeg", time_limit=60.0)),
        ("ddim, eta = 0.5", Spec("ddim", options={"eta": 0.5})),
        ("is,clip-range=1e-4", Spec("is", options={"clip_range": 1e-4})),
        ("x,a=true,b=false", Spec("x", options={"a": True, "b": False})),
        ('x,a="1,2",b=""', Spec("x", options={"a": "1,2", "b": ""})),
        (
            'x,a=["a cat","b, c"],b={"k":[1,2]}',
            Spec("x", options={"a": ["a cat", "b, c"], "b": {"k": [1, 2]}}),
        ),
    ],
)
def test_a_spec_reads_as_it_looks(text: str, expected: Spec) -> None:
    assert parse(text, weighted=True) == expected


@pytest.mark.parametrize("value", ["what's that", "http://h:1/v1", "/w/x=1:2.pt", "a b", "é", "C:\\x"])
def test_values_that_broke_other_parsers_need_no_quotes(value: str) -> None:
    assert parse(f"x,u={value},v=1").options == {"u": value, "v": 1}


@pytest.mark.parametrize("value", ["0012", "12e4567", "1234e567", "1.10", "1_000", "nan", "inf", "-0", "007"])
def test_what_would_lose_its_spelling_as_a_number_stays_a_text(value: str) -> None:
    assert parse(f"sd,revision={value}").options == {"revision": value}


@pytest.mark.parametrize(
    "spec",
    [
        Spec("x", 0.1, {"a": 1, "b": 1.0, "c": "1", "d": "true", "e": True, "f": "", "g": " padded "}),
        Spec("x", -2.5, {"a": 'comma, and "quote"', "b": [1, "two", None], "c": {"d": ["e,f"]}}),
        Spec("d/x", 1.0, {"a": 1e-7, "b": 1e300, "c": "[not a list", "d": "1e-4"}, "y", "impute"),
        Spec("x", 1.0, {}, "y", "drop", 3, 0.25),
        Spec("x", -1.0, {"a": 1}, tries=2, time_limit=60.0),
        Spec("x", 1e-9, {"a": "line\nbreak", "b": "x=y:z", "c": "007", "d": -3}),
    ],
)
def test_the_canonical_text_of_a_spec_reads_back_as_the_same_spec(spec: Spec) -> None:
    assert parse(str(spec), weighted=True) == spec


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("", ""),
        ("jpeg[quality=80]", "[quality=80]"),
        ("jpeg:heavy,a=1", "heavy,a=1"),
        ("jpeg:0", "0"),
        ("jpeg:nan", "nan"),
        ("jpeg:inf", "inf"),
        ("jpeg:", ""),
        ("jpeg,", ""),
        ("jpeg,quality", ""),
        ("jpeg,a=1,=3", "=3"),
        ("jpeg,a=,b=2", ",b=2"),
        ('jpeg,a="open', '"open'),
        ("jpeg,a=[1]2", "2"),
        ("jpeg,a=1,a=2", "a=2"),
        ("jpeg,as=a/b", "a/b"),
        ("jpeg,on_error=ignore", "ignore"),
        ("jpeg,tries=0", "0"),
        ("jpeg,tries=1.5", "1.5"),
        ("jpeg,tries=true", "true"),
        ("jpeg,time_limit=0,tries=2", "0,tries=2"),
        ("jpeg,time_limit=30s", "30s"),
        ("jpeg,time_limit=-1", "-1"),
        ("jpeg,via=python", "via=python"),
    ],
)
def test_the_caret_stands_under_the_first_wrong_character(text: str, culprit: str) -> None:
    error = error_of(text)
    assert text[error.position :] == culprit
    assert str(error).splitlines()[-2:] == [f"  {text}", "  " + " " * error.position + "^"]


def test_only_a_reward_has_a_weight_and_on_error() -> None:
    assert "only a reward has a weight" in str(error_of("ddim:2", weighted=False))
    assert "only a reward has on_error" in str(error_of("ddim,on_error=drop", weighted=False))


@pytest.mark.parametrize("pair", ["tries=2", "time_limit=5"])
def test_only_a_reward_has_tries_and_a_limit_of_time(pair: str) -> None:
    assert f"only a reward has {pair.partition('=')[0]}" in str(error_of(f"ddim,{pair}", weighted=False))


def test_the_errors_of_tries_and_time_limit_say_what_they_may_be() -> None:
    assert "tries must be a whole number of calls, at least 1; got 0" in str(error_of("jpeg,tries=0"))
    assert "time_limit must be a number of seconds above 0; got 30s" in str(error_of("jpeg,time_limit=30s"))


def test_weight_zero_points_to_watch() -> None:
    assert "--watch jpeg" in error_of("jpeg:0,quality=80").hint


def test_via_says_that_it_comes_later() -> None:
    assert "later version" in str(error_of("jpeg,via=http://localhost:1"))


def test_two_specs_of_one_label_are_refused_and_as_is_suggested() -> None:
    with pytest.raises(UsageError, match="both labelled 'jpeg'") as caught:
        parse_all(["jpeg,quality=10", "ddpo-reward-jpeg/jpeg"], weighted=True)
    assert "as=jpeg-2" in caught.value.hint


def test_one_reward_can_be_used_twice_under_two_labels() -> None:
    specs = parse_all(["jpeg:0.5", "jpeg:-0.5,quality=10,as=rough"], weighted=True)
    assert [spec.label for spec in specs] == ["jpeg", "rough"]
