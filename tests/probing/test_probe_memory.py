"""A probe that came back once is not run in a child process again, until something that it depends on changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_plugins import Site, provider

NOTE = "open(os.environ['NOTES'], 'a').write(str(os.getpid()) + chr(10)); return [Device(self.name)]"


def probes(site: Site, notes: Path) -> int:
    """How many processes probed in one run of the command."""
    notes.write_text("")
    done = site.turnout("devices", NOTES=str(notes))
    assert "noted:0" in done.stdout
    return len(set(notes.read_text().split()))


def test_the_first_probe_runs_in_a_child_first_and_later_ones_do_not(site: Site, tmp_path: Path) -> None:
    site.add("noted", provider("noted", NOTE))
    assert probes(site, tmp_path / "notes") == 2
    assert probes(site, tmp_path / "notes") == 1
    assert probes(site, tmp_path / "notes") == 1


def test_a_new_version_of_the_plugin_is_tried_in_a_child_again(site: Site, tmp_path: Path) -> None:
    site.add("noted", provider("noted", NOTE), version="1.0")
    probes(site, tmp_path / "notes")
    site.add("noted", provider("noted", NOTE), version="1.1")
    assert probes(site, tmp_path / "notes") == 2
    assert probes(site, tmp_path / "notes") == 1


def test_so_is_a_new_version_of_its_driver(site: Site, tmp_path: Path) -> None:
    versions = "\n    def versions(self):\n        return {'driver': os.environ.get('DRIVER', '1')}\n"
    source = provider("noted", NOTE).replace("\n    def supports", f"{versions}\n    def supports")
    site.add("noted", source)
    assert probes(site, tmp_path / "notes") == 2
    assert probes(site, tmp_path / "notes") == 1
    site.environment["DRIVER"] = "2"
    assert probes(site, tmp_path / "notes") == 2


def test_a_reason_counts_as_coming_back(site: Site, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    site.add("noted", provider("noted", NOTE.replace("return [Device(self.name)]", "raise Unavailable('no card here')")))
    for processes in (2, 1):
        notes.write_text("")
        assert "noted: no card here" in site.turnout("devices", NOTES=str(notes)).stdout
        assert len(set(notes.read_text().split())) == processes


def test_a_crash_is_not_remembered(site: Site, tmp_path: Path) -> None:
    site.add("noted", provider("noted", "os._exit(int(os.environ['DIE'])) if 'DIE' in os.environ else None; " + NOTE))
    assert "exit status 9" in site.turnout("devices", DIE="9").stdout
    assert probes(site, tmp_path / "notes") == 2


def test_a_hang_costs_its_time_limit_once_and_doctor_tries_again(site: Site, tmp_path: Path) -> None:
    site.add("noted", provider("noted", "time.sleep(60) if 'HANG' in os.environ else None; " + NOTE))

    def said(command: str = "devices", seconds: str = "0.2") -> str:
        return site.turnout(command, HANG="1", NOTES=str(tmp_path / "notes"), TURNOUT_PROBE_SECONDS=seconds).stdout

    assert "did not come back within 0.2 s" in said()
    assert "is not tried again within an hour" in said()
    assert "is not tried again" not in said(seconds="0.3")  # more time may be all that it wants
    assert "is not tried again" in said()
    assert "is not tried again" not in said("doctor")
    site.turnout("doctor", NOTES=str(tmp_path / "notes"))
    assert probes(site, tmp_path / "notes") == 1


@pytest.mark.parametrize("content", ['{"not": "seconds"}', "[1]", '{"a": [1, "b"]}', "{"])
def test_a_memory_of_hangs_that_cannot_be_read_counts_as_none(site: Site, tmp_path: Path, content: str) -> None:
    site.add("noted", provider("noted", NOTE))
    (tmp_path / "cache" / "hangs.json").write_text(content)
    assert probes(site, tmp_path / "notes") == 2


def test_a_memory_that_cannot_be_read_or_written_costs_only_a_child(site: Site, tmp_path: Path) -> None:
    site.add("noted", provider("noted", NOTE))
    (tmp_path / "cache" / "probes.json").write_text('{"not": "a list"')
    assert probes(site, tmp_path / "notes") == 2
    assert probes(site, tmp_path / "notes") == 1
    site.environment["TURNOUT_CACHE"] = str(tmp_path / "notes")  # a file, so no folder can be made of it
    assert probes(site, tmp_path / "notes") == 2
