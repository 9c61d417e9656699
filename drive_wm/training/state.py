"""Training state on disk: safetensors + JSON, written whole or not at all; nothing in it is unpickled."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drive_wm.types import InputError

FORMAT = "drive_wm.training@1"


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments by parameter index; its hyperparameters follow from the step and the run's config."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def save_state(folder: Path, step: int, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer,
               meta: dict[str, Any]) -> None:
    """Writes ``folder/step-N`` and then points ``folder/last.json`` to it; the one before is deleted after that."""
    from safetensors.torch import save_file

    target, temporary = folder / f"step-{step}", folder / f".step-{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    parts = {"model": model.state_dict(), "ema": ema.state_dict(), "optimizer": _optimizer_tensors(optimizer)}
    for name, tensors in parts.items():
        copies = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(copies, str(temporary / f"{name}.safetensors"))
    (temporary / "state.json").write_text(json.dumps({"format": FORMAT, "step": step, **meta}, indent=1))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    pointer = folder / "last.tmp"
    pointer.write_text(json.dumps({"state": target.name}))
    os.replace(pointer, folder / "last.json")
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old)


def last_state(folder: Path) -> Path | None:
    pointer = folder / "last.json"
    return folder / json.loads(pointer.read_text())["state"] if pointer.exists() else None


def load_state(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Fills model, ema and optimizer in place and returns the metadata. Raises InputError if it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        meta: dict[str, Any] = json.loads((path / "state.json").read_text())
        model.load_state_dict(load_file(str(path / "model.safetensors")))
        ema.load_state_dict(load_file(str(path / "ema.safetensors")))
        if optimizer is not None:
            _load_optimizer(optimizer, load_file(str(path / "optimizer.safetensors")))
    except (OSError, SafetensorError, json.JSONDecodeError, RuntimeError) as error:
        raise InputError(f"{path}: the training state cannot be read ({str(error).splitlines()[0]}); "
                         "delete it to start anew") from None
    return meta


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)


class CsvLog:
    """metrics.csv, one row a logged step. A resumed run drops the rows past its start, so that none stands twice."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        kept: list[dict[str, str]] = []
        if path.exists() and resume_step > 0:
            with path.open() as f:
                reader = csv.DictReader(f)
                self.columns = list(reader.fieldnames or [])
                kept = [row for row in reader if int(row["step"]) < resume_step]
        self._rewrite(kept)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as f:
            writer = csv.DictWriter(f, self.columns or ["step"])
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)

    def add(self, row: dict[str, float]) -> None:
        if set(row) - set(self.columns):
            with self.path.open() as f:
                rows = list(csv.DictReader(f))
            self.columns = list(dict.fromkeys([*self.columns, *row]))
            self._rewrite(rows)
        with self.path.open("a", newline="") as f:
            csv.DictWriter(f, self.columns).writerow({k: f"{v:.8g}" for k, v in row.items()})
