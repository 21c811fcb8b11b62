from __future__ import annotations

import sys

from rkt.cli.main import leave, main

leave(main(sys.argv[1:]))
