"""DriveLM questions and answers on nuScenes keyframes (Sima et al., 2024): as Text rows on logs, and to be scored.

The file is one JSON object: scene -> "key_frames" -> frame -> {"key_object_infos", "QA": {kind: [{"Q", "A", ...}]},
"image_paths": {camera: path}}. Objects are named "<c1,CAM_FRONT,714.3,503.6>": id, camera, image point at 1600 x 900.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from drive_wm.datasets.recorded import read_image
from drive_wm.datasets.rigs import nuscenes_six
from drive_wm.types import ByteArray, FrameError, InputError, IntArray, Log, Poses, Text

KINDS = ("perception", "prediction", "planning", "behavior")
HOLD_US = 500_000  # a question is about its keyframe, which is one of two a second
_TIME = re.compile(r"__(\d{16})\.\w+$")


@dataclass(frozen=True)
class Question:
    """One question about one keyframe at ``at_us``. tag: how it is scored, "accuracy", "match" or "language".

    images: camera -> path as the file gives it. objects: name in angle brackets -> what it is, such as "White sedan."
    """

    scene: str
    frame: str
    at_us: int
    kind: str
    question: str
    answer: str
    tag: str
    images: Mapping[str, str]
    objects: Mapping[str, str]


def read_drivelm(path: str | Path) -> list[Question]:
    """All questions of a DriveLM file, in its order; raises InputError where it is none."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as DriveLM's JSON ({error})") from None
    out: list[Question] = []
    try:
        for scene, told in data.items():
            for frame, entry in told["key_frames"].items():
                out += _of_frame(scene, frame, entry)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not DriveLM's format ({type(error).__name__}: {error}); expected scene -> "
                         "key_frames -> frame -> QA, image_paths, key_object_infos") from None
    if not out:
        raise InputError(f"{path}: holds no question")
    return out


def _of_frame(scene: str, frame: str, entry: Mapping) -> list[Question]:
    images = {str(camera): str(path) for camera, path in entry["image_paths"].items()}
    objects = {name: str(info.get("Visual_description") or info.get("Category"))
               for name, info in entry.get("key_object_infos", {}).items()}
    at_us = time_of(images.get("CAM_FRONT", next(iter(images.values()))))
    return [Question(scene, frame, at_us, kind, row["Q"], row["A"], tag_of(row["Q"], row["A"]), images, objects)
            for kind in KINDS for row in entry["QA"].get(kind, ())]


def time_of(image: str) -> int:
    """Microseconds from a nuScenes file name, "...__CAM_FRONT__1533280039162460.jpg"; raises InputError."""
    found = _TIME.search(image)
    if found is None:
        raise InputError(f"image {image!r}: its name ends in no nuScenes time of 16 digits")
    return int(found[1])


def tag_of(question: str, answer: str) -> str:
    """How an answer is compared: closed ones (yes, no, and the ego's behaviour) by their words, those that name objects
    by where these are, all others as language. The challenge judges some of the last by GPT, which is not done here."""
    if re.match(r"(yes|no)\b[^,]*$", answer.strip().lower()) or question.lower().startswith("predict the behavior"):
        return "accuracy"
    return "match" if re.search(r"<c\d+,\w+,[\d.]+,[\d.]+>", answer) and "notice first" in question else "language"


def spoken(text: str, objects: Mapping[str, str]) -> str:
    """The text with each name in angle brackets put as words: "the white sedan"."""
    def say(found: re.Match[str]) -> str:
        what = objects.get(found[0], "").strip(" .").lower()
        return f"the {what}" if what else "the object"
    return re.sub(r"<c\d+,[^>]*>", say, text)


def texts_of(questions: Sequence[Question]) -> tuple[Text, ...]:
    """Rows for ``Log.texts``: objects put in words, each valid for half a second from its keyframe on."""
    return tuple(Text(q.at_us, q.at_us + HOLD_US, spoken(q.answer, q.objects), spoken(q.question, q.objects), q.kind)
                 for q in questions)


def with_drivelm(log: Log, path: str | Path) -> Log:
    """The log with those of a DriveLM file's texts that lie within it; raises InputError where there is none."""
    mine = tuple(t for t in texts_of(read_drivelm(path)) if log.start_us <= t.start_us <= log.end_us)
    if not mine:
        raise InputError(f"{path}: no keyframe lies within log {log.id}, {log.start_us} to {log.end_us} microseconds")
    return replace(log, texts=log.texts + mine)


# --- keyframes as logs --------------------------------------------------------------------------------------------


class _Keyframe:
    """The images of one keyframe, all taken to be of its time (they are within 50 ms)."""

    rendered = False

    def __init__(self, at_us: int, files: Mapping[str, Path]) -> None:
        self.at_us, self.files = at_us, files

    def timestamps_us(self, camera: str) -> IntArray:
        return np.array([self.at_us] if camera in self.files else [], dtype=np.int64)

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        if camera not in self.files or timestamp_us != self.at_us:
            raise FrameError(f"{camera}: no image at {timestamp_us}")
        return read_image(self.files[camera])


def keyframe_logs(path: str | Path) -> list[Log]:
    """One log a keyframe, of a single moment: its images and texts. ``image_paths`` are looked for beside the file.

    DriveLM tells neither calibration nor poses: the rig is nuScenes' usual one, and the pose is the origin, so there is
    no speed, no action and no route. Raises InputError.
    """
    frames: dict[str, list[Question]] = {}
    for question in read_drivelm(path):
        frames.setdefault(question.frame, []).append(question)
    return [_log_of(frame, questions, Path(path).parent) for frame, questions in frames.items()]


def _log_of(frame: str, questions: Sequence[Question], folder: Path) -> Log:
    first = questions[0]
    files = {c: folder / image.replace("../", "") for c, image in first.images.items()}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise InputError(f"image {missing[0]}: absent; put nuScenes' samples beside DriveLM's file")
    pose = Poses(np.array([first.at_us]), np.eye(4)[None], np.ones(1, bool))
    images = _Keyframe(first.at_us, files)
    return Log(f"{first.scene[:8]}-{frame[:8]}", "drivelm", nuscenes_six(1600, 900), pose, images,
               texts=texts_of(questions), licence="nuScenes terms, non-commercial; texts CC BY-NC-SA 4.0", split="val",
               metadata={"frame": frame, "calibration": "assumed"})
