"""Colours of an embedded profile as sRGB, the colours of the networks' training data.

[1] International Color Consortium, Specification ICC.1:2022.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image

__all__ = ["to_srgb"]

_MODES = {"RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB"}  # modes that are converted, and to which


def to_srgb(picture: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """Prepare the conversion of a picture's colours to sRGB.

    Args:
        picture: With its embedded profile [1], if it has one, in ``info``.
    Returns:
        A function that converts the picture or strips of it, RGB, RGBA or CMYK; None where there is nothing
        to convert: no profile, one of sRGB, of another number of channels, or a damaged one.
    """
    profile, target = picture.info.get("icc_profile"), _MODES.get(picture.mode)
    if not isinstance(profile, bytes) or target is None:
        return None
    try:
        from PIL import ImageCms  # the library behind it takes a few milliseconds to load

        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(embedded).lower():
            return None
        transform = ImageCms.buildTransform(
            embedded,
            ImageCms.createProfile("sRGB"),
            picture.mode,
            target,
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception:  # a damaged profile need not cost the image
        return None
    return lambda strip: _converted(strip, transform)


def _converted(strip: Image.Image, transform: object) -> Image.Image:
    from PIL import ImageCms

    converted = ImageCms.applyTransform(strip, transform)  # type: ignore[arg-type]  # made above
    assert converted is not None  # it is where the strip stays as it is
    return converted
