import sys

from mtkd_tune.sweep import main

sys.exit(main())
