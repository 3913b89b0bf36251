"""`mtkd doctor`: what this machine has, whom it reaches and whether the parts work, each with what mends it."""
