"""What a Log knows and nuScenes has no place for: one JSON file a scene, ``<version>/drive_wm/<scene>.json``.

nuScenes' own readers ignore the folder. With it a Log that is written and read back keeps its id, signals, reasons,
colours, markings, props, look and licence, and stands at its original coordinates.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from drive_wm.types import (
    BoolArray,
    Explanation,
    FloatArray,
    InputError,
    IntArray,
    Look,
    Rig,
    RoadMap,
    Signal,
    Text,
)

FORMAT = 1
ARRAY_DTYPES = ((FloatArray, np.float64), (IntArray, np.int64), (BoolArray, np.bool_))


@dataclass(frozen=True)
class TrackExtras:
    """One instance. brake, indicator, velocity_mps, siren: one value for each of its annotations, in order of time."""

    id: str
    category: str
    color_rgb: tuple[int, int, int] | None = None
    brake: BoolArray | None = None
    indicator: IntArray | None = None
    velocity_mps: FloatArray | None = None
    siren: BoolArray | None = None


@dataclass(frozen=True)
class SceneExtras:
    """One scene. nuScenes coordinates = the log's + shift_m (2,). ego_us: times of the log's own ego poses.

    missing: (camera, timestamp_us) of frames that were due and could not be read. tracks: by instance token.
    """

    format: int
    log_id: str
    source: str
    rig: Rig
    shift_m: FloatArray
    ego_us: IntArray
    rendered: bool
    tracks: Mapping[str, TrackExtras]
    map: RoadMap | None
    signals: tuple[Signal, ...]
    look: Look
    texts: tuple[Text, ...]
    reasons: tuple[tuple[int, Explanation], ...]
    licence: str
    location: str
    split: str
    metadata: Mapping[str, Any]
    missing: tuple[tuple[str, int], ...] = field(default=())


def to_json(value: Any) -> Any:
    """Dataclasses, arrays, mappings and tuples as plain JSON values; floats keep all their digits."""
    if is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(kind: Any, value: Any) -> Any:
    """The inverse of ``to_json`` for a type made of dataclasses, arrays, tuples and mappings. Raises InputError."""
    if value is None:
        return None
    for array, dtype in ARRAY_DTYPES:
        if kind == array:
            out = np.array(value, dtype=dtype)
            return out.reshape(0, 3) if array is FloatArray and out.size == 0 else out
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return from_json(next(arg for arg in args if arg is not type(None)), value)
    if origin is tuple:
        kinds = [args[0]] * len(value) if args[-1] is ... else args
        return tuple(from_json(k, v) for k, v in zip(kinds, value, strict=True))
    if origin is Mapping:
        return {key: from_json(args[1], item) for key, item in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        if unknown := sorted(set(value) - set(hints)):
            raise InputError(f"{kind.__name__} has no {', '.join(unknown)}; it has {', '.join(hints)}")
        return kind(**{key: from_json(hints[key], item) for key, item in value.items()})
    return value


def extras_path(table_root: Path, scene: str) -> Path:
    return table_root / "drive_wm" / f"{scene}.json"


def read_extras(table_root: Path, scene: str) -> SceneExtras | None:
    """The extras of a scene, None where the data set was not written by us. Raises InputError on a broken file."""
    path = extras_path(table_root, scene)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: format {content.get('format')!r}, this version reads {FORMAT}; write it again")
        extras: SceneExtras = from_json(SceneExtras, content)
        return extras
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a scene file of ours ({error}); write the data set again") from error
