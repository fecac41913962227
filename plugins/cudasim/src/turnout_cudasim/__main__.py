"""`python -m turnout_cudasim SCRIPT [ARGUMENTS]`: run a script, unchanged, on the simulated device."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import get_args

from . import InstallError, install, reports
from .installing import Mode


def main() -> int:
    """The script's own exit status; 1 if it succeeded but the simulator found something wrong."""
    what = "Run a Python script on a CUDA device that needs no GPU."
    parser = argparse.ArgumentParser(prog="python -m turnout_cudasim", description=what)
    parser.add_argument("--mode", choices=get_args(Mode), help="what the driver does (default: run)")
    parser.add_argument("--arch", help="compute capability to show, as in 80 or 90a (default: 90)")
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    options = parser.parse_args()
    try:
        install(options.mode, arch=options.arch)
    except (InstallError, ValueError) as error:
        parser.exit(2, f"turnout-cudasim: {error}\n")
    sys.argv = [options.script, *options.arguments]
    status = 0
    try:
        if options.module:
            runpy.run_module(options.script, run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(options.script).resolve().parent)
            runpy.run_path(options.script, run_name="__main__")
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        status = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    found = len(reports())
    if found:
        print(f"turnout-cudasim: {found} report{'s' if found > 1 else ''}", file=sys.stderr)
    return status or int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
