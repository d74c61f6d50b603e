"""Names in a run's output folder: what training, tests and their tools write there and find there.

Messages and documents spell them out, and users' scripts rely on them. Pictures and tables of the analyses, which no
other module reads, have their names where they are written.
"""

import re

# Training.
CONFIG = "config.yaml"  # all options
LOG = "log.txt"
METRICS = "metrics.json"  # losses, learning rates and test results over training, a line for each record
RESULT_FIGURE = "result.png"  # the same as curves
LOCK = ".lock"  # held by the process that writes into the folder
CONSOLE = "console.log"  # what a run of a table printed

# Checkpoints.
LAST_CHECKPOINT = "last_checkpoint"  # holds the name of the newest one
CHECKPOINTS = "checkpoints.json"  # those of the present run, the oldest first
BEST = "model_best.pth"
FINAL = "model_final.pth"
NUMBERED = re.compile(r"model_(\d{7,})\.pth")
THRESHOLDS = "threshold.json"  # of "same person or not", for the checkpoint beside it

# Tests.
RESULTS = "results.json"
RESULTS_TEXT = "results.txt"
RESULTS_WORKBOOK = "results.xlsx"
CMC_FIGURE = "cmc.png"
PER_QUERY = "per_query"  # a folder
FEATURES = "features"  # a folder
PAGE = "report.html"


def numbered_checkpoint(iteration: int) -> str:
    """Return the name of the checkpoint after an iteration."""
    return f"model_{iteration:07d}.pth"
