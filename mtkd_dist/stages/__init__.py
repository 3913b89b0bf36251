"""The stages of a run: teachers -> aggregate -> distil -> evaluate. Each leaves a folder with a manifest."""
