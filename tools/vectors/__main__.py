"""``python -m tools.vectors``: write the protocol's test vectors into ``shared/spec/vectors``."""

from tools.vectors.files import FOLDER, write

if __name__ == "__main__":
    write(FOLDER)
