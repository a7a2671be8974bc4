"""Say what is installed, what is missing and the line that installs it; without PyTorch, so at once."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import typer

import covtoken
from covtoken.cli.options import JsonOption, QuietOption, print_json, say
from covtoken.errors import CovtokenError

NEEDED = ("torch", "timm", "numpy", "scipy", "nibabel", "pillow", "faiss-cpu", "safetensors", "typer", "rich")
EXTRAS = {
    "pydicom": ("dicom", "reads DICOM"),
    "onnx": ("weights", "converts the embedded weights, once"),
    "jupyter-book": ("book", "builds the paper"),
    "pytest": ("test", "runs the tests"),
}


def doctor(quiet: QuietOption = False) -> None:
    """Check this installation: packages, weights, data, cache; say what is missing and the line that gets it.

    Exit code 1: something that covtoken cannot do without is missing.
    """
    found = about()
    say(f"covtoken {found['covtoken']}, Python {found['python']}, {found['platform']}")
    ill = False
    for name, number in found["packages"].items():
        if number is None:
            ill = True
            say(f"MISSING  {name}: pip install {name}")
    say(f"ok       {sum(n is not None for n in found['packages'].values())} of {len(NEEDED)} packages that it needs")
    for name, each in found["extras"].items():
        state = "ok      " if each["version"] else "absent  "
        more = f" {each['version']}" if each["version"] else f": {each['install']}"
        say(f"{state} {name}, {each['what']}{more}")
    for name, each in found["weights"].items():
        say(f"{'ok      ' if each['found'] else 'absent  '} weights {name}: {each['found'] or each['install']}")
    embedded = found["weights"]["embedded"]
    if str(embedded["found"]).endswith(".onnx") and found["extras"]["onnx"]["version"] is None:
        ill = True
        say("MISSING  onnx, which converts the embedded weights once: pip install onnx")
    cache = found["cache"]
    size = f"{cache['bytes'] / 1e9:.2f} GB in {cache['files']} files" if cache["files"] else "empty"
    say(f"{'ok      ' if cache['writable'] else 'MISSING '} cache {cache['folder']}: {size}")
    if not cache["writable"]:
        ill = True
        say("         give it write permission, or set COVTOKEN_CACHE to another folder")
    data = found["data"]
    here = ", ".join(data["found"]) or "nothing"
    say(f"{'ok      ' if data['root'] else 'absent  '} data: {here} under COVTOKEN_DATA = {data['root'] or 'not set'}")
    checkout = found["checkout"]
    say(f"ok       checkout {checkout}" if checkout else "absent   checkout: gates need one, maps do not")
    ill = ill or embedded["found"] is None
    say("next: " + ("the lines above" if ill else "covtoken map -i pictures -o maps --modality ultrasound"))
    if ill:
        raise typer.Exit(1)


def info(as_json: JsonOption = False) -> None:
    """Print the version, packages, folders, weights and data of this installation, for a report of a problem."""
    found = about()
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if isinstance(value, dict):
            for key, each in value.items():
                say(f"{name}.{key}: {each if not isinstance(each, list) else ', '.join(each)}")
        else:
            say(f"{name}: {value}")


def about() -> dict[str, Any]:
    """Look at this installation without importing what is heavy; JSON content, None where something is absent."""
    from covtoken.backbone.places import INSTALL_EMBEDDED, weights_found
    from covtoken.data.fetch.data_sets import DATA_SETS, place_of
    from covtoken.paths import cache_root, data_root, project_root

    cache, root = cache_root(), data_root()
    try:
        checkout = str(project_root())
    except CovtokenError:
        checkout = None
    return {
        "covtoken": covtoken.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "executable": sys.executable,
        "checkout": checkout,
        "packages": {name: _version(name) for name in NEEDED},
        "extras": {
            name: {"what": what, "version": _version(name), "install": f"pip install {_wanted(name)}"}
            for name, (extra, what) in EXTRAS.items()
        },
        "cache": {"folder": str(cache), "writable": _writable(cache), **_size(cache)},
        "weights": {
            name: {
                "found": None if file is None else str(file),
                "install": INSTALL_EMBEDDED if name == "embedded" else f"covtoken weights fetch {name}",
            }
            for name, file in weights_found().items()
        },
        "data": {
            "root": None if root is None else str(root),
            "found": [name for name, each in DATA_SETS.items() if place_of(each, root) is not None],
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _wanted(name: str) -> str:
    """Write what pip shall install, with the bounds that covtoken's own metadata gives."""
    try:
        lines = [line.partition(";")[0].strip() for line in requires("covtoken") or []]
    except PackageNotFoundError:
        lines = []
    bound = next((line for line in lines if re.match(rf"{re.escape(name)}\b(?!-)", line)), name)
    return f"'{bound}'" if re.search("[<>=]", bound) else bound


def _writable(folder: Path) -> bool:
    place = next(place for place in (folder, *folder.parents) if place.exists())
    return place.is_dir() and os.access(place, os.W_OK)


def _size(folder: Path) -> dict[str, int]:
    files, size = 0, 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_size
                files += 1
            except OSError:
                continue  # removed meanwhile
    return {"files": files, "bytes": size}
