"""What was measured at one start, as a file: arrays and JSON, nothing that has to be unpickled."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.eval.run_folder import plain, replacing
from drive_wm.eval.world.measure import Measured
from drive_wm.eval.world.protocol import Start
from drive_wm.types import InputError


def write_part(path: Path, measured: Measured) -> None:
    words = json.dumps(plain({"log": measured.log_id, "rows": measured.rows, "left_out": measured.left_out}))
    arrays: dict[str, Any] = {"words": np.array(words)}
    for kind in ("counts", "pooled"):
        arrays |= {f"{kind}/{mode}/{step}": value for (mode, step), value in getattr(measured, kind).items()}
    if measured.sheet is not None:
        arrays["sheet"] = measured.sheet
    held = io.BytesIO()
    np.savez_compressed(held, **arrays)
    with replacing(path) as temporary:
        temporary.write_bytes(held.getvalue())


def read_part(path: Path, start: Start) -> Measured:
    """Raises InputError where the file cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as held:
            words = json.loads(str(held["words"]))
            kept: dict[str, Any] = {"counts": {}, "pooled": {}}
            for name in held.files:
                kind, _, rest = name.partition("/")
                if kind in kept:
                    mode, _, step = rest.rpartition("/")
                    kept[kind][mode, int(step)] = held[name]
            sheet = held["sheet"] if "sheet" in held.files else None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it and say --resume to measure it again") from error
    return Measured(start, words["log"], words["rows"], kept["counts"], kept["pooled"], sheet, words["left_out"])
