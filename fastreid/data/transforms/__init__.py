"""Image transforms."""

from fastreid.data.transforms.build import build_resize, build_transforms

__all__ = ["build_resize", "build_transforms"]
