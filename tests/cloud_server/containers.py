"""What the compose files and the container file say, read as Compose and a builder read them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]  # has no types

from cloud_server import cli

DEPLOY: Final = Path(cli.__file__).parent / "deploy"
ROOT: Final = DEPLOY.parents[1]
CONTAINERFILE: Final = DEPLOY / "Containerfile"
FILES: Final = ("compose.yml", "compose.authority.yml", "compose.elsewhere.yml")
VARIABLE: Final = re.compile(r"\$\{(\w+):\?([^}]*)\}")
Service = dict[str, Any]


def services(name: str, **variables: str) -> dict[str, Service]:
    """Return a file's services, with its variables put in.

    Raises:
        KeyError: for a variable that is not given.
    """
    text = VARIABLE.sub(lambda found: variables[found[1]], (DEPLOY / name).read_text("utf-8"))
    found: dict[str, Service] = yaml.safe_load(text)["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """Return the container file's instructions and their words."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    found = (line.partition(" ") for line in text.splitlines() if line.strip())
    return [(word, rest.strip()) for word, _, rest in found]


def entry_point() -> list[str]:
    """Return the program that a container of the image runs."""
    ((_, words),) = (one for one in instructions() if one[0] == "ENTRYPOINT")
    found: list[str] = json.loads(words)
    return found
