"""A MobileNetV2 of a quarter of the layers, for tests in which whole runs count and not the network.

As a script: tools/train_net.py with it, in the processes that `--num-gpus` starts, too.
"""

import sys
from pathlib import Path

from fastreid.modeling.backbones import mobilenet_v2

BLOCKS = {"layer2": 1, "layer3": 1, "layer4": 1, "layer8": 1}  # none elsewhere: what enters such a stage leaves it
STAGES = {
    name: (expansion, width, BLOCKS.get(name, 0), stride)
    for name, (expansion, width, _, stride) in mobilenet_v2.STAGES.items()
}

if __name__ in ("__main__", "__mp_main__"):  # the latter in a process that another one starts
    mobilenet_v2.STAGES = STAGES

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tools.train_net import run

    run()
