"""`python -m muleteer.cli`: the command, where the script is not on the path."""

import sys

from muleteer.cli.main import main

sys.exit(main())
