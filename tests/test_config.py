"""Configs: overrides by name, strict JSON, hashes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from drive_wm.config import config_hash, from_json, load_object, override, parse_overrides, to_json
from drive_wm.types import InputError


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["adamw", "muon"] = "adamw"


@dataclass(frozen=True)
class Run:
    name: str
    depth: int = 4
    bf16: bool = True
    sizes: tuple[int, ...] = (1, 2)
    parent: Path | None = None
    limit: float | None = None
    optimizer: Optimizer = Optimizer()
    weights: dict[str, float] = field(default_factory=dict)


RUN = Run("a")


@pytest.mark.parametrize("key, text, expected", [
    ("depth", "8", 8), ("depth", "1e4", 10_000), ("bf16", "false", False), ("sizes", "3,4,5", (3, 4, 5)),
    ("parent", "x/y", Path("x/y")), ("parent", "none", None), ("limit", "2", 2.0), ("name", "7", "7"),
    ("weights", '{"town": 2}', {"town": 2.0}),
])
def test_text_becomes_the_type_of_the_field(key: str, text: str, expected: object) -> None:
    value = getattr(override(RUN, {key: text}), key)
    assert value == expected and type(value) is type(expected)


def test_a_nested_field_changes_alone() -> None:
    changed = override(RUN, {"optimizer.lr": "0.1", "optimizer.betas": "0.8,0.9"})
    assert changed.optimizer == Optimizer(0.1, (0.8, 0.9)) and RUN.optimizer.lr == 1e-3
    assert dataclasses.replace(changed, optimizer=RUN.optimizer) == RUN


@pytest.mark.parametrize("key, text, words", [
    ("dept", "8", "did you mean 'depth'"), ("optimizer.rl", "1", "Optimizer has no field"), ("depth", "2.5", "expect"),
    ("depth", "many", "expected int, got 'many'"), ("bf16", "2", "expected bool"), ("depth.x", "1", "plain value"),
    ("optimizer.kind", "adam", "mean 'adamw'"), ("optimizer.betas", "1", "expected 2"), ("limit", "nan", "float"),
])
def test_a_wrong_override_says_what_to_mend(key: str, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        override(RUN, {key: text})


def test_json_round_trip_is_exact_and_strict() -> None:
    run = Run("b", 2, False, (5,), Path("p"), 0.5, Optimizer(kind="muon"), {"town": 1.0})
    assert from_json(Run, to_json(run)) == run
    with pytest.raises(InputError, match="no field 'dept'; did you mean 'depth'"):
        from_json(Run, {"name": "b", "dept": 2})
    with pytest.raises(InputError, match="Run needs name"):
        from_json(Run, {})
    with pytest.raises(InputError, match="Run.optimizer.lr: expected float"):
        from_json(Run, {"name": "b", "optimizer": {"lr": "fast"}})


def test_the_hash_follows_the_values() -> None:
    assert config_hash(RUN) == config_hash(Run("a")) and len(config_hash(RUN)) == 12
    assert config_hash(RUN) != config_hash(override(RUN, {"optimizer.lr": "0.002"}))


def test_pairs_and_objects_by_name() -> None:
    assert parse_overrides(["a.b=1", "c = x=y"]) == {"a.b": "1", "c": "x=y"}
    with pytest.raises(InputError, match="KEY=VALUE"):
        parse_overrides(["a"])
    assert load_object("drive_wm.types:InputError") is InputError
    for path, words in (("drive_wm.types", "package.module:Name"), ("drive_wm.nope:x", "No module"),
                        ("drive_wm.types:InputEror", "did you mean 'InputError'")):
        with pytest.raises(InputError, match=words):
            load_object(path)
