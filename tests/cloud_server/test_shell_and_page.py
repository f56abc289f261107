"""Whatever the page can do the shell can do, and the reverse: two lists, held against what there is."""

from __future__ import annotations

from typing import Final

from cloud_server.api.policy import routes
from cloud_server.cli import command_line
from cloud_server.dashboard.actions import _VERBS
from cloud_server.dashboard.models import _CHANGES
from tests.cloud_server.local import Local
from tests.cloud_server.test_tables import leaves

BOTH: Final[dict[str, tuple[str, ...]]] = {
    "task list": ("GET /console/tasks",),
    "task show": ("GET /console/tasks/{task}", "GET /console/rounds", "GET /console/rounds/{task}/{number}"),
    "task create": ("POST /console/new-task",),
    "task stop": ("POST /console/tasks/{task}/stop",),
    "parameters": ("POST /console/new-task/check",),  # k and t of the plan that is being written
    "device list": ("GET /console/devices",),
    "device show": ("GET /console/devices/{device}",),
    "device revoke": ("POST /console/devices/{device}/revoke",),
    "device quarantine": ("POST /console/devices/{device}/quarantine",),
    "device reinstate": ("POST /console/devices/{device}/reinstate",),
    "code create": ("POST /console/codes",),
    "code list": ("GET /console/codes",),
    "code revoke": ("POST /console/codes/{code}/revoke",),
    "model list": ("GET /console/models",),
    "model show": ("GET /console/models",),
    "model card": ("GET /console/models/{task}/{number}",),
    "model download": ("GET /console/models/{task}/{number}/{form}",),
    "model export": ("GET /console/models/{task}/{number}/{form}",),  # its files, one at a time
    "model promote": ("POST /console/models/{task}/promote",),
    "model proceed": ("POST /console/models/{task}/proceed",),
    "model roll-back": ("POST /console/models/{task}/roll-back",),
    "model pin": ("POST /console/models/{task}/pin",),
    "model unpin": ("POST /console/models/{task}/unpin",),
    "model hold": ("POST /console/models/{task}/hold",),
    "model import": ("POST /console/models/{task}/import",),
    "audit list": ("GET /console/audit",),
    "privacy show": ("GET /console/privacy",),
    "operator list": ("GET /console/operators",),
    "operator set-role": ("POST /console/operators/{name}/role",),
    "operator remove": ("POST /console/operators/{name}/remove",),
    "operator token list": ("GET /console/operators",),
    "operator token revoke": ("POST /console/tokens/{token}/revoke",),
    "db check": ("GET /console/audit/chain", "GET /console/system"),
}
AT_THE_MACHINE: Final = {  # and why no browser may
    "serve": "starts what answers the page",
    "authority": "is another process in another folder",
    "driver": "is another process",
    "certify": "is the authority's, which the aggregator's page cannot reach",
    "operator add": "a password or a first account: whoever has the machine vouches for it",
    "operator set-password": "helps who cannot sign in",
    "operator token create": "shows a secret, which no browser's history shall have",
    "model rotate-key": "wants every process stopped",
    "db use": "wants every process stopped",
    "db upgrade": "wants every process stopped",
    "db restore": "wants every process stopped",
    "db backup": "has every secret key in it",
    "blobs use": "wants every process stopped",
}
OF_BROWSERS: Final = {  # what only helps to look, or says who looks
    "GET /console/",
    "GET /console/overview",
    "GET /console/overview/live",
    "GET /console/rounds/live",
    "GET /console/new-task",
    "GET /console/sign-in",
    "POST /console/sign-in",
    "POST /console/sign-out",
    "GET /console/language/{code}",
    "GET /console/static/{name}",
}


def on_the_page(local: Local) -> set[str]:
    """Return what the routes of the page do, with the verbs of those that have several."""
    verbs = {"/console/devices/{device}/{verb}": [*_VERBS], "/console/models/{task}/{verb}": [*_CHANGES]}
    return {
        f"{route.method} {route.path.replace('{verb}', verb)}"
        for route in routes(local.app)
        if route.path.startswith("/console") and not route.path.endswith(".json")
        for verb in verbs.get(route.path, [""])
    }


def test_every_command_is_on_the_page_or_says_why_not() -> None:
    commands = {" ".join(words) for words in leaves(command_line())}
    assert commands == BOTH.keys() | AT_THE_MACHINE.keys()
    assert not BOTH.keys() & AT_THE_MACHINE.keys()


def test_everything_on_the_page_is_a_command_or_of_browsers_alone(local: Local) -> None:
    done = {route for several in BOTH.values() for route in several}
    assert on_the_page(local) == done | OF_BROWSERS
    assert not done & OF_BROWSERS
