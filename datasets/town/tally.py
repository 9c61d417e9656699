"""What an audit found, in sums and shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from drive_wm.datasets.town.audit import VIOLATIONS, Audited
from drive_wm.types import LATERAL, LONGITUDINAL

STANDS = 0.9  # a log whose ego stands for more than this share of it shows little driving
EXAMPLES = 5


def violation_count(audits: Sequence[Audited]) -> int:
    return sum(len(audited.findings) for audited in audits)


def summary(audits: Sequence[Audited]) -> dict[str, Any]:
    """Plain values and tables (lists of rows) about all logs together; shares are of what their column names."""
    seconds = sum(audited.duration_s for audited in audits)
    stood = sum(audited.stood_s for audited in audits)
    return {
        "logs": len(audits), "hours": seconds / 3600, "km": sum(audited.distance_m for audited in audits) / 1000,
        "violations_in_all": violation_count(audits), "logs_with_violations": sum(bool(a.findings) for a in audits),
        "ego_stands_share": stood / max(seconds, 1e-9),
        "logs_standing": sum(a.stood_s > STANDS * a.duration_s for a in audits),
        "agents_dropped": sum(audited.dropped for audited in audits), **speed(audits),
        "violations": violations(audits), "manoeuvres": manoeuvres(audits), "causes": _causes(audits),
        "junctions": _junctions(audits), "weather": _weather(audits), "agents": _agents(audits)}


def violations(audits: Sequence[Audited]) -> list[dict[str, Any]]:
    """A row for every kind, also where there is none: how often, in how many logs, and the first ones."""
    rows = []
    for kind in VIOLATIONS:
        found = [(audited.log_id, finding) for audited in audits for finding in audited.findings
                 if finding.kind == kind]
        examples = [f"{log_id} at {finding.at_s:.1f} s: {finding.text}" for log_id, finding in found[:EXAMPLES]]
        rows.append({"violation": kind, "count": len(found), "logs": len({log_id for log_id, _ in found}),
                     "steps": sum(finding.steps for _, finding in found), "first": "; ".join(examples) or "none"})
    return rows


def manoeuvres(audits: Sequence[Audited]) -> list[dict[str, Any]]:
    """LONGITUDINAL x LATERAL, in percent of all explained steps; empty where no log has reasons."""
    count: Counter[tuple[str, str]] = sum((audited.manoeuvres for audited in audits), Counter())
    total = sum(count.values())
    if not total:
        return []
    rows: list[dict[str, Any]] = []
    for down in LONGITUDINAL:
        shares = {across: 100.0 * count[down, across] / total for across in LATERAL}
        rows.append({"percent_of_steps": down, **shares, "all": sum(shares.values())})
    totals = {key: sum(row[key] for row in rows) for key in (*LATERAL, "all")}
    return [*rows, {"percent_of_steps": "all", **totals}]


def _causes(audits: Sequence[Audited]) -> list[dict[str, Any]]:
    count: Counter[str] = sum((audited.causes for audited in audits), Counter())
    return [{"cause": cause, "steps": steps, "percent": 100.0 * steps / sum(count.values())}
            for cause, steps in count.most_common()]


def _junctions(audits: Sequence[Audited]) -> list[dict[str, Any]]:
    count = Counter(kind for audited in audits for kind in audited.junctions)
    return [{"junction": kind, "met": met, "logs": sum(kind in audited.junctions for audited in audits)}
            for kind, met in count.most_common()]


def _weather(audits: Sequence[Audited]) -> list[dict[str, Any]]:
    count = Counter((audited.weather, audited.time_of_day) for audited in audits)
    return [{"weather": weather, "time_of_day": when, "logs": logs, "percent": 100.0 * logs / len(audits)}
            for (weather, when), logs in count.most_common()]


def _agents(audits: Sequence[Audited]) -> list[dict[str, Any]]:
    count: Counter[str] = sum((audited.agents for audited in audits), Counter())
    return [{"agent": category, "tracks": tracks, "logs": sum(category in audited.agents for audited in audits)}
            for category, tracks in count.most_common()]


def speed(audits: Sequence[Audited]) -> dict[str, float]:
    """Camera frames a second of one core: drawing alone, and with the making of the log; and their size as JPEG.

    From processor time, which other work on the machine changes little. Empty where nothing was drawn.
    """
    drawn, spent = sum(a.drawn for a in audits), sum(a.draw_cpu_s for a in audits)
    if not drawn or not spent:
        return {}
    frames, load = sum(a.frames for a in audits), sum(a.load_cpu_s for a in audits)
    size = sum(a.jpeg_bytes for a in audits) / drawn
    return {"drawn_frames_per_s_core": drawn / spent, "frames_per_s_core": frames / (load + frames * spent / drawn),
            "load_s_core": load / len(audits), "jpeg_bytes_a_frame": size, "jpeg_bytes_in_all": size * frames}


def rows(audits: Sequence[Audited]) -> list[dict[str, Any]]:
    """Every violation as a row."""
    return [{"log": audited.log_id, "violation": finding.kind, "at_s": finding.at_s, "steps": finding.steps,
             "text": finding.text} for audited in audits for finding in audited.findings]


def lines(audits: Sequence[Audited], most: int = 200) -> list[str]:
    """The violations in words, and how many more there are than ``most``."""
    told = [f"{row['log']} at {row['at_s']:.1f} s, {row['violation']}: {row['text']}" for row in rows(audits)]
    return told[:most] + [f"and {len(told) - most} more, in violations.parquet"] * (len(told) > most)
