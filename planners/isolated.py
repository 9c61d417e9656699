"""A planner in a process of its own, with a time limit: whatever it does, the evaluation goes on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drive_wm.planners.base import Planner, check_plan
from drive_wm.planners.messages import LENGTH, MOST_BYTES, pack, unpack
from drive_wm.types import InputError, Log, Observation, Plan, RoadMap

START_S = 60.0  # for imports and weights
TIMEOUT_S = 30.0


class PlannerError(RuntimeError):
    """What a planner in another process did wrong, in one line that names it."""


class IsolatedPlanner(Planner):
    """Speaks for ``spec`` ("file.py:Class" or any name make_planner takes), which runs in a spawned Python.

    timeout_s: wall seconds an answer may take; one that takes longer ends the process, and the next drive starts a new
    one, as it does after a planner that died. Raises InputError where the planner cannot be made at all.
    """

    def __init__(self, spec: str, options: Mapping[str, Any] | None = None, timeout_s: float = TIMEOUT_S) -> None:
        if not timeout_s > 0:
            raise InputError(f"the time limit of a planner is {timeout_s:g} s, expected more than 0")
        self.spec, self.options, self.timeout_s = spec, dict(options or {}), timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._map: RoadMap | None = None  # of the last drive: it is sent once
        try:
            facts = self._start()
        except PlannerError as error:
            raise InputError(str(error)) from None
        if facts.pop("oracle"):
            self.close()
            raise InputError(f"planner {spec}: an oracle reads the log and cannot run in a process of its own; "
                             "give it as package.module:Class")
        vars(self).update({**facts, "requires": frozenset(facts["requires"])})

    def reset(self, seed: int, log: Log | None = None) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._ask({"do": "reset", "seed": seed}, self.timeout_s)

    def plan(self, observation: Observation) -> Plan:
        same = observation.map is not None and observation.map is self._map
        self._map = observation.map
        sent = replace(observation, map=None) if same else observation
        answer = self._ask({"do": "plan", "observation": sent, "same_map": same}, self.timeout_s)
        return check_plan(answer["plan"])

    def close(self) -> None:
        """Ends the process; a later ``reset`` starts another."""
        if self._process is not None:
            self._end()
            self._process = None

    def _start(self) -> dict[str, Any]:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._map = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "drive_wm.planners.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths}, start_new_session=True)
        self._end = weakref.finalize(self, _kill, self._process)
        return self._ask({"do": "make", "spec": self.spec, "options": self.options}, START_S)

    def _ask(self, message: dict[str, Any], limit_s: float) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            raise PlannerError(f"planner {self.spec}: its process is not running")
        assert self._process.stdin is not None and self._process.stdout is not None
        until = time.monotonic() + limit_s
        try:
            self._process.stdin.write(pack(message))
            self._process.stdin.flush()
            fd = self._process.stdout.fileno()
            length = LENGTH.unpack(_read(fd, LENGTH.size, until))[0]
            if length > MOST_BYTES:
                raise PlannerError(f"planner {self.spec}: answered with {length} bytes")
            answer: dict[str, Any] = unpack(_read(fd, length, until))
        except TimeoutError:
            self.close()
            raise PlannerError(f"planner {self.spec}: no answer within {limit_s:g} s") from None
        except (EOFError, BrokenPipeError):
            how = _ending(self._process)
            self.close()
            raise PlannerError(f"planner {self.spec}: its process ended ({how})") from None
        if "error" in answer:
            raise PlannerError(f"planner {self.spec}: {answer['error']}")
        return answer


def _read(fd: int, count: int, until: float) -> bytes:
    """Exactly ``count`` bytes; raises TimeoutError or EOFError."""
    parts: list[bytes] = []
    while count:
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        return "it closed its output"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it is gone already
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # bytes that nobody will read


__all__ = ["TIMEOUT_S", "IsolatedPlanner", "PlannerError"]
