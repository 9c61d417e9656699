"""Shared fixtures. Tests run on one thread: two torch processes of two threads each starve one another."""

from pathlib import Path

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recorded drives, kept beside the checkout and never inside it."""
    path = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the recorded drives in ../shared/data, which are not on this machine")
    return path
