"""Configuration: `get_cfg()` returns the defaults, to be merged with a file and command-line options."""

from fastreid.config.config import CfgNode
from fastreid.config.defaults import add_options, get_cfg

__all__ = ["CfgNode", "add_options", "get_cfg"]
