"""The command."""

import sys

from configs.output import protect_output
from learner.audit.report import main

if __name__ == "__main__":
    protect_output()
    sys.exit(main())
