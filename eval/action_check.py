"""Did a generated frame obey the action? Then it is nearer to the truth of its own pose than to that of other actions.

Top-1 action identification, as for world models in ACT-Bench (Arai et al., 2024) and the project's benchmark, step by
step: from the pose of the last frame the ego could have gone elsewhere; each place is drawn, and compared with what was
generated. It asks what a planner needs of the images, where it is and how it moves, and not how sharp they are.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from drive_wm.geometry import integrate_actions
from drive_wm.types import ByteArray, FloatArray

FASTER_MPS, TURN_INV_M, LEAST_TURNING_MPS = 4.0, 0.06, 3.0
TELLING_DB = 30.0  # truths nearer to one another than this cannot be told apart in generated frames
WINDOW, MAJORITY = 4, 0.5


def alternatives(action: FloatArray) -> FloatArray:
    """Actions (5, 2) speed_mps, curvature_inv_m: the one taken, then stay, go faster, turn left, turn right."""
    speed, bend = float(action[0]), float(action[1])
    turning = max(speed, LEAST_TURNING_MPS)
    return np.array([[speed, bend], [0.0, 0.0], [speed + FASTER_MPS, bend], [turning, bend + TURN_INV_M],
                     [turning, bend - TURN_INV_M]])


def alternative_poses(before_xyyaw: FloatArray, actions: FloatArray, step_s: float) -> FloatArray:
    """(K, 3): where each action (K, 2) leads from a pose (3,)."""
    ends: FloatArray = np.stack([integrate_actions(before_xyyaw, action[None], step_s)[-1] for action in actions])
    return ends


def psnr_db(a: ByteArray, b: ByteArray) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return float(10 * np.log10(255.0**2 / max(error, 1e-9)))


def identified(generated: ByteArray, truths: list[ByteArray]) -> bool | None:
    """Whether a frame is nearest to truths[0], its own; None where no other truth could be told from it."""
    others = [truth for truth in truths[1:] if psnr_db(truths[0], truth) < TELLING_DB]
    if not others:
        return None
    own = psnr_db(generated, truths[0])
    return all(own > psnr_db(generated, other) for other in others)


class ActionCheck:
    """Trust over a drive: the majority of the last WINDOW frames that could be judged obeyed their action.

    The past, which was not generated, counts as obedient. A frame that cannot be judged, as all truths look the same,
    changes nothing.
    """

    def __init__(self) -> None:
        self.recent = deque([True] * WINDOW, maxlen=WINDOW)

    def trusted(self, told: bool | None) -> bool:
        if told is not None:
            self.recent.append(told)
        return sum(self.recent) / WINDOW > MAJORITY


__all__ = ["ActionCheck", "alternative_poses", "alternatives", "identified", "psnr_db"]
