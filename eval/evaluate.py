"""Planners x renderers x logs under one protocol: rows of plain values, and their means with intervals."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drive_wm import __version__
from drive_wm.eval.loop import FrameCallback, simulate
from drive_wm.eval.metrics import References, Road
from drive_wm.eval.parts import Row
from drive_wm.eval.protocols import Protocol, config_hash, get_protocol, score_rollout
from drive_wm.eval.references import references_for
from drive_wm.eval.scenarios import rules_for, with_lead_in
from drive_wm.eval.sensors import SensorRenderer, make_renderer
from drive_wm.eval.statistics import bootstrap
from drive_wm.eval.traffic import make_traffic
from drive_wm.eval.vehicle import make_vehicle
from drive_wm.planners.base import Planner
from drive_wm.planners.registry import make_planner
from drive_wm.types import InputError, Log, Rig, Rollout, Score


@dataclass(frozen=True)
class Result:
    """One drive: the row for tables, and what it was made from."""

    row: Row
    rollout: Rollout
    scores: Mapping[str, Score]


def evaluate(logs: Iterable[Log], planners: Sequence[str | Planner],
             renderers: Sequence[str | SensorRenderer] = ("layout",), protocol: str | Protocol = "drive@1.0",
             seed: int = 0, *, rig: Rig | None = None,
             on_result: Callable[[Result], None] | None = None,
             frames: Callable[[Log, str, str], FrameCallback | None] | None = None) -> list[Result]:
    """Let every planner drive every log through every renderer.

    planners, renderers: names, paths or objects. A planner that sees no frames drives once, with renderer "none". Each
    finished drive is given to ``on_result``. ``frames(log, planner, renderer)`` may answer with a callback that gets
    the images of that drive. Raises InputError before the first drive where a name is unknown.
    """
    return list(_drives(logs, planners, renderers, get_protocol(protocol), seed, rig, on_result, frames))


def _drives(logs: Iterable[Log], planners: Sequence[str | Planner], renderers: Sequence[str | SensorRenderer],
            protocol: Protocol, seed: int, rig: Rig | None, on_result: Callable[[Result], None] | None,
            frames: Callable[[Log, str, str], FrameCallback | None] | None) -> Iterator[Result]:
    made = [make_planner(p) if isinstance(p, str) else p for p in planners]
    eyes = [make_renderer(r) if isinstance(r, str) else r for r in renderers]
    for kind, names in (("planner", [p.name for p in made]), ("renderer", [e.name for e in eyes])):
        if len(set(names)) < len(names):
            raise InputError(f"two of one name in {kind}s {names}: their rows could not be told apart")
    if not made:
        raise InputError("no planner to evaluate, expected one or more names such as 'idm'")
    if not eyes and any("frames" in p.requires for p in made):
        raise InputError("a planner requires frames: give one or more renderers such as 'layout'")
    for log in map(with_lead_in, logs):
        rules = rules_for(log, protocol)
        compared = references_for(log, rules, drive_seed(seed, log))
        for planner in made:
            watched = frames is not None and bool(eyes)
            for eye in eyes if "frames" in planner.requires else eyes[:1] if watched else [None]:
                callback = frames(log, planner.name, eye.name) if frames is not None and eye is not None else None
                result = drive(log, planner, eye, rules, seed, rig, callback, compared, named=protocol)
                if on_result is not None:
                    on_result(result)
                yield result


def drive_seed(seed: int, log: Log) -> int:
    """The seed of every drive of a log: it does not depend on the planner, so that all meet the same world."""
    return int(np.random.SeedSequence([seed, zlib.crc32(log.id.encode())]).generate_state(1)[0])


def drive(log: Log, planner: Planner, renderer: SensorRenderer | None, protocol: Protocol, seed: int,
          rig: Rig | None = None, on_frames: FrameCallback | None = None, references: References | None = None,
          road: Road | None = None, named: Protocol | None = None) -> Result:
    """One drive and its row. references: what the protocol compares with (references_for); made here where not given.
    road: the log's map prepared. named: whose id the row bears, where ``protocol`` differs from it in its start only.

    The row holds plain values: what was run (log_id, planner, renderer, protocol, config_hash, version, seed), each
    score and ``<score>_valid``, total, render_valid (the share of steps with trustworthy images), errors, seconds.
    """
    began = time.perf_counter()
    own = drive_seed(seed, log)
    rollout = simulate(log, planner, renderer, vehicle=make_vehicle(protocol.vehicle), rig=rig, seed=own,
                       start_s=protocol.start_s, duration_s=protocol.duration_s, traffic=make_traffic(protocol.traffic),
                       replan_s=protocol.replan_s, tracking=protocol.tracking, on_frames=on_frames)
    compared = references_for(log, protocol, own) if references is None else references
    scores = score_rollout(rollout, protocol, compared, road)
    named = named or protocol
    row: Row = {"log_id": log.id, "planner": rollout.planner, "oracle": planner.oracle,
                "renderer": rollout.renderer if "frames" in planner.requires else "none",
                "protocol": named.id, "config_hash": config_hash(named), "version": __version__, "seed": seed,
                "steps": len(rollout.timestamps_us), "driven_s": (len(rollout.timestamps_us) - 1) / 10}
    for name, score in scores.items():
        row[name], row[f"{name}_valid"] = score.value, score.valid
    row["render_valid"] = float(rollout.render_valid.mean())
    row["trusted"] = bool(rollout.render_valid.all())
    row["errors"] = [f"step {step}: {message}" for step, message in rollout.plan_errors.items()]
    row["contacts"] = [c for c in scores["no_at_fault_collision"].evidence.get("contacts", ())] \
        if "no_at_fault_collision" in scores else []
    row["seconds"] = time.perf_counter() - began
    return Result(row, rollout, scores)


def aggregate(rows: Sequence[Row], protocol: str | Protocol = "drive@1.0", seed: int = 0,
              resamples: int = 1000) -> list[Row]:
    """One row per planner and renderer: count, failures, and mean, low and high of each score over its valid logs.

    trusted: on how many logs the planner's images could be trusted from first to last. A log on which any row's images
    could not is left out of the means of ALL rows (``excluded`` tells how many): so a drive with misleading images
    raises no one's mean, and no planner is rid of a hard scene that others must answer for. total_all is the mean over
    all logs, those too; compare it, as it must tell the same story.

    low, high: the 95% percentile bootstrap interval over logs (Efron, 1979). ``<name>_n`` tells over how many logs.
    """
    names = (*get_protocol(protocol).subscores, "total")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["planner"], row["renderer"]), []).append(row)
    table = []
    doubted = {row["log_id"] for row in rows if not row["trusted"]}
    for (planner, renderer), group in groups.items():
        every = [r["total"] for r in group if r["total_valid"]]
        entry: Row = {"planner": planner, "renderer": renderer, "oracle": group[0]["oracle"], "logs": len(group),
                      "failed": sum(bool(r["errors"]) for r in group), "protocol": group[0]["protocol"],
                      "config_hash": group[0]["config_hash"], "version": group[0]["version"], "seed": group[0]["seed"],
                      "trusted": sum(bool(r["trusted"]) for r in group),
                      "excluded": sum(r["log_id"] in doubted for r in group),
                      "total_all": float(np.mean(every)) if every else float("nan"),
                      "render_valid": float(np.mean([r["render_valid"] for r in group])),
                      "seconds": float(np.mean([r["seconds"] for r in group]))}
        for name in names:
            values = np.array([r[name] for r in group if r[f"{name}_valid"] and r["log_id"] not in doubted])
            mean, low, high = bootstrap(values, seed, resamples)
            entry |= {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": len(values)}
        table.append(entry)
    return table
