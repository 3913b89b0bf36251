"""`mtkd upscale`: files, folders and patterns of pictures, each into a larger picture."""
