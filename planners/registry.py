"""From a name to an object: a visible table, a class by its path, or a third party's entry point."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from drive_wm.planners.base import Planner
from drive_wm.types import InputError

PLANNERS: dict[str, str] = {
    "stationary": "drive_wm.planners.baselines:Stationary",
    "constant_velocity": "drive_wm.planners.baselines:ConstantVelocity",
    "log_replay": "drive_wm.planners.baselines:LogReplay",
    "idm": "drive_wm.planners.idm:IdmPlanner",
    "pdm_closed": "drive_wm.planners.pdm_closed:PdmClosed",
    "ego_status": "drive_wm.planners.ego_status:EgoStatusPlanner",
    "camera": "drive_wm.planners.camera:CameraPlanner",
    "direct": "drive_wm.planners.direct:DirectPlanner",
    "imagine": "drive_wm.planners.imagine:ImaginePlanner",
}
CHECKPOINT_PLANNERS = ("direct", "imagine")


def make_planner(name_or_path: str, *, isolate: bool | None = None, timeout_s: float | None = None,
                 **options: Any) -> Planner:
    """A planner by name, as ``package.module:Class`` or as ``file.py:Class``; options go to its constructor.

    ``alpasim:HOST:PORT`` is an egodriver that serves AlpaSim's contract there.
    isolate: in a process of its own, where it may take timeout_s an answer (30 s if not given); by default so for a
    ``file.py:Class``, or where a time limit is given for what is not built in. Close it when done.
    """
    if name_or_path.startswith("alpasim:"):  # a process of its own already, of anyone's
        from drive_wm.planners.alpasim import AlpasimPlanner

        return AlpasimPlanner.named(name_or_path, timeout_s=timeout_s, **options)
    if isolate is None:
        foreign = ":" in name_or_path or name_or_path not in PLANNERS
        isolate = ".py:" in name_or_path or (foreign and timeout_s is not None)
    if isolate:
        from drive_wm.planners.isolated import TIMEOUT_S, IsolatedPlanner

        return IsolatedPlanner(name_or_path, options, TIMEOUT_S if timeout_s is None else timeout_s)
    planner: Planner = make(name_or_path, PLANNERS, Planner, "planner", "drive_wm.planners", options)
    return planner


def takes_checkpoint(name_or_path: str) -> bool:
    """Whether it is one of ours that plans with the world model, and so takes ``checkpoint=``."""
    return name_or_path in CHECKPOINT_PLANNERS


def make(name_or_path: str, table: Mapping[str, str], base: type, kind: str, group: str,
         options: Mapping[str, Any]) -> Any:
    """An instance of the subclass of ``base`` that the table, the entry points of ``group`` or a path names."""
    known = {**table, **_plugins(table, group)}
    path = known.get(name_or_path, name_or_path)
    if ":" not in path:
        near = difflib.get_close_matches(name_or_path, known, n=1, cutoff=0.0)
        raise InputError(f"unknown {kind} {name_or_path!r}; did you mean {near[0]!r}? "
                         f"Known: {', '.join(sorted(known))}; or give package.module:Class or file.py:Class")
    found = _load(path, kind)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{kind} {name_or_path!r}: {path} is not a subclass of {base.__module__}.{base.__name__}")
    try:
        return found(**options)
    except TypeError as error:
        raise InputError(f"{kind} {name_or_path!r} does not take the options {sorted(options)}: {error}") from error


def _plugins(table: Mapping[str, str], group: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for point in entry_points(group=group):
        if point.name in table or found.get(point.name, point.value) != point.value:
            raise InputError(f"entry point {point.value!r} of group {group}: the name {point.name!r} is already taken")
        found[point.name] = point.value
    return found


def _load(path: str, kind: str) -> Any:
    module_name, _, attribute = path.rpartition(":")
    try:
        module = _load_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{kind} {path!r}: cannot import {error.name}") from error
    if not hasattr(module, attribute):
        raise InputError(f"{kind} {path!r}: {module_name} has no {attribute!r}")
    return getattr(module, attribute)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"no file {path}, expected a Python file with the class")
    spec = importlib.util.spec_from_file_location(f"drive_wm_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise InputError(f"{path}{line}: {type(error).__name__}: {error}") from error
    return module
