"""Settings of the web processes that a command line cannot give, read by gunicorn."""

import os
import resource
import signal
import threading
import time

from cloud_server.logs import set_up_logging
from cloud_server.serve import SUPERVISOR_VARIABLE, tls_context
from shared.limits import MAX_CONNECTIONS, SPARE_DESCRIPTORS

ssl_context = tls_context
forwarded_allow_ips = ""  # cloud_server.proxies decides whom to believe, not gunicorn
max_requests = 0


def _connections() -> int:
    """Raise this process's limit of descriptors as far as it needs, and return how many connections it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, soft - SPARE_DESCRIPTORS))


worker_connections = _connections()


def post_worker_init(_worker: object) -> None:
    """Log like the other processes."""
    set_up_logging()


def when_ready(_server: object) -> None:
    """End with the supervisor, even if that was killed."""
    supervisor = int(os.environ[SUPERVISOR_VARIABLE])

    def watch() -> None:
        while os.getppid() == supervisor:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
