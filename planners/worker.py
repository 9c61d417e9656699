"""The other end of ``planners.isolated``: makes one planner and answers until its parent closes the pipe.

Messages come by stdin and go by the original stdout; what the planner itself prints goes to stderr.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from drive_wm.planners.base import Planner, check_plan
from drive_wm.planners.messages import LENGTH, pack, unpack
from drive_wm.planners.registry import make_planner
from drive_wm.types import InputError, RoadMap


class Worker:
    def __init__(self) -> None:
        self.planner: Planner | None = None
        self.map: RoadMap | None = None

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["do"] == "make":
            return self._make(message["spec"], message["options"])
        if self.planner is None:
            raise InputError("no planner was made")
        if message["do"] == "reset":
            self.planner.reset(message["seed"], None)
            return {}
        observation = message["observation"]
        self.map = self.map if message["same_map"] else observation.map
        return {"plan": check_plan(self.planner.plan(replace(observation, map=self.map)))}

    def _make(self, spec: str, options: dict[str, Any]) -> dict[str, Any]:
        file = Path(spec.rpartition(":")[0])
        if file.suffix == ".py":
            sys.path.insert(0, str(file.resolve().parent))  # the planner's own helpers lie beside it
        made = self.planner = make_planner(spec, isolate=False, **options)
        return {"name": made.name, "requires": sorted(made.requires), "oracle": made.oracle,
                "history_steps": made.history_steps, "rate_hz": made.rate_hz}


def one_line(error: BaseException, spec: str) -> str:
    """What went wrong, and where in the planner's own file."""
    file = Path(spec.rpartition(":")[0])
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == file.name]
    where = f" ({file.name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    worker, spec = Worker(), ""
    while head := source.read(LENGTH.size):
        message = unpack(source.read(LENGTH.unpack(head)[0]))
        spec = message.get("spec", spec)
        try:
            answer = pack(worker.answer(message))
        except Exception as error:  # the parent reports it; the next drive is asked for as ever
            answer = pack({"error": one_line(error, spec)})
        sink.write(answer)
        sink.flush()


def main() -> None:
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a planner's print must not stand among the messages
    serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
