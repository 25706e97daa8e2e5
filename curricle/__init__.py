"""Curricle: a laboratory for pre-training strategy.

    study = curricle.load_study("study.yaml")
    plan = curricle.make_plan(study)
    results = curricle.run(plan)
    findings = curricle.analyse(results)

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load_study": "curricle.studyfile",
    "Study": "curricle.study",
    "Stage": "curricle.study",
    "Recipe": "curricle.study",
    "Refused": "curricle.study",
    "Store": "curricle.store",
    "make_plan": "curricle.running.preparation",
    "Plan": "curricle.planning",
    "run": "curricle.running.runner",
    "Results": "curricle.results",
    "analyse": "curricle.analysis",
    "Finding": "curricle.analysis",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'curricle' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
