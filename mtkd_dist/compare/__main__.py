import sys

from mtkd_dist.compare.command import main

sys.exit(main())
