"""Settings of the web processes that a command line cannot give, read by gunicorn."""

import os
import signal
import threading
import time

from cloud_server.logs import set_up_logging
from cloud_server.serve import SUPERVISOR_VARIABLE, tls_context

ssl_context = tls_context
worker_connections = 2000
max_requests = 0


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
