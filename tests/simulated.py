"""The synthetic studies of `scripts/simulations`, so that tests and the script in full speak of the same ones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parents[1] / "scripts" / "simulations"


def script(name: str) -> ModuleType:
    known = sys.modules.get(f"simulations_{name}")
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(f"simulations_{name}", SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made
