"""`python -m minattn.cli`: the same as `minattn`, where a script's folder is not on the PATH."""
import sys

from . import main

sys.exit(main())
