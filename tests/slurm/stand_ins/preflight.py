"""Preflight, which looks at no model and no data: they are not here."""

import os
import sys

os.execv(sys.executable, [sys.executable, *sys.argv[1:], "--skip-files"])
