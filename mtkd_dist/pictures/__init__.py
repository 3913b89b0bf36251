"""A picture in, a picture out: networks that enlarge what people have, whatever its size, kind and format."""

from mtkd_dist.pictures.files import FORMATS, Picture, check_fits, format_named, format_of, read_picture, write_picture
from mtkd_dist.pictures.upscaler import Upscaler, load_upscaler

__all__ = [
    "FORMATS",
    "Picture",
    "Upscaler",
    "check_fits",
    "format_named",
    "format_of",
    "load_upscaler",
    "read_picture",
    "write_picture",
]
