"""The formats that pictures are written in, and what they cannot hold."""

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}  #: by the suffixes of files
OTHERS = frozenset(
    (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl")
)  #: suffixes of those that are not written
WEBP_SIDE = 16_383  #: pixels that WebP can have
JPEG_TEXT = 50_000  #: bytes of prompts within a JPEG; its EXIF holds 65,533 in all
