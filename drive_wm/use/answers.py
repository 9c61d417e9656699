"""`plan` and `explain`: what the model answers at one moment of a log."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.language.facts import Facts
from drive_wm.encoders.text import MAX_CHARACTERS, WORDS, encode_text
from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.geometry import compose_xyyaw, relative_xyyaw, xyyaw_from_pose
from drive_wm.media import draw_topdown, draw_trajectory_in_camera, tile_cameras, write_png
from drive_wm.model import WHY, DriveWM
from drive_wm.render import agents_at, signals_at
from drive_wm.scene import Scene, load_log, observation_of, open_scene
from drive_wm.types import ByteArray, Explanation, InputError, Plan, Rig
from drive_wm.use.pictures import front_camera, full_image, marked_cameras, marks_of
from drive_wm.world.reasons import MAX_QUESTION_TOKENS, SIGNAL

EXAMPLE = "Why are you slowing down?"
CAMERA = re.compile(r"\bcam_\w+")
LOOKS = {"front": (1, 0, 0), "forward": (1, 0, 0), "back": (-1, 0, 0), "rear": (-1, 0, 0), "left": (0, 1, 0),
         "right": (0, -1, 0)}  # directions of the rig frame
LOOKS_LEAST = 0.2  # cosine; of "front left" both must hold
NOWHERE = ("roof", "top", "inside", "interior", "cabin", "driver", "mirror", "drone", "thermal", "infrared")


def plan_with(planner: str, scene: Scene, seed: int, checkpoint: str) -> Plan:
    """Asks a planner once; an oracle is given the log. Raises InputError where the answer is no plan."""
    from drive_wm.planners.base import check_plan
    from drive_wm.planners.registry import make_planner, takes_checkpoint

    options: dict[str, Any] = {"checkpoint": checkpoint} if takes_checkpoint(planner) else {}
    made = make_planner(planner, **options)
    try:
        made.reset(seed, scene.log if made.oracle else None)
        return check_plan(made.plan(observation_of(scene, made.requires)))
    finally:
        made.close()


def plan_pictures(scene: Scene, made: Plan) -> tuple[ByteArray, ByteArray]:
    """The plan on the ground of the front camera at the recorded size, and from above beside the log's own path."""
    name = front_camera(scene.context)
    camera = scene.log.rig.camera(name)
    width = max(480, camera.width) if camera.width < 480 else min(camera.width, 960)
    camera = camera.resized(width, round(camera.height * width / camera.width))
    image = full_image(scene, name, camera.width, camera.height)
    world = compose_xyyaw(xyyaw_from_pose(scene.pose), made.trajectory.xyyaw)
    ego, end_us = scene.log.ego, scene.now_us + int(made.trajectory.times_s[-1] * 1e6)
    within = (ego.timestamps_us > scene.now_us) & (ego.timestamps_us <= end_us) & ego.valid
    logged = xyyaw_from_pose(ego.world_from_body[within])
    paths = [("plan", world, (60, 220, 120))] + ([("log", logged, (255, 170, 60))] if len(logged) else [])
    above = draw_topdown(scene.log.map, paths, agents_at(scene.log, scene.now_us), scene.pose, size_px=480,
                         signals=scene.log.signals, signal_states=signals_at(scene.log, scene.now_us))
    return draw_trajectory_in_camera(image, camera, made.trajectory.xyyaw), above


def plan_errors(scene: Scene, made: Plan) -> dict[str, float]:
    """Distance [m] to the log's own positions at 1, 2, 3 s, where it has them."""
    out: dict[str, float] = {}
    for second in (1, 2, 3):
        future = scene.future(int(second * scene.context.rate_hz))
        at = np.flatnonzero(np.isclose(made.trajectory.times_s, second))
        if len(at) and future.ego_valid[-1]:
            truth = relative_xyyaw(xyyaw_from_pose(scene.pose), xyyaw_from_pose(future.ego[-1]))
            out[f"l2_{second}s_m"] = float(np.linalg.norm(truth[:2] - made.trajectory.xyyaw[at[0], :2]))
    return out


def plan(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
         start_s: float = 2.0, planner: str = "direct") -> Plan:
    """Where the ego would go from a moment of a log, in its front camera and from above."""
    model = DriveWM.from_pretrained(checkpoint)
    drive = load_log(source, log)
    scene = open_scene(drive, model, start_s)
    made = plan_with(planner, scene, seed, checkpoint)
    with RunFolder(out, "plan", seed=seed) as run:
        camera, above = plan_pictures(scene, made)
        write_png(run.file("plan_camera.png"), camera)
        write_png(run.file("plan_topdown.png"), above)
        rows = [{"time_s": float(t), "x_m": float(p[0]), "y_m": float(p[1]), "yaw_rad": float(p[2])}
                for t, p in zip(made.trajectory.times_s, made.trajectory.xyyaw)]
        run.write_parquet("plan.parquet", rows)
        errors = plan_errors(scene, made)
        report.write_report(run, "A plan", [
            report.KeyValues({"source": source, "log": drive.id, "start": f"{start_s:g} s", "planner": planner,
                              **errors}),
            report.Row([report.Picture(camera, "the plan on the ground, front camera"),
                        report.Picture(above, "from above")]),
            report.Table(list(rows[0]), [list(r.values()) for r in rows])], drive.id)
        run.finish({"log": drive.id, "planner": planner, **errors, "plan": rows})
    return made


def explanation_picture(scene: Scene, made: Explanation) -> ByteArray:
    """All cameras of now, with boxes around what the causes and the answer point to."""
    return tile_cameras(marked_cameras(scene, marks_of(scene, made), 480))


def sighted(scene: Scene, made: Explanation) -> Explanation:
    """The explanation, each agent among its causes with whether a camera of the log sees it now."""
    if not any(cause.agent_id and cause.agent_id != SIGNAL for cause in made.causes):
        return made
    seen = Facts(scene.log, scene.now_us).visible_ids
    return replace(made, causes=tuple(replace(cause, visible=cause.agent_id in seen) if cause.agent_id
                                      and cause.agent_id != SIGNAL else cause for cause in made.causes))


# --- questions ----------------------------------------------------------------------------------------------------


def check_question(question: str, rig: Rig | None = None) -> str:
    """The question, if the model can read it; raises InputError where it is empty, too long, mostly in words that the
    model does not know (of another language, say), or about a camera that ``rig`` does not have."""
    if not question.strip():
        raise InputError(f'the question is empty; ask something, for example: "{EXAMPLE}"')
    if len(question) > MAX_CHARACTERS or len(encode_text(question)) > MAX_QUESTION_TOKENS:
        raise InputError(f"the question is too long ({len(question)} characters): {MAX_QUESTION_TOKENS} words are read "
                         "at most, and of a word that the model does not know each letter counts as one; "
                         "ask something shorter")
    names = [] if rig is None else [name.lower() for name in rig.names]
    words = [w for w in re.findall(r"\w+", question.lower()) if not w.isdigit() and w not in names]
    unknown = [w for w in words if w not in WORDS and not CAMERA.match(w)]
    if not words or 2 * len(unknown) > len(words):
        told = f"the model does not know the words {', '.join(unknown)}" if unknown else "it holds no words"
        raise InputError(f"the question {question.strip()!r} cannot be answered: {told}. Ask in English, in everyday "
                         f'words, for example: "{EXAMPLE}"')
    if rig is not None:
        _check_cameras(question.lower(), rig)
    return question


def _check_cameras(question: str, rig: Rig) -> None:
    """Cameras are asked for by name (CAM_FRONT), or by where they look (the back left camera)."""
    have = f"rig {rig.name} has {', '.join(rig.names)}"
    for name in CAMERA.findall(question):
        if name not in [n.lower() for n in rig.names]:
            raise InputError(f"the question is about camera {name.upper()}, which is not there; {have}")
    for found in re.finditer(rf"((?:\b(?:{'|'.join([*LOOKS, *NOWHERE])})\b[ -]*)+)cameras?\b", question):
        words = re.findall(r"\w+", found[1])
        axes = [c.rig_from_camera[:3, 2] for c in rig.cameras]
        there = any(all(w in LOOKS and a @ LOOKS[w] > LOOKS_LEAST for w in words) for a in axes)
        named = any(all(w in name.lower() for w in words) for name in rig.names)
        if not (there or named):
            raise InputError(f"the question is about a {' '.join(words)} camera, which is not there; {have}")


# --- the command --------------------------------------------------------------------------------------------------


def explain(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
            start_s: float = 2.0, question: str | None = None) -> Explanation:
    """What the model decides at a moment of a log and the causes that it gives; ``check_question`` says what can be
    asked."""
    asked = check_question(WHY if question is None else question)
    model = DriveWM.from_pretrained(checkpoint)
    drive = load_log(source, log)
    check_question(asked, drive.rig)
    scene = open_scene(drive, model, start_s)
    made = sighted(scene, model.explain(scene, asked, seed=seed))
    with RunFolder(out, "explain", seed=seed) as run:
        picture = explanation_picture(scene, made)
        write_png(run.file("explanation.png"), picture)
        about = {"source": source, "log": drive.id, "start": f"{start_s:g} s", "checkpoint": model.name}
        sections: list[Any] = [report.KeyValues(about), report.Explanation.of(made),
                               report.Picture(picture, "what the causes and the answer point to")]
        driver = driver_reason(scene)
        if driver is not None:
            sections += [report.Heading("What the driver of the log gave as the reason"), report.Explanation.of(driver)]
        report.write_report(run, "An explanation", sections, drive.id)
        run.finish({"log": drive.id, "question": made.question, "decision": f"{made.longitudinal}, {made.lateral}",
                    "causes": [report.say_cause(c) for c in made.causes], "text": made.text,
                    **({"about": list(made.about)} if made.about else {})})
    return made


def driver_reason(scene: Scene) -> Explanation | None:
    return scene.context.reasons[-1] if scene.context.reasons else None
