"""`python -m openrlhf_mel.preflight`."""

import sys

from openrlhf_mel.preflight.command import main

sys.exit(main())
