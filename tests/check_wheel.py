"""Check a built wheel: under 1 MB, typed, licensed, without pictures."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

wheel = Path(sys.argv[1])
names = zipfile.ZipFile(wheel).namelist()
problems = [
    name
    for name in names
    if not name.endswith(
        (".py", ".pyi", "py.typed", "METADATA", "WHEEL", "RECORD", ".txt", "LICENSE")
    )
    and not name.startswith("flowercnn/evaluation/page/report.")  # what the report is made of
]
if problems:
    sys.exit(f"{wheel.name} holds files that do not belong: {problems}")
if wheel.stat().st_size > 1_000_000:
    sys.exit(f"{wheel.name} has {wheel.stat().st_size:,} bytes")
if "flowercnn/py.typed" not in names or not any(
    name.endswith("licenses/LICENSE") for name in names
):
    sys.exit(f"{wheel.name} lacks py.typed or LICENSE")
print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {len(names)} files")  # noqa: T201 - its output
