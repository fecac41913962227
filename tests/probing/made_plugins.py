"""Plugins made up for a test: a module and its metadata in a folder, found as any installed one is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

PROVIDER = """
import ctypes, os, signal, sys, time
import turnout
from turnout.device import Device
from turnout.errors import Unavailable

class {kind}(turnout.Provider):
    name = "{name}"
    api = {api}

    def probe(self):
        {probe}

    def supports(self, node, graph, device):
        return turnout.No("it is only here to be probed")

    def compile(self, graph, device, options):
        raise NotImplementedError

@turnout.hookimpl
def turnout_providers():
    return [{kind}()]
"""

FOUND = "return [Device(self.name, description='made up')]"


def provider(name: str, probe: str = FOUND, *, api: int = 1) -> str:
    """The source of a plugin with one provider."""
    return PROVIDER.format(kind="Made", name=name, probe=probe, api=api)


class Site:
    """A folder of plugins, and the command run with it on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        self.folder.mkdir()
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.environment["TURNOUT_CACHE"] = str(folder / "cache")
        # shared by all tests of a run: some environments keep no compiled modules, and each process would compile them anew
        self.environment["PYTHONPYCACHEPREFIX"] = str(folder.parent / "compiled")
        paths = [str(self.folder), *(path for path in sys.path if path)]
        self.environment["PYTHONPATH"] = os.pathsep.join(paths)

    def add(self, name: str, source: str, *, version: str = "1.0", entry_points: str = "", module: str = "") -> None:
        """Installs a plugin whose distribution is `made-NAME`."""
        module = module or f"made_{name}"
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source), "utf-8")
        info = self.folder / f"made_{name}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: made-{name}\nVersion: {version}\n", "utf-8")
        (info / "entry_points.txt").write_text(f"[turnout]\n{entry_points or f'{name} = {module}'}\n", "utf-8")

    def turnout(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the command in a process of its own."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "turnout", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def json(self, *arguments: str, **environment: str) -> Any:
        """Runs the command with --json, and reads what it printed."""
        done = self.turnout(*arguments, "--json", **environment)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)
