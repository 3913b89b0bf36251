"""`mtkd compare`: methods x students x seeds on the same plan, and what they differ by."""
