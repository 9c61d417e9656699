"""Configs are nested frozen dataclasses: read from JSON, overridden by name, and hashed. A run is a function.

Allowed field types: bool, int, float, str, Path, Literal, Optional, tuple, dict with str keys, and other dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from drive_wm.types import InputError

C = TypeVar("C")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean x?' for the nearest known name, else '; expected one of ...'."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(known) or '(there are none)'}"


def to_json(config: Any) -> Any:
    """Plain JSON values: dataclasses and mappings become dicts, tuples lists, paths strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_json(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_json(value) for value in config]
    if isinstance(config, Path):
        return config.as_posix()
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise TypeError(f"a config cannot hold a {type(config).__name__}; give it plain values or a frozen dataclass")


def from_json(cls: type[C], data: Mapping[str, Any]) -> C:
    """The inverse of to_json. An unknown key, a missing one without default, or a wrong type raises InputError."""
    return typing.cast(C, _build(data, cls, cls.__name__))


def config_hash(config: Any) -> str:
    """12 hexadecimal digits that change whenever a value or a field's name does."""
    text = json.dumps(to_json(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def override(config: C, values: Mapping[str, str]) -> C:
    """A copy with ``{"model.depth": "4"}`` applied; text is converted to the field's type, wrong names raise."""
    for path, text in values.items():
        config = _set(config, path.split("."), text, path)
    return config


def parse_overrides(pairs: Iterable[str]) -> dict[str, str]:
    """['a.b=3'] -> {'a.b': '3'}."""
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(f"override {pair!r}: expected KEY=VALUE, for example optimizer.lr=0.001")
        values[key.strip()] = text.strip()
    return values


def load_object(path: str) -> Any:
    """What ``package.module:Name`` names; the one way by which third parties plug in."""
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise InputError(f"{path!r}: expected package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{path!r}: {error}; install it or mend the name") from error
    if not hasattr(module, name):
        raise InputError(f"{module_name} has no {name!r}{did_you_mean(name, [n for n in vars(module) if n[0] != '_'])}")
    return getattr(module, name)


def find_run(name: str) -> Callable[[], Any]:
    """The function behind a run of ``configs/runs.py``, or behind ``package.module:function``."""
    from drive_wm.configs.runs import RUNS

    entry: Any = RUNS.get(name, name if ":" in name else None)
    if entry is None:
        raise InputError(f"no run {name!r}{did_you_mean(name, RUNS)}")
    return typing.cast(Callable[[], Any], load_object(entry) if isinstance(entry, str) else entry)


def _set(config: Any, parts: list[str], text: str, path: str) -> Any:
    """``config`` with the field that ``parts`` lead to replaced; rebuilt from the leaf up, as all of it is frozen."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise InputError(f"override {path}: {parts[0]!r} lies inside a plain value; set the value as a whole")
    names = [field.name for field in dataclasses.fields(config) if field.init]
    if parts[0] not in names:
        raise InputError(f"override {path}: {type(config).__name__} has no field {parts[0]!r}"
                         f"{did_you_mean(parts[0], names)}")
    if len(parts) > 1:
        value = _set(getattr(config, parts[0]), parts[1:], text, path)
    else:
        hint = typing.get_type_hints(type(config))[parts[0]]
        value = _build(_read(text, hint), hint, path)
    return dataclasses.replace(config, **{parts[0]: value})


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _read(text: str, hint: Any) -> Any:
    """The JSON value that a user's ``text`` stands for, given the field's type; unreadable text stays as it is."""
    if _is_union(hint):
        if text.lower() in ("none", "null") and type(None) in typing.get_args(hint):
            return None
        values = [_read(text, option) for option in typing.get_args(hint) if option is not type(None)]
        return next((value for value in values if not isinstance(value, str)), text)
    if hint is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
    if hint is str or hint is Path:
        return text
    if typing.get_origin(hint) is tuple:
        item = (typing.get_args(hint) or (str,))[0]
        return [_read(part.strip(), item) for part in text.strip("()[] ").split(",") if part.strip()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _build(value: Any, hint: Any, where: str) -> Any:
    """``value`` (plain JSON) as an instance of ``hint``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build_dataclass(value, hint, where)
    if _is_union(hint):
        return _build_union(value, args, where)
    if origin is typing.Literal:
        if value in args:
            return value
        raise InputError(f"{where}: got {value!r}{did_you_mean(str(value), map(str, args))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        return _build_tuple(value, args, where)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {str(key): _build(item, args[1], f"{where}.{key}") for key, item in value.items()}
    return _build_scalar(value, hint, where)


def _build_dataclass(value: Any, cls: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected the fields of {cls.__name__}, got {value!r}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in value:
        if key not in fields:
            raise InputError(f"{where}: {cls.__name__} has no field {key!r}{did_you_mean(str(key), fields)}")
    absent = [name for name, field in fields.items() if name not in value
              and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING]
    if absent:
        raise InputError(f"{where}: {cls.__name__} needs {', '.join(absent)}")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _build(item, hints[key], f"{where}.{key}") for key, item in value.items()})


def _build_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors: list[InputError] = []
    for option in options:
        try:
            return _build(value, option, where)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _build_tuple(value: Any, args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_build(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    if not args:
        return tuple(value)
    if len(value) != len(args):
        raise InputError(f"{where}: expected {len(args)} values, got {len(value)}: {value!r}")
    return tuple(_build(item, arg, f"{where}[{i}]") for i, (item, arg) in enumerate(zip(value, args)))


def _build_scalar(value: Any, hint: Any, where: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and number and math.isfinite(value):
        return float(value)
    if hint is int and number and float(value).is_integer():  # 1e4 is how people write a count of steps
        return int(value)
    if (hint is bool and isinstance(value, bool)) or (hint is str and isinstance(value, str)):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    raise InputError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
