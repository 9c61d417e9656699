"""``drive-wm speed``: what an evaluation costs on this machine, part by part, in processor time."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.eval import report
from drive_wm.eval.evaluate import drive
from drive_wm.eval.protocols import get_protocol
from drive_wm.eval.run_folder import RunFolder
from drive_wm.eval.runner import Order, one_thread, stage_of
from drive_wm.eval.vehicle import STEP_S, EgoState, fit_reference, follow, make_vehicle
from drive_wm.geometry import integrate_actions

BATCH, STEPS = 4096, 40
HEIGHT_PX = 64  # of every camera, for all renderers alike
Row = dict[str, Any]


def speed(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", renderers: Sequence[str] = (),
          planner: str = "camera", duration_s: float = 15.0) -> list[Row]:
    """One drive of the source's first log a row, on one core; in processor time, which others change little."""
    from drive_wm.datasets.sources import open_source

    opened = open_source(source)
    log = opened.load(opened.log_ids()[0])
    with RunFolder(out, "speed", seed=seed) as run, one_thread():
        rows = [kinematic()]
        for name, eye, traffic in (("constant_velocity", "none", "log"), ("idm", "none", "log"), ("idm", "none", "idm"),
                                   *((planner, eye, "log") for eye in renderers or ("layout", "world"))):
            rows.append(_drive(log, name, eye, traffic, seed, checkpoint, duration_s))
        note = ("Processor seconds on one core; several workers do as many times more. Peak memory is that of the "
                "process up to that row.")
        table = report.Table(list(rows[0]), [list(row.values()) for row in rows], note)
        report.write_report(run, "What an evaluation costs", [table], source)
        run.finish({"source": source, "duration_s": duration_s, "speed": rows})
    return rows


def kinematic() -> Row:
    """Candidates (BATCH) tracked along references of 4 s, through LQR and bicycle, at once."""
    rng = np.random.default_rng(0)
    actions = np.stack([rng.uniform(2, 12, (BATCH, STEPS)), rng.uniform(-0.02, 0.02, (BATCH, STEPS))], -1)
    paths = np.stack([np.concatenate([np.zeros((1, 3)), integrate_actions(np.zeros(3), a, STEP_S)]) for a in actions])
    zero = np.zeros(BATCH)
    state = EgoState(np.zeros((BATCH, 3)), actions[:, 0, 0], zero, zero)
    vehicle = make_vehicle("zoe")
    seconds = _processor_s(lambda: follow(state, fit_reference(paths), STEPS, vehicle))
    return {"what": f"vehicle alone, {BATCH} at once", "steps_per_s": BATCH * STEPS / seconds, "drives_per_hour": None,
            "processor_s_a_drive": None, "peak_memory_mb": _peak_mb()}


def _drive(log: Any, planner: str, eye: str, traffic: str, seed: int, checkpoint: str, duration_s: float) -> Row:
    from drive_wm.eval.command import varied

    rules = varied(get_protocol("drive@1.0"), duration_s, traffic)
    order = Order((), (planner,), () if eye == "none" else (eye,), rules, seed, checkpoint)
    driver, renderer = order.planner(planner), None if eye == "none" else order.renderer(eye)
    stage = stage_of(order, log, None if renderer is None else HEIGHT_PX)
    steps = 0

    def once() -> None:
        nonlocal steps
        result = drive(stage.log, driver, renderer, stage.rules, seed, stage.rig, None, stage.references, stage.road)
        steps = len(result.rollout.timestamps_us)

    seconds = _processor_s(once)
    what = f"{planner}, {len(stage.rig.cameras)} cameras by {eye}" if renderer is not None else \
        f"{planner}, no cameras, {traffic} traffic"
    return {"what": what, "steps_per_s": steps / seconds, "drives_per_hour": 3600 / seconds,
            "processor_s_a_drive": seconds, "peak_memory_mb": _peak_mb()}


def _processor_s(call: Callable[[], object], repeats: int = 2) -> float:
    """The least of two: the first one fills caches."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return max(min(times), 1e-6)


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
