"""A real nginx with the configuration that is shipped, for tests; Debian's package ``nginx-light`` has it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloud_server import cli
from tests.e2e.servers import wait_for
from tests.shipped import with_places

SHIPPED: Final = Path(cli.__file__).parent / "deploy" / "nginx.conf"
_MAIN: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/fedloom.conf;
}}
"""


def configure(folder: Path, keys: Path, port: int, upstream_port: int) -> list[str]:
    """Write the shipped configuration with this machine's places into ``folder``, and return nginx's command."""
    changes = {
        "listen [::]:443 ssl;": "",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "127.0.0.1:8443;\n    keep": f"127.0.0.1:{upstream_port};\n    keep",
        "/var/lib/fedloom/keys": str(keys),
    }
    (folder / "fedloom.conf").write_text(with_places(SHIPPED, changes), "utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "main.conf").write_text(_MAIN.format(folder=folder, user=user), "utf-8")
    return ["nginx", "-p", str(folder), "-c", str(folder / "main.conf"), "-e", str(folder / "error.log")]


@contextmanager
def nginx(folder: Path, keys: Path, port: int, upstream_port: int) -> Iterator[None]:
    """Run nginx in front of an aggregator until the block ends."""
    folder.mkdir()
    process = subprocess.Popen(configure(folder, keys, port, upstream_port))
    try:
        wait_for(lambda: process.poll() is not None or (folder / "nginx.pid").exists(), "nginx to start")
        assert process.poll() is None, (folder / "error.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
