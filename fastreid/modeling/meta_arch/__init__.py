"""Whole models."""

from fastreid.modeling.meta_arch.build import META_ARCH_REGISTRY, build_model
from fastreid.modeling.meta_arch.metalearning import Metalearning

__all__ = ["META_ARCH_REGISTRY", "Metalearning", "build_model"]
