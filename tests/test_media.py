"""Files that come back as they went, and drawings whose pixels can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from drive_wm.media import (
    contact_sheet,
    draw_boxes_in_camera,
    draw_topdown,
    draw_trajectory_in_camera,
    project,
    read_image,
    tile_cameras,
    write_mp4,
    write_png,
)
from drive_wm.render import AgentBoxes
from drive_wm.types import ByteArray, Camera, FrameError, InputError, RoadMap


def picture(seed: int = 0, height: int = 24, width: int = 32) -> ByteArray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def camera() -> Camera:
    """Looks along +x from 1.5 m, 90 degrees wide, 96 x 64."""
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    pose[2, 3] = 1.5
    return Camera("front", 96, 64, np.array([[48.0, 0, 48], [0, 48, 32], [0, 0, 1]]), pose)


def one_box(x: float, y: float) -> AgentBoxes:
    return AgentBoxes(np.array([[x, y, 1.0, 0.0]]), np.full((1, 3), 2.0), ("car",), ("a",),
                      np.array([[250, 0, 0]], np.uint8),
                      np.zeros(1, bool), np.zeros(1, np.int8))


def test_png_round_trip_leaves_nothing_else_behind(tmp_path: Path) -> None:
    image = picture()
    write_png(tmp_path / "deep" / "a.png", image)
    assert (read_image(tmp_path / "deep" / "a.png") == image).all()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]
    with pytest.raises(InputError, match="uint8"):
        write_png(tmp_path / "b.png", image.astype(float))
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_cut_files_are_refused(tmp_path: Path, suffix: str) -> None:
    data = cv2.imencode(f".{suffix}", picture(height=64, width=64))[1].tobytes()
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    assert read_image(path).shape == (64, 64, 3)
    for kept, words in ((len(data) // 2, "cut short"), (0, "empty")):
        path.write_bytes(data[:kept])
        with pytest.raises(FrameError, match=words):
            read_image(path)
    path.write_bytes(b"hello")
    with pytest.raises(FrameError, match="not an image"):
        read_image(path)
    with pytest.raises(FrameError, match="cannot be read"):
        read_image(tmp_path / "absent.jpg")


def test_mp4_keeps_every_frame_and_is_the_same_twice(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    frames = np.stack([np.full((31, 45, 3), 20 * i, np.uint8) for i in range(7)])
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, frames, 10.0)
    with av.open(str(tmp_path / "a.mp4")) as container:
        back = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == 10.0
    assert len(back) == 7 and back[0].shape == (32, 46, 3)
    assert all(abs(float(image.mean()) - 20 * i) < 6 for i, image in enumerate(back))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    with pytest.raises(InputError, match="one frame or more"):
        write_mp4(tmp_path / "c.mp4", frames[:0], 10.0)


def test_sheets_and_tiles_have_the_size_of_their_parts() -> None:
    sheet = contact_sheet([[picture(0), picture(1)], [picture(2)]], ["one", "two"], ["left", "right"], scale=2)
    assert sheet.shape[0] == 18 + 2 * (48 + 2) and sheet.shape[1] > 2 * (64 + 2)
    bare = contact_sheet([[picture(0), picture(1)]], gap=0)
    assert (bare == np.concatenate([picture(0), picture(1)], 1)).all()
    six = tile_cameras({f"c{i}": picture(i) for i in range(6)})
    assert six.shape == (48, 96, 3) and (six[24:, :32] == picture(3)).all()
    assert tile_cameras({"a": picture()}).shape == (24, 32, 3)
    with pytest.raises(InputError):
        contact_sheet([])


def test_a_point_projects_as_by_hand() -> None:
    uv, depth = project(camera(), np.array([[10.0, 2.0, 0.0]]))
    assert np.allclose(uv, [[48 - 48 * 2 / 10, 32 + 48 * 1.5 / 10]]) and np.allclose(depth, [10.0])


def test_a_path_ahead_is_painted_below_the_horizon_in_the_middle() -> None:
    black = np.zeros((64, 96, 3), np.uint8)
    ahead = np.stack([np.arange(1, 7) * 4.0, np.zeros(6), np.zeros(6)], 1)
    at = np.argwhere(draw_trajectory_in_camera(black, camera(), ahead).any(-1))
    assert at[:, 0].min() > 32 and abs(at[:, 1].mean() - 47.5) < 0.6
    assert not draw_trajectory_in_camera(black, camera(), ahead * [-1, 1, 1]).any()
    bend = ahead.copy()
    bend[:, 1] = 0.02 * bend[:, 0] ** 2
    assert np.argwhere(draw_trajectory_in_camera(black, camera(), bend).any(-1))[:, 1].mean() < 47


def test_boxes_are_outlined_in_front_and_not_behind() -> None:
    black = np.zeros((64, 96, 3), np.uint8)
    at = np.argwhere(draw_boxes_in_camera(black, camera(), np.eye(4), one_box(10.0, 4.0)).any(-1))
    assert at[:, 1].max() < 48
    assert not draw_boxes_in_camera(black, camera(), np.eye(4), one_box(-10.0, 0.0), ["behind"]).any()


def test_from_above_the_left_is_left_and_ahead_is_up() -> None:
    path = np.array([[0.0, 0, 0], [10, 0, 0]])
    image = draw_topdown(RoadMap("none"), [("plan", path, (0, 255, 0))], one_box(10.0, 8.0), np.eye(4),
                         size_px=200, range_m=25.0)
    red = np.argwhere((image == (250, 0, 0)).all(-1)).mean(0)
    assert image.shape == (200, 200, 3)
    assert abs(red[1] - (100 - 8 * 4)) < 2 and abs(red[0] - (0.68 * 200 - 10 * 4)) < 2
    assert draw_topdown(None, [], None, np.eye(4)).shape == (384, 384, 3)
