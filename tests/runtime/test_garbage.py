"""Both processes of the control plane look for reference cycles seldom."""

import asyncio
import gc
from collections.abc import Iterator
from types import ModuleType

import pytest

from tidegate import __main__ as operator
from tidegate.garbage import CONTAINERS
from tidegate.router import __main__ as router


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize("process", [operator, router])
def test_cycles_are_looked_for_seldom(process: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "run", lambda coroutine: coroutine.close())
    monkeypatch.setattr(operator, "configure_logging", lambda level: None)
    monkeypatch.setattr(router, "configure_logs", lambda level: None)
    monkeypatch.setattr(operator, "load_settings", lambda: operator.Settings.model_construct(log_level="INFO"))
    process.main()
    assert gc.get_threshold()[0] == CONTAINERS
    assert gc.get_freeze_count() > 0
