"""Options of the published program's configs that have another name here, or no place in this program.

Published config files and runs' `config.yaml` load as they are. Where this program does at an option's value what the
published one does, the value is accepted without a word; any other is an error that says what would be lost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastreid.utils.errors import UserError

# Options whose name here is another one: the published program's, and those that this program's older configs have.
RENAMED = {
    "META.SOLVER.MANUAL_SEED_NUMBER": "SEED",
    "META.SOLVER.NORM_SCHEDULER": "SOLVER.NORM_SCHEDULER",
    "MODEL.LOSSES.SCT.NORM_FEAT": "MODEL.LOSSES.SCT.NORM",
    "MODEL.LOSSES.SCT.DIST_TYPE": "MODEL.LOSSES.SCT.TYPE",
    "MODEL.LOSSES.STD.NORM_FEAT": "MODEL.LOSSES.STD.NORM",
    "MODEL.LOSSES.STD.STD_TYPE": "MODEL.LOSSES.STD.TYPE",
    "MODEL.LOSSES.MMD.NORM_FEAT": "MODEL.LOSSES.MMD.NORM",
}

# Values that are called otherwise here.
MEANING = {("OUTPUT_DIR", "logs/"): ""}


class Absent(NamedTuple):
    """An option that this program does not have.

    Attributes:
        values: those at which nothing is missing, none of them: any.
        why: what is missing at another value; where any will do, why no number depends on it.
    """

    values: tuple
    why: str


ANY = ()
NO_SUCH_LOSS = "only the loss of that name reads it, which MODEL.LOSSES.NAME and META.LOSS refuse"
ONLY_WITH_SYNTH_DATA = "only META.DATA.SYNTH_FLAG's images have it"
ONLY_WITH_SYNTH_GRAD = "only META.SOLVER.SYNTH_GRAD's gradients have it"
PER_DOMAIN = "one forward pass for each domain, with batch statistics of its own"
FIXED_AFFINE = "scales or shifts of normalization that do not learn"
MOVING_STATISTICS = "meta steps that move running statistics, or normalize with them"
ZERO_GRAD = "gradients that add up over steps"

ABSENT = {
    "META.DATA.LOADER_FLAG": Absent(("diff",), "base and meta steps that share the batches of one loader"),
    "META.DATA.SYNTH_FLAG": Absent(("none",), "meta-test images that are made out of the meta-train ones"),
    "META.DATA.SYNTH_METHOD": Absent(ANY, ONLY_WITH_SYNTH_DATA),
    "META.DATA.SYNTH_SAME_SEED": Absent(ANY, ONLY_WITH_SYNTH_DATA),
    "META.DATA.RELABEL": Absent((False,), "identities of the meta loader that are numbered by themselves"),
    "META.DATA.INDIVIDUAL": Absent((False,), "a meta loader for each domain"),
    "META.DATA.DROP_LAST": Absent((True,), "a last, smaller meta batch"),
    "META.DATA.WHOLE": Absent((True,), "meta batches that are not of all of META.DATA.NAMES"),
    "META.DATA.MTEST_MINI_BATCH": Absent(ANY, "one batch, of MTRAIN_MINI_BATCH, is divided by domain into both parts"),
    "META.DATA.MTEST_NUM_INSTANCE": Absent(
        ANY, "one batch, of MTRAIN_NUM_INSTANCE, is divided by domain into both parts"
    ),
    "META.MODEL.META_UPDATE_LAYER": Absent(
        (["backbone_bn_gate"], "backbone_bn_gate"),
        "a meta step that updates other parameters than gates, or (ALL_PARAMS) all",
    ),
    "META.SOLVER.LR_FACTOR.GATE_CYCLIC_RATIO": Absent(
        (10.0,), "a cycle of the gates' rate; SOLVER.CYCLIC_* is the one there is"
    ),
    "META.SOLVER.LR_FACTOR.GATE_CYCLIC_PERIOD_PER_EPOCH": Absent(
        (0.2,), "a cycle of the gates' rate; SOLVER.CYCLIC_* is the one there is"
    ),
    "META.SOLVER.LR_FACTOR.META_CYCLIC_NEW": Absent((True,), "an older form of the inner step's cycle"),
    "META.SOLVER.INIT.TYPE_RUNNING_STATS": Absent(("general",), "base steps that leave the running statistics alone"),
    "META.SOLVER.MTRAIN.TYPE_RUNNING_STATS": Absent(("hold",), MOVING_STATISTICS),
    "META.SOLVER.MTEST.TYPE_RUNNING_STATS": Absent(("hold",), MOVING_STATISTICS),
    "META.SOLVER.MTRAIN.INNER_LOOP": Absent((1,), "a virtual update of several steps"),
    "META.SOLVER.MTRAIN.SHUFFLE_DOMAIN": Absent((True,), "domains that are always divided in the same way"),
    "META.SOLVER.MTRAIN.FREEZE_GRAD_META": Absent((False,), "meta steps in which parameters are frozen otherwise"),
    "META.SOLVER.MTRAIN.ALLOW_UNUSED": Absent(ANY, "parameters that a meta-train loss does not reach stay as they are"),
    "META.SOLVER.MTRAIN.BEFORE_ZERO_GRAD": Absent((True,), ZERO_GRAD),
    "META.SOLVER.SYNC": Absent(ANY, "waiting for the device changes times, no numbers"),
    "META.SOLVER.DETAIL_MODE": Absent(ANY, "it is about the log"),
    "META.SOLVER.MANUAL_ZERO_GRAD": Absent(("zero",), ZERO_GRAD),
    "META.SOLVER.MANUAL_MEMORY_EMPTY": Absent(ANY, "giving memory back changes times, no numbers"),
    "META.SOLVER.AUTO_GRAD_OUTSIDE": Absent((True,), "another place where the inner gradient is computed"),
    "META.SOLVER.SYNTH_GRAD": Absent(("none",), "an inner gradient that is made up instead of computed"),
    "META.SOLVER.CONSTANT_GRAD": Absent(ANY, ONLY_WITH_SYNTH_GRAD),
    "META.SOLVER.RANDOM_SCALE_GRAD": Absent(ANY, ONLY_WITH_SYNTH_GRAD),
    "META.SOLVER.PRINT_GRAD": Absent(ANY, "it is about the log"),
    "META.SOLVER.ONE_LOSS_FOR_ITER": Absent((False,), "one loss a step, in turn, instead of all of META.LOSS"),
    "META.SOLVER.ONE_LOSS_ORDER": Absent(ANY, "only META.SOLVER.ONE_LOSS_FOR_ITER reads it"),
    "META.SOLVER.MANUAL_SEED_FLAG": Absent((True,), "a run without a fixed seed, which is SEED -1 here"),
    "META.SOLVER.MANUAL_SEED_DETERMINISTIC": Absent(
        ANY, "it chooses between algorithms of cuDNN that compute the same, up to rounding"
    ),
    "META.NEW_SOLVER.MAIN_ZERO_GRAD": Absent((True,), ZERO_GRAD),
    "META.NEW_SOLVER.NORM_ZERO_GRAD": Absent((True,), ZERO_GRAD),
    "META.NEW_SOLVER.MOMENTUM_INIT_GRAD": Absent((0.0,), "momentum that begins with another value than 0"),
    "MODEL.BACKBONE.VOLUME": Absent(ANY, "RegNet's size; MODEL.BACKBONE.NAME names no RegNet"),
    "MODEL.BACKBONE.NORM_SPLIT": Absent((1,), "batch statistics of parts of a batch"),
    "MODEL.BACKBONE.NUM_BATCH_TRACKED": Absent(ANY, "a counter of batches, which momentum 0.1 does not look at"),
    "MODEL.HEADS.NORM_SPLIT": Absent((1,), "batch statistics of parts of a batch"),
    "MODEL.HEADS.REDUCTION_DIM": Absent(ANY, "MetalearningHead does not read it; META.BOTTLENECK reduces channels"),
    "MODEL.LOSSES.JSD.FEAT_ORDER": Absent(ANY, NO_SUCH_LOSS),
    "MODEL.LOSSES.JSD.SCALE": Absent(ANY, NO_SUCH_LOSS),
    "MODEL.LOSSES.JSD.NORM": Absent(ANY, NO_SUCH_LOSS),
    "MODEL.LOSSES.FL.ALPHA": Absent(ANY, NO_SUCH_LOSS),
    "MODEL.LOSSES.FL.GAMMA": Absent(ANY, NO_SUCH_LOSS),
    "MODEL.LOSSES.FL.SCALE": Absent(ANY, NO_SUCH_LOSS),
    "MODEL.NORM.BN_AFFINE": Absent((True,), "batch normalization without scale and shift"),
    "MODEL.NORM.BN_RUNNING": Absent((True,), "batch normalization without running statistics"),
    "MODEL.NORM.IN_AFFINE": Absent((True,), "instance normalization without scale and shift"),
    "MODEL.NORM.IN_RUNNING": Absent((False,), "instance normalization with running statistics"),
    "MODEL.NORM.LOAD_IN_RUNNING": Absent(ANY, "instance normalization has no running statistics to load"),
    "MODEL.NORM.BN_W_FREEZE": Absent((False,), FIXED_AFFINE),
    "MODEL.NORM.BN_B_FREEZE": Absent((False,), FIXED_AFFINE),
    "MODEL.NORM.IN_W_FREEZE": Absent((False,), FIXED_AFFINE),
    "MODEL.NORM.IN_B_FREEZE": Absent((False,), FIXED_AFFINE),
    "MODEL.NORM.EACH_DOMAIN_BASIC": Absent((False,), PER_DOMAIN),
    "MODEL.NORM.EACH_DOMAIN_MTRAIN": Absent((False,), PER_DOMAIN),
    "MODEL.NORM.EACH_DOMAIN_MTEST": Absent((False,), PER_DOMAIN),
    "MODEL.NORM.TYPE_BOTTLENECK": Absent(("BN",), "another normalization than BN in META.BOTTLENECK"),
    "MODEL.NORM.TYPE_CLASSIFIER": Absent(("BN",), "another normalization than BN before the classifier"),
    "DATASETS.COMBINEALL": Absent(
        (False,), "training on query and gallery too; the DG_ data sets hold all their images"
    ),
    "DATALOADER.INDIVIDUAL": Absent((False,), "a base loader for each domain"),
    "DATALOADER.DROP_LAST": Absent((True,), "a last, smaller batch"),
    "SOLVER.OPT": Absent(("SGD",), "another optimizer than SGD"),
    "SOLVER.OPT_NORM": Absent(("SGD",), "another optimizer of the gates than SGD"),
    "SOLVER.WRITE_PERIOD_BIN": Absent(
        ANY, "gates are logged every SOLVER.WRITE_PERIOD; training does not depend on it"
    ),
    "SOLVER.WRITE_PERIOD_PARAM": Absent(ANY, "parameters are in the checkpoints; training does not depend on it"),
    "TEST.REPORT_ALL": Absent(
        (False,), "a row of the table for each split; results.json and results.xlsx have them always"
    ),
    # Of this program's older configs.
    "META.BOTTLENECK": Absent(
        (0,), "a 1x1 convolution without normalization, now META.BOTTLENECK.DO_IT and REDUCTION_DIM"
    ),
    "MODEL.HEADS.NECK_FEAT": Absent(
        ("before",), "what is each loss's own option now, such as MODEL.LOSSES.TRI.FEAT_ORDER"
    ),
}


def accept_absent(option: str, value: Any, where: str) -> None:
    """Accept an option of `ABSENT` at a value at which this program does the same as the published one.

    Args:
        value: as the config has it, a literal.
        where: the file, or "command line", for the message.

    Raises:
        UserError: at this value something would be lost; the message says what.
    """
    values, why = ABSENT[option]
    if values == ANY or any(same(value, accepted) for accepted in values):
        return
    raise UserError(
        f"{where}: {option} {value!r} is not supported: it asks for {why}. Leave it out, or set {values[0]!r}"
    )


def same(value: Any, accepted: Any) -> bool:
    """Tell whether two values of an option are equal; a list is a tuple, but True is not 1."""
    if isinstance(value, tuple):
        value = list(value)
    return value == accepted and isinstance(value, bool) == isinstance(accepted, bool)
