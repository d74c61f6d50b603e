#!/usr/bin/env python3
"""How much of the domain, and of the person, lies in channel means and deviations of a fixed network?

    python tools/probe_styles.py --config-file configs/Study/real.yml
    python tools/probe_styles.py --config-file configs/Study/real.yml --people 40 --stages layer4 \
        DATASETS.NAMES "('folder:source1', 'folder:source2')" DATASETS.TESTS "('folder:target1',)"

The network is the config's backbone with batch normalization and the weights that training would start from. Domains
are the training images of DATASETS.NAMES, and those of DATASETS.TESTS that are not among them.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tabulate import tabulate

from fastreid.analysis.style_probe import choose_crops, extract_styles, probe
from fastreid.config import get_cfg
from fastreid.data.build import load_test_set
from fastreid.data.datasets import Items, build_dataset, datasets_root
from fastreid.modeling import build_model
from fastreid.utils.errors import UserError, run_command
from fastreid.utils.files import home_path
from fastreid.utils.logger import setup_logger

HEADERS = ("stage", "domain", "person", "variance between domains", "of the rest, between people")
PLAIN = ["MODEL.NORM.TYPE_BACKBONE", "BN", "MODEL.STYLE.NAME", "", "MODEL.HEADS.NUM_CLASSES", "1"]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Probe the styles of data sets for domains and people.")
    parser.add_argument("--config-file", type=home_path, required=True, metavar="FILE", help="sets, size, backbone")
    parser.add_argument("--people", type=int, default=48, metavar="N", help="of each data set (default: 48)")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="of each person (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="which people and images (default: 0)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="options over those of the file, before --stages")
    stages = ["layer3", "layer4", "layer6"]
    parser.add_argument("--stages", nargs="+", default=stages, metavar="NAME", help=f"default: {' '.join(stages)}")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.people < 2 or args.images < 2:
        raise UserError("--people and --images must be at least 2")
    setup_logger()
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list([*args.opts, *PLAIN])
    sets = read_sets(cfg)
    if len(sets) < 2:
        raise UserError("name at least two data sets in DATASETS.NAMES and DATASETS.TESTS: domains are compared")
    crops = choose_crops(sets, args.people, args.images, args.seed)
    rows = []
    for stage, features in extract_styles(cfg, build_model(cfg), crops.items, args.stages).items():
        found = probe(features, crops)
        rows.append([stage, *(f"{100 * value:.1f}" for value in found)])
    chance = ["(chance)", f"{100 / len(sets):.1f}", f"{100 / args.people:.1f}", "", ""]
    print(f"{', '.join(sets)}: {args.people} people each, {args.images} images of each; percentages")
    print(tabulate([*rows, chance], HEADERS, tablefmt="pipe", disable_numparse=True))


def read_sets(cfg) -> dict[str, Items]:
    """Return the images of the domains by name."""
    sets = {name: build_dataset(name, datasets_root()).train() for name in cfg.DATASETS.NAMES}
    for name in cfg.DATASETS.TESTS:
        if name not in sets:
            sets[name] = load_test_set(name).items
    return sets


if __name__ == "__main__":
    run_command(main)
