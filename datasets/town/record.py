"""What is written down of a simulation, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_wm.types import BoolArray, FloatArray, IntArray

EGO_VALUES = ("speed_mps", "accel_mps2", "limit_mps", "gap_m", "lead_speed_mps", "line_m", "offset_m", "wish_offset_m")


@dataclass
class Record:
    """(T, N) histories of the vehicles' boxes and (T, P) of the people. why: (T, 3) what bound the ego: kind, box,
    whether a line. plan, plan_of, turn: (T, N). values: (T, len(EGO_VALUES)), turning: (T,) and light: (T, 3) of the
    ego."""

    xy: FloatArray
    yaw: FloatArray
    speed: FloatArray
    accel: FloatArray
    active: BoolArray
    signal: IntArray
    person_xy: FloatArray
    person_yaw: FloatArray
    person_speed: FloatArray
    why: IntArray
    plan: IntArray
    plan_of: IntArray
    values: FloatArray
    s: FloatArray
    turn: IntArray
    turning: IntArray
    light: IntArray

    def copy(self) -> Record:
        return Record(**{k: v.copy() for k, v in vars(self).items()})


def empty_record(t: int, n: int, p: int) -> Record:
    z = np.zeros
    return Record(
        z((t, n, 2)),
        z((t, n)),
        z((t, n)),
        z((t, n)),
        z((t, n), bool),
        z((t, n), np.int8),
        z((t, p, 2)),
        z((t, p)),
        z((t, p)),
        np.full((t, 3), -1),
        z((t, n), np.int8),
        z((t, n), int),
        z((t, len(EGO_VALUES))),
        z((t, n)),
        z((t, n), np.int8),
        z(t, np.int8),
        np.full((t, 3), -1),
    )
