"""Readers of the person re-identification data sets, by the names that DATASETS.NAMES and DATASETS.TESTS use."""

from __future__ import annotations

import difflib
from pathlib import Path

from fastreid.data.datasets.bases import Items, ReidDataset, Split, TestSet
from fastreid.data.datasets.cuhk02 import CUHK02
from fastreid.data.datasets.cuhk03 import (
    CUHK03,
    CUHK03Classic,
    CUHK03ClassicLabeled,
    CUHK03Labeled,
    DGCUHK03Detected,
    DGCUHK03Labeled,
)
from fastreid.data.datasets.cuhk_sysu import CUHKSYSU
from fastreid.data.datasets.dukemtmc import DGDukeMTMC, DukeMTMC
from fastreid.data.datasets.files import datasets_root
from fastreid.data.datasets.grid import GRID
from fastreid.data.datasets.ilids import ILIDS
from fastreid.data.datasets.image_folder import PREFIX, ImageFolder
from fastreid.data.datasets.market1501 import DGMarket1501, Market1501
from fastreid.data.datasets.msmt17 import DGMSMT17, DGMSMT17V1, DGMSMT17V2, MSMT17, MSMT17V1, MSMT17V2
from fastreid.data.datasets.prid import PRID
from fastreid.data.datasets.viper import VIPeR, VIPeRAllVariants, VIPeRAllVariantsFirstFive, VIPeRFirstFive
from fastreid.utils.errors import UserError

__all__ = ["DATASETS", "Items", "ReidDataset", "Split", "TestSet", "build_dataset", "dataset_names", "datasets_root"]

DATASETS: dict[str, type[ReidDataset]] = {
    # Source domains: every image is for training.
    "DG_Market1501": DGMarket1501,
    "DG_DukeMTMC": DGDukeMTMC,
    "DG_CUHK02": CUHK02,
    "DG_CUHK03_detected": DGCUHK03Detected,
    "DG_CUHK03_labeled": DGCUHK03Labeled,
    "DG_CUHK_SYSU": CUHKSYSU,
    "DG_MSMT17": DGMSMT17,
    "DG_MSMT17_V1": DGMSMT17V1,
    "DG_MSMT17_V2": DGMSMT17V2,
    # Training and test parts of one data set.
    "Market1501": Market1501,
    "DukeMTMC": DukeMTMC,
    "CUHK03": CUHK03,
    "CUHK03_labeled": CUHK03Labeled,
    "CUHK03_classic": CUHK03Classic,
    "CUHK03_classic_labeled": CUHK03ClassicLabeled,
    "MSMT17": MSMT17,
    "MSMT17_V1": MSMT17V1,
    "MSMT17_V2": MSMT17V2,
    # Target domains: only tested on, with ten splits if the name does not say otherwise.
    "DG_GRID": GRID,
    "ALL_GRID": GRID,
    "DG_PRID": PRID,
    "ALL_PRID": PRID,
    "DG_iLIDS": ILIDS,
    "ALL_iLIDS": ILIDS,
    "DG_VIPeR": VIPeR,
    "ALL_VIPER_only_10": VIPeR,
    "ALL_VIPER_only_5": VIPeRFirstFive,
    "ALL_VIPER_10": VIPeRAllVariants,
    "ALL_VIPER": VIPeRAllVariantsFirstFive,
}


def dataset_names() -> list[str]:
    """The names of all data sets, besides `folder:<name>`."""
    return list(DATASETS)


def build_dataset(name: str, root: Path) -> ReidDataset:
    """The data set called `name`, whose folder is under `root`.

    Raises:
        UserError: the name is not known, which the message says with the nearest ones, or the folder is missing.
    """
    if name.startswith(PREFIX):
        return ImageFolder(root, name)
    if name not in DATASETS:
        # In lower case, since a wrong case is the commonest slip.
        spelling = {known.lower(): known for known in DATASETS}
        nearest = [known for known in spelling if name.lower() in known] or difflib.get_close_matches(
            name.lower(), spelling, n=3, cutoff=0.5
        )
        names = ", ".join(spelling[known] for known in nearest) or ", ".join(DATASETS)
        raise UserError(
            f"there is no data set {name!r}: did you mean one of {names}? A folder of your own is named {PREFIX}<name>"
        )
    return DATASETS[name](root, name)
