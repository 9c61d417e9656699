"""Every frame of a video, by its place and its exact time, in any order."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from drive_wm.datasets.video import open_video, read_frame
from drive_wm.types import FrameError

av = pytest.importorskip("av")

COUNT, SIZE = 40, 64


def grey(i: int) -> int:
    return 20 + 5 * i


def write_video(path: Path, times_ms: list[int], **options: str) -> Path:
    """Frame i is of the grey 20 + 5 i."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"crf": "10", "g": "12", "bf": "2", **options})
        stream.width = stream.height = SIZE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, at in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), grey(i), np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def uneven(count: int) -> list[int]:
    """Frame times of a camera that is late by up to 20 ms, in milliseconds."""
    return [i * 33 + (i * 7) % 21 for i in range(count)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_are_those_of_the_frames(tmp_path: Path, suffix: str) -> None:
    times = uneven(COUNT)
    video = open_video(write_video(tmp_path / f"a{suffix}", times))
    assert video.times_us.tolist() == [1000 * (t - times[0]) for t in times]
    assert len(video.keys) >= 3 and video.nearest(1000 * times[7] + 1) == 7
    assert [video.nearest(t) for t in (-5, 10**9)] == [0, COUNT - 1]


def test_any_order_gives_the_frame_asked_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", uneven(COUNT))
    order = [0, 1, 2, 30, 29, 5, 39, 38, 0, 12, 13, 11, 24, *range(COUNT)]
    for i in order:
        image = read_frame(path, i)
        assert image.shape == (SIZE, SIZE, 3) and abs(float(image.mean()) - grey(i)) < 2.4


def test_open_groups_of_pictures_are_read_through(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", uneven(COUNT), **{"x264-params": "open-gop=1:bframes=3:keyint=10"})
    for i in (9, 8, 10, 11, 19, 18, 21, 7, 39):
        assert abs(float(read_frame(path, i).mean()) - grey(i)) < 2.4


def test_forward_reading_decodes_each_frame_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from drive_wm.datasets import video

    path = write_video(tmp_path / "a.mp4", uneven(COUNT))
    seek, seeks = video._Decoder._seek, list[int]()

    def counted(decoder: video._Decoder, pts: int) -> None:
        seeks.append(pts)
        seek(decoder, pts)

    monkeypatch.setattr(video._Decoder, "_seek", counted)
    for i in range(0, 11):
        read_frame(path, i)
    assert len(seeks) == 1


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", uneven(5))
    read_frame(path, 4)
    write_video(path, uneven(8))
    assert abs(float(read_frame(path, 7).mean()) - grey(7)) < 2.4


def test_a_camera_held_upright_gives_upright_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    stored = np.zeros((32, SIZE, 3), np.uint8)
    stored[:, :SIZE // 2] = 255  # the left half, which a quarter turn counter-clockwise puts below
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = SIZE, 32, "yuv420p"
        stream.set_display_rotation(90)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        out.mux(stream.encode())
    image = read_frame(path, 0)
    assert image.shape == (SIZE, 32, 3)
    assert image[:24].mean() < 20 and image[-24:].mean() > 235


def test_what_is_missing_or_damaged_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", uneven(5))
    with pytest.raises(FrameError, match="has 5 frames, frame 5 is missing"):
        read_frame(path, 5)
    with pytest.raises(FrameError, match="cannot be opened"):
        read_frame(tmp_path / "b.mp4", 0)
    (tmp_path / "c.mp4").write_bytes(path.read_bytes()[:600])
    with pytest.raises(FrameError, match="cannot be opened"):
        read_frame(tmp_path / "c.mp4", 0)
    cut = write_video(tmp_path / "d.mkv", uneven(COUNT))
    whole = cut.read_bytes()
    cut.write_bytes(whole[:len(whole) * 4 // 5])
    assert 0 < len(open_video(cut)) < COUNT
    cut.write_bytes(whole[:900])
    with pytest.raises(FrameError, match="holds no frame"):
        open_video(cut)
