"""Make ``papermill notebooks/gate1.ipynb`` work as typed: the result goes to an ignored folder.

Given one path, papermill 2.7 asks for 'OUTPUT_PATH' in a terminal, writes the whole notebook as JSON to a redirected
output, and, with a pipe on standard input, takes the path for the *output* and may overwrite the notebook. It loads the
entry points of the group ``papermill.engine``, such as this module, before it parses its arguments: where papermill's
own command would see one path alone, and that is a notebook of this project, the output path is added here.

Every papermill of this environment loads this module, for any notebook: nothing heavy is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# How many values each option of papermill 2.7 takes; they are no paths.
_VALUES = {
    **dict.fromkeys(("-p", "--parameters", "-r", "--parameters_raw"), 2),
    **dict.fromkeys(("-f", "--parameters_file", "-y", "--parameters_yaml", "-b", "--parameters_base64"), 1),
    **dict.fromkeys(("--engine", "--autosave-cell-every", "-k", "--kernel", "-l", "--language", "--cwd"), 1),
    **dict.fromkeys(("--stdout-file", "--stderr-file", "--log-level"), 1),
    **dict.fromkeys(("--start-timeout", "--start_timeout", "--execution-timeout"), 1),
}
_NO_RUN = {"-h", "--help", "--version", "--help-notebook"}


def __getattr__(name: str) -> type:
    """Make ``CovtokenEngine``, papermill's own engine unchanged, on demand.

    papermill loads this module while its own is half imported: importing papermill at the top would close that circle.
    """
    if name != "CovtokenEngine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from papermill.engines import NBClientEngine

    return type(name, (NBClientEngine,), {"__module__": __name__})


def with_output_path(argv: list[str], root: Path) -> list[str]:
    """Add ``gate_reports/_run/<notebook>.ipynb`` to a command line, or give it unchanged.

    Args:
        argv: as ``sys.argv``, the program first.
        root: the checkout; only notebooks in or below its ``notebooks`` folder are meant.
    """
    if _NO_RUN & set(argv[1:]):
        return argv
    paths = _paths(argv[1:])
    if len(paths) != 1:
        return argv
    notebook = Path(paths[0]).resolve()
    if notebook.suffix != ".ipynb" or not notebook.is_file() or (root / "notebooks").resolve() not in notebook.parents:
        return argv
    target = root / "gate_reports" / "_run" / notebook.name
    # Everything after "--" is a path to papermill; elsewhere an added last argument is one too.
    return [*argv, str(target)]


def _paths(arguments: list[str]) -> list[str]:
    """Give the arguments that are neither options nor values of options."""
    paths: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            paths.extend(rest)
        elif argument.startswith("-") and argument != "-":
            for _ in range(0 if "=" in argument else _VALUES.get(argument, 0)):
                next(rest, None)
        else:
            paths.append(argument)
    return paths


def _is_papermill_command() -> bool:
    """Say whether this is ``papermill …`` or ``python -m papermill …``, not a program that imports papermill."""
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    running_module = getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", "")
    return program.stem == "papermill" or running_module in {"papermill", "papermill.__main__"}


def _prepare() -> None:
    # The kernel named python3 of *this* environment goes first: another one on the machine may lack the package.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    from covtoken.errors import CovtokenError
    from covtoken.paths import project_root

    try:
        extended = with_output_path(sys.argv, project_root())
    except CovtokenError:  # installed without a checkout: there are no notebooks of ours
        return
    if len(extended) > len(sys.argv):
        Path(extended[-1]).parent.mkdir(parents=True, exist_ok=True)
        print(f"covtoken: no output path given, so the executed notebook goes to {extended[-1]}", file=sys.stderr)
        sys.argv = extended


if _is_papermill_command():
    _prepare()
