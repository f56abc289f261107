"""Settings of the web processes that a command line cannot give, read by gunicorn."""

from cloud_server.serve import set_up_logging, tls_context

ssl_context = tls_context
worker_connections = 2000
max_requests = 0


def post_worker_init(_worker: object) -> None:
    """Log like the other processes."""
    set_up_logging()
