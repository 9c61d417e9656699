"""`drive-wm language` from beginning to end, with the shipped checkpoint on one moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drive_wm.eval.language import language
from drive_wm.types import InputError


def test_only_the_town_knows_true_causes(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="true causes are known in the town alone"):
        language(f"drive_folder:{shared_data / 'drives'}", tmp_path / "run", moments=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_moment_gives_all_tables_and_a_report(tmp_path: Path) -> None:
    tables = language("town:110005", tmp_path / "run", moments=1)
    assert set(tables) == {"answers", "consistency", "faithful_to_the_world", "faithful_to_itself", "deletion"}
    assert {row["kind"] for row in tables["answers"]} == {"perception", "prediction", "planning", "explanation"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["complete"] and summary["results"]["moments"] == 1
    assert "faithful to the world" in (tmp_path / "run" / "report.html").read_text()
    (moment,) = json.loads((tmp_path / "run" / "moments.json").read_text())
    assert moment["course"] in ("hold", "stop", "slow down", "proceed", "speed up")
