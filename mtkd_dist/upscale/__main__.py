import sys

from mtkd_dist.upscale.command import main

sys.exit(main())
