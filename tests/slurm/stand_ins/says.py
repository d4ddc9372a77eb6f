"""In the place of what would do something: only prints what it was given."""

import sys

print(*sys.argv[1:])
