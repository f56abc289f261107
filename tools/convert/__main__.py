"""``python -m tools.convert`` is ``fedloom convert``."""

import sys

from tools.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
