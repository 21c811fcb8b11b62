from __future__ import annotations

import sys

from rkt.cli.main import main

sys.exit(main(sys.argv[1:]))
