"""Start the command line: `python -m pipeline`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # before the working directory, where somebody's folder models/ or file cache.py may lie
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from pipeline.cli.main import main

    main()
