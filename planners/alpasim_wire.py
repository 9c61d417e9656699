"""AlpaSim's egodriver messages <-> our words, as plain values: neither gRPC nor protobuf is needed here.

AlpaSim's rig frame is ours, its ``local`` is our world: metric, z up, fixed for a drive. A transform that it calls
``a_to_b`` is the pose of b in a, our ``a_from_b``; a camera's is of its optical frame (x right, y down, z ahead). Times
are integer microseconds. A message is read by its fields and written as a dict, which protobuf's constructors take.
Written for egodriver.proto of AlpaSim's API 0.55 (NVlabs/alpasim, src/grpc; frames: CONTRIBUTING.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from drive_wm.geometry import (
    inverse_pose,
    pose_from_quaternion,
    pose_from_xyyaw,
    quaternion_from_rotation,
    xyyaw_from_pose,
)
from drive_wm.types import ByteArray, Camera, FloatArray, InputError, IntArray, Observation, Trajectory

Message = dict[str, Any]
IMAGE_FORMATS = {"png": (".png", []), "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])}


def vector(xyz: FloatArray | Sequence[float]) -> Message:
    return dict(zip("xyz", (float(v) for v in xyz)))


def pose_message(pose: FloatArray) -> Message:
    """A pose (4, 4) as common.Pose."""
    quaternion = quaternion_from_rotation(pose[:3, :3])
    return {"vec": vector(pose[:3, 3]), "quat": dict(zip("wxyz", (float(v) for v in quaternion)))}


def pose_of(message: Any) -> FloatArray:
    """common.Pose -> (4, 4); a quaternion of four zeros is what protobuf calls unset, and stands for no rotation."""
    q = np.array([message.quat.w, message.quat.x, message.quat.y, message.quat.z], dtype=np.float64)
    xyz = np.array([message.vec.x, message.vec.y, message.vec.z], dtype=np.float64)
    return pose_from_quaternion(xyz, q if q.any() else np.array([1.0, 0.0, 0.0, 0.0]))


def trajectory_message(timestamps_us: IntArray, poses: FloatArray) -> Message:
    """Times (N,) and poses (N, 4, 4) as common.Trajectory."""
    return {"poses": [{"timestamp_us": int(t), "pose": pose_message(p)} for t, p in zip(timestamps_us, poses)]}


def plan_of(message: Any, now_us: int, local_from_rig: FloatArray) -> Trajectory | None:
    """A drive's answer, poses of the rig in ``local``, as a trajectory from the rig's pose (4, 4) of now on.

    None where nothing lies after now: that is how an egodriver says "hold". Raises InputError where the times do not
    increase or a number is not finite.
    """
    ahead = [entry for entry in message.poses if int(entry.timestamp_us) > now_us]
    if not ahead:
        return None
    times_s = np.array([int(entry.timestamp_us) - now_us for entry in ahead]) / 1e6
    poses = inverse_pose(local_from_rig) @ np.stack([pose_of(entry.pose) for entry in ahead])
    return Trajectory(times_s, xyyaw_from_pose(poses))


def camera_message(camera: Camera, logical_id: str) -> Message:
    """Our pinhole as AvailableCamera of contract revision 2, AlpaSim's own: the mount is of the optical frame."""
    k = camera.intrinsics
    lens = {"focal_length_x": float(k[0, 0]), "focal_length_y": float(k[1, 1]),
            "principal_point_x": float(k[0, 2]), "principal_point_y": float(k[1, 2])}
    return {"logical_id": logical_id, "rig_to_camera": pose_message(camera.rig_from_camera),
            "intrinsics": {"logical_id": logical_id, "resolution_w": camera.width, "resolution_h": camera.height,
                           "shutter_type": "GLOBAL", "opencv_pinhole_param": lens}}


def past_poses(observation: Observation, origin_m: FloatArray) -> FloatArray:
    """The rig at the observation's times, (T, 4, 4), in a ``local`` whose axes are the world's and lies at origin_m.

    An origin near the drive keeps single precision exact to the tenth of a millimetre, wherever on Earth it was.
    """
    poses: FloatArray = observation.world_from_rig @ pose_from_xyyaw(observation.ego_xyyaw)
    poses[:, :3, 3] -= origin_m
    return poses


def state_messages(observation: Observation) -> list[Message]:
    """common.DynamicState (in the rig frame) at each of the observation's times.

    Speed and curvature of the past are means of the actions before and after; now's speed is the observation's.
    """
    count = len(observation.timestamps_us)
    speed, curvature = np.full(count, observation.speed_mps), np.zeros(count)
    accel = np.zeros(count)
    if count > 1:
        a = observation.actions
        speed[:-1], curvature[:-1] = (np.concatenate([a[:1], (a[:-1] + a[1:]) / 2])).T
        curvature[-1] = a[-1, 1]
        accel = np.gradient(speed, observation.timestamps_us / 1e6)
    if observation.accel_mps2 is not None:
        accel[-1] = observation.accel_mps2
    return [{"linear_velocity": vector((v, 0, 0)), "angular_velocity": vector((0, 0, v * k)),
             "linear_acceleration": vector((a, v * v * k, 0))} for v, k, a in zip(speed, curvature, accel)]


def route_message(route: FloatArray | None, now_us: int) -> Message:
    """Points (N, 2) in the rig frame of now as egodriver.Route."""
    points = np.zeros((0, 2)) if route is None else route
    return {"timestamp_us": int(now_us), "waypoints": [vector((x, y, 0.0)) for x, y in points]}


def encode_image(image: ByteArray, kind: str) -> bytes:
    """(H, W, 3) RGB as the bytes of a file; PNG is exact."""
    suffix, options = IMAGE_FORMATS[kind]
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise InputError(f"an image of shape {image.shape} cannot be written as {kind}")
    return data.tobytes()


def decode_image(data: bytes, camera: str) -> ByteArray:
    """(H, W, 3) RGB of a PNG or JPEG. Raises InputError where the bytes are neither."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise InputError(f"camera {camera}: {len(data)} bytes that are no PNG or JPEG image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
