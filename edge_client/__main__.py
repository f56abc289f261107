"""``python -m edge_client`` is ``fedloom-agent``."""

import sys

from edge_client.cli import main

sys.exit(main())
