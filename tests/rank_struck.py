"""What torchrun starts in `test_many_ranks`: `curricle`, whose second rank lingers over its plan until it is struck.

Each rank leaves its exit code in a file, since torchrun does not say it.
"""

import os
import sys
import time
from pathlib import Path

from curricle import cli
from curricle.commands import training

rank = os.environ["RANK"]
planned = training.planned


def lingering(*arguments):
    made = planned(*arguments)
    Path("lingers").touch()
    time.sleep(600)
    return made


if rank == "1":
    training.planned = lingering
try:
    cli.main()
except SystemExit as left:
    Path(f"left-{rank}").write_text(str(left.code))
    sys.exit(left.code)
