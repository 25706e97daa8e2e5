"""Make the README's picture: the first screen of a report, drawn by headless Chromium.

python scripts/picture.py runs/code-first/report.html docs/report.png
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, HEIGHT = 1200, 1560


def main(page: str, picture: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                f"--user-data-dir={profile}",
                f"--window-size={WIDTH},{HEIGHT}",
                "--hide-scrollbars",
                f"--screenshot={Path(picture).resolve()}",
                Path(page).resolve().as_uri(),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    print(f"{picture}: {Path(picture).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
