"""Stand-in that only prints its arguments."""

import sys

print(*sys.argv[1:])
