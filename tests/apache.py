"""A real Apache with the configuration that is shipped, and an OpenID Connect provider, for tests.

Debian's ``apache2`` and ``libapache2-mod-auth-openidc`` have the one; PyPI's ``oidc-provider-mock`` is the other, which
lets everybody in as whomever they choose.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import urllib3

from cloud_server import cli
from tests.e2e.servers import wait_for
from tests.shipped import with_places

SHIPPED: Final = Path(cli.__file__).parent / "deploy" / "apache-oidc.conf"
_MODULES: Final = Path("/usr/lib/apache2/modules")
_NEEDED: Final = (
    *("mpm_event", "authn_core", "authz_core", "authz_user", "alias", "headers", "socache_shmcb", "ssl"),
    *("proxy", "proxy_http", "auth_openidc"),
)
_MAIN: Final = """
ServerRoot {folder}
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/error.log
Listen 127.0.0.1:{port}
{user}
{modules}
Include {folder}/fedloom.conf
"""


def configure(folder: Path, keys: Path, port: int, upstream_port: int, provider: str) -> list[str]:
    """Write the shipped configuration with this machine's places into ``folder``, and return Apache's command."""
    changes = {
        "<VirtualHost *:443>": f"<VirtualHost 127.0.0.1:{port}>",
        "/etc/ssl/certs/console.example.org.pem": str(keys / "tls_server.pem"),
        "/etc/ssl/private/console.example.org.key": str(keys / "tls_server.key"),
        "https://login.example.org": provider,
        "console.example.org": f"127.0.0.1:{port}",
        "localhost:8443": f"localhost:{upstream_port}",
        "/var/lib/fedloom/keys": str(keys),
    }
    (folder / "fedloom.conf").write_text(with_places(SHIPPED, changes), "utf-8")
    loaded = "\n".join(f"LoadModule {name}_module {_MODULES}/mod_{name}.so" for name in _NEEDED)
    user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
    main = _MAIN.format(folder=folder, port=port, user=user, modules=loaded)
    (folder / "main.conf").write_text(main, "utf-8")
    return ["apache2", "-d", str(folder), "-f", str(folder / "main.conf")]


@contextmanager
def apache(folder: Path, keys: Path, port: int, upstream_port: int, provider: str) -> Iterator[None]:
    """Run Apache in front of an aggregator until the block ends."""
    folder.mkdir()
    process = subprocess.Popen([*configure(folder, keys, port, upstream_port, provider), "-DFOREGROUND"])
    try:
        wait_for(lambda: process.poll() is not None or (folder / "apache.pid").exists(), "Apache to start")
        assert process.poll() is None, (folder / "error.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def openid_provider(log: Path, port: int, names: Sequence[str]) -> Iterator[str]:
    """Run a provider that knows these people until the block ends, and return its address."""
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
    for number, name in enumerate(names):
        command += ["--user-claims", json.dumps({"sub": f"person-{number}", "preferred_username": name})]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    with urllib3.PoolManager(retries=False) as pool:

        def answers() -> bool:
            try:
                return pool.request("GET", f"{url}/.well-known/openid-configuration").status == 200
            except urllib3.exceptions.HTTPError:
                return False

        try:
            wait_for(lambda: process.poll() is not None or answers(), "the provider to answer")
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)
