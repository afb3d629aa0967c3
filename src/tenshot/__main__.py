"""`python -m tenshot`."""

import sys

from tenshot.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
