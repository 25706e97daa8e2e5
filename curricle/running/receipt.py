"""What a session of training ran on: the versions and the machine."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curricle import __version__
from curricle.store import read_json

if TYPE_CHECKING:
    from curricle.training.distribution import Ranks


def receipt(ranks: Ranks) -> dict[str, Any]:
    """Where a session of training began: bit for bit holds where these agree."""
    import numpy
    import torch
    import transformers

    on_gpu = ranks.device.type == "cuda"
    return {
        "curricle": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "ranks": ranks.size,
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else "cpu",
        "cpu": cpu_name(),
        "cpu_features": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "system": platform.system(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def sessions(run: Path) -> list[dict[str, Any]]:
    """The sessions of training that a run's folder tells of, first to last; those that made what it took over from
    another run say `adopted_from`."""
    file = run / "receipt.json"
    return read_json(file)["sessions"] if file.exists() else []


def cpu_name() -> str:
    """What the maker calls this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())
