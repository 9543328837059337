"""`python -m locus` is `locus`."""
# Output is protected by `cli.main`, where it prints: a command that it becomes does so itself.

import sys

from locus import cli

if __name__ == "__main__":
    sys.exit(cli.main())
