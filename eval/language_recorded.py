"""DriveLM's real keyframes: what the model says there, as it is, and the challenge's figures that need no judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drive_wm.datasets.drivelm import Question, keyframe_logs, read_drivelm
from drive_wm.decisions import STANDING_MPS
from drive_wm.encoders.text import encode_text
from drive_wm.eval import report
from drive_wm.eval.language_moment import Said, ask
from drive_wm.eval.language_scores import drivelm_scores
from drive_wm.eval.run_folder import RunFolder
from drive_wm.media import tile_cameras
from drive_wm.model import DriveWM
from drive_wm.scene import open_scene
from drive_wm.types import InputError, Log
from drive_wm.world.reasons import MAX_QUESTION_TOKENS

SLOW_MPS, FAST_MPS = 4.0, 10.0  # our reading of DriveLM's words for speeds; it publishes no thresholds
STEERING = {"turn left": "steering to the left", "turn right": "steering to the right"}


def score_drivelm(path: Path, out: Path, seed: int = 0, checkpoint: str = "tiny") -> dict[str, Any]:
    """The model on every keyframe of a DriveLM file (or of the folder with qa.json): explanations, answers, scores.

    The model was never trained on these questions: it tells the ego's behaviour from its plan, and answers the others
    in the town's words, with objects put in words; to what is too long to be read it has but its explanation to say.
    The commonest answer of the OTHER keyframes stands beside it.
    """
    file = path / "qa.json" if path.is_dir() else path
    questions = read_drivelm(file)
    model = DriveWM.from_pretrained(checkpoint)
    with RunFolder(out, "language", seed=seed) as run:
        said: dict[str, Said] = {}
        told_of: dict[int, str] = {}
        sections: list[Any] = []
        for log in keyframe_logs(file):
            frame = log.metadata["frame"]
            said[frame] = made = _explained(model, log, seed)
            mine = [q for q in questions if q.frame == frame]
            told_of |= dict(zip(map(id, mine), answers_of(model, log, mine, made, seed)))
            sections += _shown(log, made)
        answers = {"model": [told_of[id(q)] for q in questions],
                   "commonest answer": [commonest(q, questions) for q in questions]}
        rows = [{"who": who, **drivelm_scores(given, [q.answer for q in questions], [q.tag for q in questions])}
                for who, given in answers.items()]
        told = [{"frame": f, "decision": m.explanation.longitudinal, "lateral": m.explanation.lateral,
                 "text": m.explanation.text, "behavior": behaviour(m)} for f, m in said.items()]
        run.write_parquet("answers.parquet", [
            {"frame": q.frame, "kind": q.kind, "tag": q.tag, "question": q.question, "answer": q.answer,
             "model": given} for q, given in zip(questions, answers["model"])])
        head = [report.Table(list(rows[0]), [list(row.values()) for row in rows],
                             "Without the judged part (GPT) and CIDEr, so no final score. No speed, route or layout is "
                             "known on a keyframe, and the calibration is assumed.")]
        report.write_report(run, f"{model.name} on DriveLM's keyframes", head + sections, str(file.name))
        run.finish({"checkpoint": model.name, "questions": len(questions), "scores": rows, "keyframes": told})
    return {"scores": rows, "keyframes": told}


def _explained(model: DriveWM, log: Log, seed: int) -> Said:
    return ask(model, open_scene(log, model, 0.0), seed=seed)


def _shown(log: Log, made: Said) -> list[Any]:
    times = {c.name: log.frames.timestamps_us(c.name) for c in log.rig.cameras}
    images = {name: log.frames.read(name, int(at[0]))[::4, ::4] for name, at in times.items() if len(at)}
    return [report.Heading(log.id), report.Picture(tile_cameras(images), "the keyframe"),
            report.Explanation.of(made.explanation), report.Text(behaviour(made))]


def behaviour(made: Said) -> str:
    """DriveLM's sentence on the ego's behaviour, read off the plan's next second."""
    if made.plan.actions is None:
        raise InputError("the plan has no actions; only plans of a model that thinks in actions can be read")
    speed = float(made.plan.actions[:2, 0].mean())
    words = ("not moving" if speed < STANDING_MPS else "driving slowly" if speed < SLOW_MPS else
             "driving with normal speed" if speed < FAST_MPS else "driving fast")
    return f"The ego vehicle is {STEERING.get(made.lateral, 'going straight')}. The ego vehicle is {words}."


def answers_of(model: DriveWM, log: Log, questions: Sequence[Question], made: Said, seed: int = 0) -> list[str]:
    """To all questions of a keyframe, which ``log.texts`` has in the same order with objects in words."""
    spoken = [str(text.question) for text in log.texts]
    can = [i for i, (q, words) in enumerate(zip(questions, spoken, strict=True))
           if q.kind != "behavior" and len(encode_text(words)) <= MAX_QUESTION_TOKENS]
    given = dict(zip(can, model.answers(open_scene(log, model, 0.0), [spoken[i] for i in can], seed=seed)))
    return [behaviour(made) if q.kind == "behavior" else given.get(i, made.explanation.text)
            for i, q in enumerate(questions)]


def commonest(question: Question, questions: Sequence[Question]) -> str:
    """The commonest answer to questions that begin alike, or of the kind, in the other keyframes."""
    others = [q for q in questions if q.frame != question.frame]
    begin = " ".join(question.question.split()[:2])
    alike = [q.answer for q in others if q.question.startswith(begin)] or \
        [q.answer for q in others if q.kind == question.kind]
    return Counter(alike).most_common(1)[0][0] if alike else ""
