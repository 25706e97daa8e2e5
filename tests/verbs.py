"""`curricle VERB …` in this process: what a shell would see, without importing everything once more."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from curricle import cli

HUNG_SECONDS = 20 * 60  # a process that is waited for so long hangs; far more than a busy machine takes


def curricle(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Exit code, output and errors of the verb, called in the folder `cwd`."""
    said, wrong = io.StringIO(), io.StringIO()
    words = ["curricle", *map(str, arguments)]
    code: object = 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, {"COLUMNS": "100"}),
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(wrong),
    ):
        try:
            cli.main()
        except SystemExit as left:
            code = left.code
    return subprocess.CompletedProcess(words, int(code or 0), said.getvalue(), wrong.getvalue())
