"""``python -m benchmarks``."""

import sys

from .suite import main

if __name__ == "__main__":  # a process that one of ours started imports this module
    sys.exit(main())
