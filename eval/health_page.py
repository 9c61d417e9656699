"""`data check`: drives examined, and the page that shows what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from drive_wm.datasets.health import HealthReport, check_speeds, examine, validity
from drive_wm.datasets.health.findings import many
from drive_wm.datasets.health.pictures import bad_moments, path_above
from drive_wm.eval.report import Chart, Heading, KeyValues, Picture, Row, Section, Table, Text, Timeline, write_report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.types import Log

MOST_DRIVES = 12  # a page of more would be too large to open; the table names them all
MOST_POINTS, MOST_MPS = 600, 80.0


def check_drives(source: Any, ids: Sequence[str], run: RunFolder,
                 progress: Callable[[HealthReport], None] | None = None) -> list[HealthReport]:
    """Examines drives one by one: health.json with all that was found, and report.html with pictures, worst first."""
    reports: list[HealthReport] = []
    pages: list[tuple[HealthReport, list[Section]]] = []
    for log_id in ids:
        log, report = examine(source, log_id)
        reports.append(report)
        if len(pages) < MOST_DRIVES or not report.ok:
            pages.append((report, sections_of(log, report)))
            pages = sorted(pages, key=lambda page: badness(page[0]), reverse=True)[:MOST_DRIVES]
        if progress:
            progress(report)
    run.write_json("health.json", [report.to_dict() for report in reports])
    sections = [*overview(reports), *(part for _, page in pages for part in page)]
    if len(pages) < len(reports):
        sections.append(Text(f"{len(reports) - len(pages)} more drives are in health.json."))
    damaged = sum(not report.ok for report in reports)
    verdict = f"{damaged} of {many(len(reports), 'drive')} damaged." if damaged else "No drive is damaged."
    write_report(run, "Health of the drives", sections, f"{verdict} What was found is named below with its place and "
                 "time, and how to mend it.")
    return reports


def badness(report: HealthReport) -> tuple[int, int]:
    errors, warnings = (sum(f.severity == severity for f in report.findings) for severity in ("error", "warning"))
    return errors, warnings


def overview(reports: Sequence[HealthReport]) -> list[Section]:
    errors, warnings = (sum(badness(report)[k] for report in reports) for k in (0, 1))
    facts = {"drives": len(reports), "sound": sum(report.ok for report in reports), "errors": errors,
             "warnings": warnings}
    if len(reports) == 1:
        return [KeyValues(facts)]
    rows = [[report.log_id, "sound" if report.ok else "damaged", *badness(report),
             ", ".join(sorted(report.kinds() - report.kinds("info"))) or None] for report in reports]
    return [KeyValues(facts), Table(["drive", "verdict", "errors", "warnings", "found"], rows)]


def sections_of(log: Log | None, report: HealthReport) -> list[Section]:
    """One drive: what was found, when each camera and the poses are sound, speeds, the path, the bad moments."""
    parts: list[Section] = [Heading(report.log_id, "" if log is None else facts_of(log)), findings_table(report)]
    if log is None:
        return parts
    parts.append(Timeline(validity(log, report), "seconds from the first pose", "When the poses and each camera can be "
                          "used: what is damaged is invalid in a log made fit, and missing is what was never there."))
    parts += [speed_chart(log), Picture(path_above(log, report), "The path from above, red where poses are damaged.")]
    for finding, images in bad_moments(log, report):
        parts += [Text(f"{finding.where}, {finding.kind}: {finding.message}"),
                  Row([Picture(image, caption, narrow=True) for caption, image in images])]
    return parts


def facts_of(log: Log) -> str:
    seconds, images = (log.end_us - log.start_us) / 1e6, sum(len(log.frames.timestamps_us(c)) for c in log.rig.names)
    return (f"{seconds:.1f} s, {len(log.rig.cameras)} cameras with {images} images, {len(log.ego)} poses, "
            f"{len(log.tracks)} tracks. Licence: {log.licence}.")


def findings_table(report: HealthReport) -> Section:
    rows = [[f.severity, f.kind, f.where,
             None if f.first_us is None else f"{(f.first_us - report.start_us) / 1e6:.2f}\u00a0s",
             f.message, "" if f.severity == "info" else f.mend] for f in report.findings]
    if not rows:
        return Text("Nothing was found: the drive is sound.")
    return Table(["severity", "kind", "where", "first at", "what was found", "how to mend it"], rows)


def speed_chart(log: Log) -> Section:
    """Speed from the poses beside the speed that the recorder gave, if it did."""
    series = {}
    for name, (seconds, speed) in check_speeds(log).items():
        every = max(1, len(seconds) // MOST_POINTS)
        possible = np.where(np.abs(speed) > MOST_MPS, np.nan, speed)  # a jump would flatten all the rest
        series[name] = np.stack([seconds, possible], -1)[::every]
    if not any(np.isfinite(points).all(1).any() for points in series.values()):
        return Text("The poses tell no speed.")
    return Chart(series, "seconds", "m/s", "Speed from the poses" + (" and as reported" if len(series) > 1 else
                                                                     "; the recorder reported none"))
