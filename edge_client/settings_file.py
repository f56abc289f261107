"""The owner's settings on the disk: ``agent.toml``, read whenever it changed and written without losing comments."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_client.durable import write_durably
from edge_client.settings import OFF, RULES, Settings, as_values, checked, from_values, unknown_key
from edge_client.state_folder import StateFolder
from shared.errors import UsageError

_HEAD = re.compile(r"^\s*\[\s*(?P<name>[^\[\]]+?)\s*\]\s*(#.*)?$")
_COMMENT = re.compile(r"""^(?:[^"'#]|"[^"]*"|'[^']*')*(?P<comment>\s+#.*)$""")
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class SettingsFile:
    """Where the owner's settings are.

    Attributes:
        path: of the file.
        required: whether it must be there, because the owner named it.
    """

    path: Path
    required: bool = False

    @classmethod
    def of(cls, folder: StateFolder, given: Path | None) -> SettingsFile:
        """Return the file that a command means: the one it was given, or the one in the state folder."""
        return cls(folder.settings_file) if given is None else cls(given, required=True)

    def read(self) -> Settings:
        """Return the settings; the defaults where there is no file.

        Raises:
            UsageError: ``settings-unreadable``, or ``bad-settings`` with the line or the key.
        """
        return from_values(self.values(), str(self.path))

    def values(self) -> dict[str, Any]:
        """Return what the file says, section by section; raises as ``read``."""
        return _parsed(self._bytes(), self.path)

    def stamp(self) -> tuple[int, ...] | None:
        """Return what changes with the file, None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _bytes(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            if not self.required:
                return b""
            raise _unreadable(self.path, "it is not there") from None
        except OSError as error:
            raise _unreadable(self.path, (error.strerror or type(error).__name__).lower()) from error
        if len(data) > _MAX_BYTES:
            raise _unreadable(self.path, f"it has more than {_MAX_BYTES} bytes")
        return data

    def change(self, name: str, text: str) -> bool:
        """Set one key, in one step that is on the disk when this returns; say whether comments were kept.

        Args:
            name: ``section.key``.
            text: the value, as typed.

        Raises:
            UsageError: as ``read``, for the file as it would become; it then stays as it is.
            TryLater: ``disk-write-failed``.
        """
        if name not in RULES:
            raise unknown_key(name)
        value = _typed(name, text)
        checked(name, value, "config set")
        before = b"" if not self.path.exists() else self._bytes()
        values = _parsed(before, self.path)
        section, _, key = name.partition(".")
        wanted = {**values, section: {**values.get(section, {}), key: value}}
        from_values(wanted, str(self.path))
        after = _edited(before.decode(), section, key, _toml(value))
        kept = _is(after, wanted)
        if not kept:  # dotted keys, tables in one line, values over several lines
            after = _written(wanted)
        write_durably(self.path, after.encode(), self._mode())
        return kept

    def _mode(self) -> int:
        return self.path.stat().st_mode & 0o777 if self.path.exists() else 0o600

    def report(self) -> list[dict[str, Any]]:
        """Return every setting: key, value, default, unit, allowed, about and where its value comes from."""
        values = self.values()
        now, defaults = as_values(from_values(values, str(self.path))), as_values(Settings())
        given = {f"{section}.{key}" for section, keys in values.items() for key in keys}
        return [
            {
                "key": name,
                "value": now[name],
                "default": defaults[name],
                "unit": rule.unit,
                "allowed": rule.allowed,
                "about": rule.about,
                "from": str(self.path) if name in given else "default",
            }
            for name, rule in RULES.items()
        ]


def _parsed(data: bytes, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError("bad-settings", f"{path}: line {line} is not UTF-8.", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        told = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        told = told.replace("at end of document", f"at line {len(data.splitlines())}, the end")
        raise UsageError(
            "bad-settings",
            f"{path} is not TOML: {told}.",
            'write lines such as hours = "22:00-07:00" below [train]; `fedloom-agent config` lists all keys',
        ) from error


def _unreadable(path: Path, why: str) -> UsageError:
    return UsageError(
        "settings-unreadable",
        f"The settings in {path} cannot be read: {why}.",
        "let the agent's user read that file, or give another one with --config",
    )


def _typed(name: str, text: str) -> str | bool | float:
    kind = RULES[name].kind
    if kind == "flag" and text in {"true", "false"}:
        return text == "true"
    if kind == "number" and text != OFF:
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if number.is_integer() else number
    return text


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _edited(text: str, section: str, key: str, value: str) -> str:
    """Return the file with one line changed or added."""
    lines, inside, end = text.splitlines(), False, None
    for number, line in enumerate(lines):
        if head := _HEAD.match(line):
            inside = head["name"] == section
        if inside and re.match(rf"^\s*{re.escape(key)}\s*=", line):
            comment = _COMMENT.match(line)
            lines[number] = f"{key} = {value}{comment['comment'] if comment else ''}"
            return "\n".join(lines) + "\n"
        if inside and line.strip():
            end = number + 1
    if end is None:
        lines += [*([""] if lines else []), f"[{section}]"]
        end = len(lines)
    lines.insert(end, f"{key} = {value}")
    return "\n".join(lines) + "\n"


def _is(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except ValueError:
        return False


def _written(values: Mapping[str, Any]) -> str:
    lines = []
    for section, keys in values.items():
        lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in keys.items()), ""]
    return "\n".join(lines)
