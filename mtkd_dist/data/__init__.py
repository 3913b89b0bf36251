"""From photographs to training samples: decoded once, shrunk as MATLAB does, cut by a plan that is a pure function."""

from mtkd_dist.data.demo import DemoPhotos, demo_photos
from mtkd_dist.data.images import ImageError, list_images, read_image
from mtkd_dist.data.layouts import PhotoSet, find_photos
from mtkd_dist.data.pairs import Photo
from mtkd_dist.data.plan import Plan, Sample
from mtkd_dist.data.resize import bicubic_upscale, matlab_downscale
from mtkd_dist.data.resize_float import bicubic_downscale
from mtkd_dist.data.store import ImageStore, build_store

__all__ = [
    "DemoPhotos",
    "ImageError",
    "ImageStore",
    "Photo",
    "PhotoSet",
    "Plan",
    "Sample",
    "bicubic_downscale",
    "bicubic_upscale",
    "build_store",
    "demo_photos",
    "find_photos",
    "list_images",
    "matlab_downscale",
    "read_image",
]
