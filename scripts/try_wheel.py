"""Build the wheel, install it into a clean environment, and plan the study that ships: no checkout beside it.

python scripts/try_wheel.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run = lambda *command: subprocess.run([str(c) for c in command], check=True, cwd=place)  # noqa: E731
        run(sys.executable, "-m", "venv", "env")
        pip = [place / "env/bin/python", "-m", "pip", "--disable-pip-version-check", "-q"]
        run(*pip, "wheel", "--no-deps", "--wheel-dir", place, TOP)
        (wheel,) = place.glob("curricle-*.whl")
        run(*pip, "install", "--constraint", TOP / "constraints.txt", wheel)
        run(place / "env/bin/curricle", "plan", "code-first")
        run(place / "env/bin/curricle", "plan", "deepseekmath-7b", "--json")
        run(place / "env/bin/curricle", "gain", "--published")
    print(f"{wheel.name} works in a clean environment")


if __name__ == "__main__":
    main()
