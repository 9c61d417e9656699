"""Observations and plans as bytes, for a planner in another process: JSON for structure, safetensors for arrays.

Only plain values, arrays and the dataclasses of ``drive_wm.types`` can be said; nothing is unpickled or evaluated.
A message is 8 bytes of length, 4 bytes of the JSON's length, the JSON, the arrays.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from drive_wm import types
from drive_wm.types import InputError

WORDS: dict[str, Any] = {name: word for name, word in vars(types).items() if dataclasses.is_dataclass(word)}
LENGTH, JSON_LENGTH = struct.Struct("<Q"), struct.Struct("<I")
MOST_BYTES = 1 << 31


def pack(value: Any) -> bytes:
    """Raises InputError for what has no form here, such as an object of another class."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_lower(value, arrays)).encode()
    body = save(arrays) if arrays else b""
    return LENGTH.pack(JSON_LENGTH.size + len(text) + len(body)) + JSON_LENGTH.pack(len(text)) + text + body


def unpack(body: bytes) -> Any:
    """The inverse of ``pack``, of a message without its first 8 bytes."""
    end = JSON_LENGTH.size + JSON_LENGTH.unpack_from(body)[0]
    arrays = load(body[end:]) if len(body) > end else {}
    return _raise(json.loads(body[JSON_LENGTH.size:end]), arrays)


def _lower(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise InputError(f"an array of {value.dtype} cannot be sent between processes")
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(value).reshape(value.shape)
        return {"array": name}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [_lower(item, arrays) for item in value]}
    if isinstance(value, Mapping):
        return {"map": [[_lower(k, arrays), _lower(v, arrays)] for k, v in value.items()]}
    if WORDS.get(type(value).__name__) is type(value):
        return {type(value).__name__: {field.name: _lower(getattr(value, field.name), arrays)
                                       for field in dataclasses.fields(value)}}
    raise InputError(f"a {type(value).__name__} cannot be sent between processes")


def _raise(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    (word, inner), = value.items()
    if word == "array":
        return arrays[inner]
    if word in ("tuple", "list"):
        items = [_raise(item, arrays) for item in inner]
        return tuple(items) if word == "tuple" else items
    if word == "map":
        return {_raise(k, arrays): _raise(v, arrays) for k, v in inner}
    if word not in WORDS:
        raise InputError(f"a message holds an unknown word {word!r}")
    return WORDS[word](**{name: _raise(item, arrays) for name, item in inner.items()})
