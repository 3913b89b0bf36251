"""The configuration tree, its presets, and how a YAML file and flags become one."""
