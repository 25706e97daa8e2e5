"""What the tests share: the tiny study, as a file and as a value."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tiny_study import tiny, write_study

from curricle.study import Study

# A test asserts no time, neither its own nor that of drawing its examples.
settings.register_profile("curricle", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("curricle")


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    return write_study(tmp_path, tiny())


@pytest.fixture
def study(study_file: Path) -> Study:
    from curricle.studyfile import load_study

    return load_study(study_file)
