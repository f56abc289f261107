"""The compose files and the container file agree with one another, with nginx.conf and with the program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from cloud_server import cli
from tests.cloud_server.containers import DEPLOY, FILES, ROOT, Service, entry_point, instructions, services

GIVEN: Final = {"FEDLOOM_HOST": "my-server", "FEDLOOM_AUTHORITY_HOST": "authority"}
# What Compose calls a service's settings (compose-spec), as far as these files use them.
SETTINGS: Final = frozenset(
    {
        *("image", "build", "command", "environment", "volumes", "network_mode", "ports", "restart", "healthcheck"),
        *("depends_on", "read_only", "tmpfs", "cap_drop", "security_opt", "stop_grace_period"),
    }
)
CONDITIONS: Final = {"service_started", "service_healthy", "service_completed_successfully"}


def every_service() -> list[tuple[str, str, Service]]:
    return [(file, name, one) for file in FILES for name, one in services(file, **GIVEN).items()]


def own() -> list[tuple[str, list[str]]]:
    """Return the commands that run this program."""
    return [
        (f"{file}: {name}", one["command"])
        for file, name, one in every_service()
        if "command" in one and one.get("image", "fedloom") == "fedloom"
    ]


@pytest.mark.parametrize(("place", "words"), own(), ids=[place for place, _ in own()])
def test_every_command_is_one(place: str, words: list[str]) -> None:
    assert all(isinstance(word, str) for word in words), place
    assert callable(cli.command_line().parse_args(words).run)


def test_settings_are_those_that_compose_knows() -> None:
    for file, name, one in every_service():
        assert set(one) <= SETTINGS, (file, name)
        for other, how in one.get("depends_on", {}).items():
            assert other in services(file, **GIVEN), (file, name)
            assert how["condition"] in CONDITIONS
            waited_for = services(file, **GIVEN)[other]
            assert ("healthcheck" in waited_for) == (how["condition"] == "service_healthy"), (name, other)
            assert how["condition"] != "service_completed_successfully" or waited_for["restart"] == "no"


def test_what_runs_this_program_may_little() -> None:
    for file, name, one in every_service():
        if one.get("image") == "fedloom":
            assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"]), (file, name)
            assert one["security_opt"] == ["no-new-privileges:true"]
            assert "ports" not in one or name in {"web", "authority"}
        assert not one.get("privileged")
    assert ("USER", "fedloom") in instructions()


def test_volumes_are_declared_and_in_the_program_s_folders() -> None:
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # has no types

    folders = {word for _, words in own() for word in re.findall(r"/var/lib/[\w-]+", " ".join(words))}
    made = next(words for word, words in instructions() if "install --directory" in words)
    assert folders == set(re.findall(r"/var/lib/fedloom[\w-]*", made.partition("install")[2]))
    for file in FILES:
        declared = (yaml.safe_load((DEPLOY / file).read_text("utf-8")).get("volumes") or {}).keys()
        used = set()
        for one in services(file, **GIVEN).values():
            for volume in one.get("volumes", []):
                source, target, *_ = volume.split(":")
                if source.startswith("./"):
                    assert (DEPLOY / source).exists() or source == "./authority.json"
                else:
                    used.add(source)
                    assert target.startswith("/var/"), volume
        assert used == set(declared), file


def test_nginx_finds_the_aggregator_and_is_found() -> None:
    """The configuration is the one that is shipped, unchanged: both are in one network, and see the same keys."""
    found = services("compose.yml", **GIVEN)
    nginx, web = found["nginx"], found["web"]
    text = (DEPLOY / "nginx.conf").read_text("utf-8")
    assert nginx["network_mode"] == "service:web"
    (listening,) = (word.removeprefix("--listen=") for word in web["command"] if word.startswith("--listen="))
    assert f"server {listening};" in text
    assert f"https://localhost:{listening.rpartition(':')[2]}/healthz" in web["healthcheck"]["test"][-1]
    (port,) = web["ports"]
    assert f"listen {port.partition(':')[2]} ssl;" in text
    configuration, data = (volume.split(":") for volume in nginx["volumes"])
    assert configuration == ["./nginx.conf", "/etc/nginx/conf.d/default.conf", "ro"]
    assert data[0] in {volume.partition(":")[0] for volume in web["volumes"]}
    assert data[1:] == ["/var/lib/fedloom", "ro"]
    assert set(re.findall(r"/var/lib/[\w-]+", text)) == {data[1]}
    assert f"--trusted-proxy={listening.partition(':')[0]}" in web["command"]


def test_the_database_has_no_port_and_its_socket_is_where_it_is_looked_for() -> None:
    found = services("compose.yml", **GIVEN)
    database, prepare = found["database"], found["prepare"]
    assert "ports" not in database
    assert "listen_addresses=" in database["command"]
    url = prepare["command"][2]
    names = database["environment"]
    assert url == f"postgresql://{names['POSTGRES_USER']}@/{names['POSTGRES_DB']}?host=/var/run/postgresql"
    for name in ("database", "prepare", "web", "driver"):
        assert "database-socket:/var/run/postgresql" in found[name]["volumes"], name
    assert "database-socket" not in str(found["nginx"])


def test_an_authority_elsewhere_changes_nothing_else() -> None:
    base, changed = services("compose.yml", **GIVEN), services("compose.elsewhere.yml", **GIVEN)
    *same, authority = changed["web"]["command"]
    assert same == base["web"]["command"]
    (volume,) = changed["web"]["volumes"]
    assert authority == f"--authority={volume.split(':')[1]}"
    assert base["driver"]["network_mode"] == "none"
    assert changed["driver"] == {"network_mode": "bridge"}


def test_the_image_is_made_of_what_the_program_needs(tmp_path: Path) -> None:
    """A wheel is built from nothing but what the container file copies, and has the program and its data."""
    copied = [words.split() for word, words in instructions() if word == "COPY" and "--from" not in words]
    for *sources, target in copied:
        for source in sources:
            into = tmp_path / target / source.rpartition("/")[2] if target.endswith("/") else tmp_path / target
            into.parent.mkdir(parents=True, exist_ok=True)
            one = ROOT / source
            if one.is_dir():
                shutil.copytree(one, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(one, into)
    (requirements,) = (words.rpartition(" ")[2] for _, words in instructions() if "--require-hashes" in words)
    assert (tmp_path / requirements).is_file()
    program = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()[-1]
    with zipfile.ZipFile(tmp_path / built) as wheel:
        names = wheel.namelist()
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        scripts = wheel.read(points).decode()
    assert f"{entry_point()[0].rpartition('/')[2]} = " in scripts
    for part in ("dashboard/templates/base.html", "dashboard/texts/zh.json", "storage/migrations", "deploy/nginx.conf"):
        assert any(f"cloud_server/{part}" in name for name in names), part
