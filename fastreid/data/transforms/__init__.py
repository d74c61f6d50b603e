"""Image transforms."""

from fastreid.data.transforms.build import build_transforms

__all__ = ["build_transforms"]
