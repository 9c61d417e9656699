"""Pictures carried to the next step: what the newest images already show of what the cameras will see after a move.

Each pixel of the next step is a ray. Where it ends is drawn (a known layout's depth), or assumed: on the ground plane,
or else on a wall that stands FAR_M around the camera. That point is moved back to the step before, by the ego's move
and along with the agent it lies on, and is looked up in a camera that saw it there. A pixel whose point none saw stays
as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from drive_wm.geometry import inverse_pose, pose_from_xyyaw
from drive_wm.types import BoolArray, ByteArray, FloatArray, IntArray, Rig

if TYPE_CHECKING:
    from drive_wm.render import AgentBoxes, Renderer

FAR_M = 24.0  # of 8, 12, 16, 24, 40 m and infinity the one that carries the town's images best
NEAREST_M = 0.3


@dataclass(frozen=True)
class Drawn:
    """What is known of a step, drawn into its cameras; each maps a camera to (H, W[, 3]).

    layout: uint8 flat colours. depth_m: float32 along the optical axis, inf for the sky. slot: int, the agent's slot
    that is seen there, -1 elsewhere. Without depth and slot the layout conditions the frame, but carries nothing.
    """

    layout: Mapping[str, ByteArray]
    depth_m: Mapping[str, FloatArray] | None = None
    slot: Mapping[str, IntArray] | None = None


def draw_known(renderer: Renderer, rig: Rig, world_from_rig: FloatArray, agents: AgentBoxes,
               signal_states: Mapping[str, int], slots: Sequence[str]) -> Drawn:
    """Layout, depth and slots of a step. slots: the agents' ids by slot; an agent that has none stands still."""
    layout = renderer.draw(rig, world_from_rig, agents, signal_states, style="layout")
    labels = renderer.labels(rig, world_from_rig, agents, signal_states)
    place = {name: i for i, name in enumerate(slots) if name}
    of_instance = np.array([*(place.get(name, -1) for name in agents.ids), -1])  # instance -1 is the last
    return Drawn(layout, {name: it.depth_m for name, it in labels.items()},
                 {name: of_instance[it.instance] for name, it in labels.items()})


def same_agents(before: FloatArray, now: FloatArray) -> BoolArray:
    """(A,) of agents (A, 12) in slots a step apart: True where size, kind and colour say that it is still the same.

    A slot whose agent has gone may be another's in the next step, and nobody takes another's pixels along.
    """
    same: BoolArray = np.isclose(before[:, 5:], now[:, 5:], atol=1e-3).all(1)
    return same


class Reprojector:
    """Carries the images of one rig from a step to the next."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        rays, origins = [], []
        for camera in rig.cameras:
            v, u = np.mgrid[0:camera.height, 0:camera.width]
            pixels = np.stack([u + 0.5, v + 0.5, np.ones(u.shape)], -1).reshape(-1, 3)
            rays.append(pixels @ (camera.rig_from_camera[:3, :3] @ np.linalg.inv(camera.intrinsics)).T)
            origins.append(np.broadcast_to(camera.rig_from_camera[:3, 3], rays[-1].shape))
        self._rays, self._origins = np.concatenate(rays), np.concatenate(origins)
        self._ends = np.cumsum([camera.height * camera.width for camera in rig.cameras])[:-1]
        with np.errstate(divide="ignore"):
            ground = np.where(self._rays[:, 2] < 0, -self._origins[:, 2] / self._rays[:, 2], np.inf)
        wall = FAR_M / np.linalg.norm(self._rays[:, :2], axis=1)
        self._assumed = self._points(np.minimum(np.where(ground > 0, ground, np.inf), wall))

    def _points(self, scale: FloatArray) -> FloatArray:
        return (self._origins + self._rays * scale[:, None]).astype(np.float32)

    def carry(self, images: Mapping[str, ByteArray], ego_step: FloatArray, drawn: Drawn | None = None,
              before: FloatArray | None = None, now: FloatArray | None = None,
              tracked: BoolArray | None = None) -> dict[str, ByteArray]:
        """Images of a step -> what they show of the next; camera -> (H, W, 3) uint8.

        ego_step: (3,) x, y, yaw of the next rig in this one. drawn: of the next step; its depth replaces the assumed
        one. before, now: (A, 3+) x, y, yaw of the agents by slot, each in its own step's rig frame, and tracked (A,)
        where both are known; an agent that is not is taken to stand still.
        """
        points = self._assumed
        back = pose_from_xyyaw(np.asarray(ego_step, np.float64)).astype(np.float32)
        if drawn is not None and drawn.depth_m is not None:
            depth = np.concatenate([np.asarray(drawn.depth_m[n]).reshape(-1) for n in self.rig.names])
            points = self._points(np.where(np.isfinite(depth), depth, 1e4))
        seen = points @ back[:3, :3].T + back[:3, 3]
        if drawn is not None and drawn.slot is not None and before is not None and now is not None:
            slot = np.concatenate([np.asarray(drawn.slot[n]).reshape(-1) for n in self.rig.names])
            for i in np.unique(slot[slot >= 0]):
                if tracked is not None and not tracked[i]:
                    continue
                move = pose_from_xyyaw(before[i, :3]) @ inverse_pose(pose_from_xyyaw(now[i, :3]))
                on = slot == i
                seen[on] = points[on] @ move[:3, :3].T.astype(np.float32) + move[:3, 3].astype(np.float32)
        return {name: self._looked_up(i, images, part)
                for i, (name, part) in enumerate(zip(self.rig.names, np.split(seen, self._ends)))}

    def _looked_up(self, index: int, images: Mapping[str, ByteArray], points: FloatArray) -> ByteArray:
        """points (N, 3) of camera ``index``, in the rig frame before -> its image (H, W, 3), its own pixels first."""
        import cv2

        own = self.rig.cameras[index]
        out = images[own.name].reshape(-1, 3).copy()
        left = np.arange(len(points))
        for camera in (own, *(c for i, c in enumerate(self.rig.cameras) if i != index)):
            to_image = camera.intrinsics @ camera.rig_from_camera[:3, :3].T
            uvw = (points[left] - camera.rig_from_camera[:3, 3].astype(np.float32)) @ to_image.T.astype(np.float32)
            depth = np.maximum(uvw[:, 2], NEAREST_M)
            u, v = uvw[:, 0] / depth, uvw[:, 1] / depth
            inside = (uvw[:, 2] > NEAREST_M) & (u >= 0) & (u <= camera.width) & (v >= 0) & (v <= camera.height)
            if inside.any():
                place = (u[inside] - 0.5)[:, None], (v[inside] - 0.5)[:, None]
                found = cv2.remap(images[camera.name], *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                out[left[inside]] = found[:, 0]
                left = left[~inside]
            if not len(left):
                break
        return out.reshape(own.height, own.width, 3)
