"""Every option that exists, with its default and its meaning.

Defaults are the published program's, so that its config files mean the same here; fastreid/config/published.py has its
options of other names. Numbers marked (epochs) are multiplied by the iterations per epoch when training starts.
"""

from functools import reduce
from operator import getitem
from typing import Any

from fastreid.config.config import CfgNode as CN

_C = CN()

# ------------------------------------------------------------------------------------------------------- model
_C.MODEL = CN()
_C.MODEL.DEVICE = "cuda"  # "cuda", "cuda:1", "cpu"; without a CUDA device the CPU is used after a warning
_C.MODEL.META_ARCHITECTURE = "Metalearning"  # the only one
# A checkpoint to start from or to evaluate; "untrained": evaluate the model that training starts from.
_C.MODEL.WEIGHTS = ""
_C.MODEL.FREEZE_LAYERS = ()  # modules that do not learn for SOLVER.FREEZE_ITERS, by name: "backbone", "backbone.layer1"
_C.MODEL.PIXEL_MEAN = [0.485 * 255, 0.456 * 255, 0.406 * 255]  # RGB, 0..255
_C.MODEL.PIXEL_STD = [0.229 * 255, 0.224 * 255, 0.225 * 255]  # images are (x - MEAN) / STD, in the model

_C.MODEL.BACKBONE = CN()
# build_resnet_backbone, build_mobilenet_v2_backbone: of the size DEPTH. resnet18, resnet34, resnet50, resnet101,
# resnet152, mobilenet_v2_1.0, mobilenet_v2_1.4, osnet_x1_0, osnet_x0_75, osnet_x0_5, osnet_x0_25, osnet_ain_x1_0: of
# the size that the name says; DEPTH is not read.
_C.MODEL.BACKBONE.NAME = "build_mobilenet_v2_backbone"
_C.MODEL.BACKBONE.DEPTH = 14  # ResNet 18/34/50/101/152; MobileNetV2: ten times the width, 10 -> 1.0, 14 -> 1.4
_C.MODEL.BACKBONE.LAST_STRIDE = 1  # of the last stage, 1 or 2; 1 keeps its map larger
_C.MODEL.BACKBONE.WITH_IBN = False  # IBN-Net: some IN beside the chosen normalization, see IBN_TYPE
# a: half IN, half BN as the first normalization of the blocks of early stages; b: IN in the stem, and after two of them
_C.MODEL.BACKBONE.IBN_TYPE = "a"
_C.MODEL.BACKBONE.WITH_SE = False  # ResNet's: squeeze-and-excitation at the end of each block
_C.MODEL.BACKBONE.WITH_NL = False  # ResNet's: non-local blocks after the last blocks of layer2 and layer3
_C.MODEL.BACKBONE.CHECKPOINT = ()  # stages whose maps are computed again backward, not kept: layer1, layer2, ...
_C.MODEL.BACKBONE.PRETRAIN = True  # start from ImageNet weights
# '': torchvision's (ResNet), pretrained/mobilenetv2_<width>.pth, pretrained/osnet_<width>_imagenet.pth
_C.MODEL.BACKBONE.PRETRAIN_PATH = ""

_C.MODEL.NORM = CN()
_C.MODEL.NORM.TYPE_BACKBONE = "BIN_gate2"  # BN, IN, BIN_half, BIN_gate1, BIN_gate2 (MetaBIN), DualNorm, SN
_C.MODEL.NORM.BIN_INIT = "one"  # first value of the gates: one (all BN), zero (all IN), half, random
_C.MODEL.NORM.IN_FC_MULTIPLY = 0.0  # what IN multiplies 1x1 maps with, which have no statistics of their own
_C.MODEL.NORM.SYNC = False  # batch statistics over all processes instead of each process's own
_C.MODEL.NORM.LOAD_BN_AFFINE = True  # what the batch part takes from pre-trained weights
_C.MODEL.NORM.LOAD_BN_RUNNING = True  # its running statistics
_C.MODEL.NORM.LOAD_IN_AFFINE = False  # whether the instance part takes the scale and shift of pre-trained BN

_C.MODEL.STYLE = CN()  # layers between the backbone's stages that change styles, see configs/README.md
_C.MODEL.STYLE.NAME = ""  # MixStyle, EFDMix, DSU: in training only; SNR: always; '': none
_C.MODEL.STYLE.STAGES = ()  # that they follow: stem (ResNet), layer1, layer2, ...; (): those that the method has
_C.MODEL.STYLE.PROB = 0.5  # share of the forward passes in which MixStyle, EFDMix and DSU do anything
_C.MODEL.STYLE.ALPHA = 0.1  # MixStyle, EFDMix: shares are drawn from Beta(ALPHA, ALPHA)
_C.MODEL.STYLE.PARTNER = "random"  # MixStyle, EFDMix: whose style is mixed in, any image's; "domain": of another domain

_C.MODEL.HEADS = CN()
_C.MODEL.HEADS.NAME = "MetalearningHead"  # the only one
_C.MODEL.HEADS.NUM_CLASSES = 0  # identities; set from the training data
_C.MODEL.HEADS.IN_FEAT = 0  # channels of the backbone's last map; 0: as many as it has
_C.MODEL.HEADS.POOL_LAYER = "avgpool"  # maxpool, gempool, gempoolP, avgmaxpool, clipavgpool, fastavgpool, identity
_C.MODEL.HEADS.CLS_LAYER = "linear"  # arcSoftmax, circleSoftmax, amSoftmax
_C.MODEL.HEADS.SCALE = 128.0  # of the margin classifiers
_C.MODEL.HEADS.MARGIN = 0.15  # of the margin classifiers

_C.MODEL.LOSSES = CN()  # FEAT_ORDER: whether a loss sees the feature "before" or "after" classifier_norm
_C.MODEL.LOSSES.NAME = ("CrossEntropyLoss", "TripletLoss")  # of the base step

_C.MODEL.LOSSES.CE = CN()
_C.MODEL.LOSSES.CE.EPSILON = 0.1  # label smoothing; -1: adaptive, ALPHA times the predicted probability
_C.MODEL.LOSSES.CE.ALPHA = 0.2  # of adaptive smoothing
_C.MODEL.LOSSES.CE.SCALE = 1.0  # factor of the loss, here and below


def _triplet(margin: float, new_pos: list, new_neg: list) -> CN:
    """Options of one triplet loss; NEW_POS and NEW_NEG: [same identity, same domain other identity, other domain]."""
    node = CN()
    node.MARGIN = margin  # 0: the soft form that LOSS_TYPE names
    node.FEAT_ORDER = "before"  # "before" or "after"
    node.NORM_FEAT = False  # L2-normalize the features first
    node.HARD_MINING = True  # hardest positive and negative; False: all of them, weighted by softmax
    node.DIST_TYPE = "euclidean"  # or cosine
    node.LOSS_TYPE = "logistic"  # or hinge
    node.SCALE = 1.0  # factor
    node.NEW_POS = new_pos  # which pairs are positives
    node.NEW_NEG = new_neg  # which are negatives
    return node


_C.MODEL.LOSSES.TRI = _triplet(0.3, [1, 0, 0], [0, 1, 1])
_C.MODEL.LOSSES.TRI_ADD = _triplet(0.0, [0, 0, 1], [0, 1, 0])  # the paper's shuffle loss
_C.MODEL.LOSSES.TRI_MTRAIN = _triplet(0.3, [1, 0, 0], [0, 1, 1])
_C.MODEL.LOSSES.TRI_MTEST = _triplet(0.3, [1, 0, 0], [0, 1, 1])

_C.MODEL.LOSSES.CIRCLE = CN()
_C.MODEL.LOSSES.CIRCLE.MARGIN = 0.25  # m of the circle loss
_C.MODEL.LOSSES.CIRCLE.ALPHA = 128.0  # its gamma
_C.MODEL.LOSSES.CIRCLE.SCALE = 1.0  # factor
_C.MODEL.LOSSES.CIRCLE.FEAT_ORDER = "before"  # "before" or "after"

_C.MODEL.LOSSES.SCT = CN()
_C.MODEL.LOSSES.SCT.NORM = True  # L2-normalize the features first; in STD and MMD too
_C.MODEL.LOSSES.SCT.FEAT_ORDER = "before"  # "before" or "after"
_C.MODEL.LOSSES.SCT.TYPE = "cosine_sim"  # euclidean, cosine
_C.MODEL.LOSSES.SCT.SCALE = 1.0  # factor

_C.MODEL.LOSSES.STD = CN()
_C.MODEL.LOSSES.STD.NORM = True  # as SCT.NORM
_C.MODEL.LOSSES.STD.FEAT_ORDER = "before"  # "before" or "after"
_C.MODEL.LOSSES.STD.TYPE = "domain"  # all, all_channel, domain, domain_channel
_C.MODEL.LOSSES.STD.LOG_SCALE = True  # the logarithm of the standard deviation
_C.MODEL.LOSSES.STD.SCALE = 1.0  # factor

_C.MODEL.LOSSES.MMD = CN()
_C.MODEL.LOSSES.MMD.NORM = True  # as SCT.NORM
_C.MODEL.LOSSES.MMD.NORM_FLAG = "l2norm"  # or l1norm
_C.MODEL.LOSSES.MMD.FEAT_ORDER = "before"  # "before" or "after"
_C.MODEL.LOSSES.MMD.KERNEL_MUL = 2.0  # ratio of neighbouring bandwidths
_C.MODEL.LOSSES.MMD.KERNEL_NUM = 5  # bandwidths
_C.MODEL.LOSSES.MMD.FIX_SIGMA = 0.0  # middle bandwidth; 0: the mean distance
_C.MODEL.LOSSES.MMD.SCALE = 1.0  # factor

_C.MODEL.LOSSES.SNR = CN()  # the dual causality loss of MODEL.STYLE.NAME SNR
_C.MODEL.LOSSES.SNR.WEIGHTS = [0.1, 0.1, 0.5, 0.5]  # of its layers, the first one's first
_C.MODEL.LOSSES.SNR.SCALE = 1.0  # factor

# ------------------------------------------------------------------------------------------------------- input
_C.INPUT = CN()
_C.INPUT.SIZE_TRAIN = [256, 128]  # height, width
_C.INPUT.SIZE_TEST = [256, 128]
_C.INPUT.DO_AUTOAUG = False
_C.INPUT.DO_FLIP = True  # mirror images, in training only, as all that follows
_C.INPUT.FLIP_PROB = 0.5  # how often
_C.INPUT.DO_PAD = True  # pad and crop at random
_C.INPUT.PADDING = 10  # pixels at each side, before the random crop
_C.INPUT.PADDING_MODE = "constant"  # edge, reflect, symmetric
_C.INPUT.CJ = CN()
_C.INPUT.CJ.ENABLED = False  # color jitter
_C.INPUT.CJ.PROB = 1.0  # how often
_C.INPUT.CJ.BRIGHTNESS = 0.15  # factor between 1 - this and 1 + this
_C.INPUT.CJ.CONTRAST = 0.15  # the same
_C.INPUT.CJ.SATURATION = 0.1  # the same
_C.INPUT.CJ.HUE = 0.1  # shift between - this and + this, of a full circle
_C.INPUT.DO_AUGMIX = False  # AugMix
_C.INPUT.REA = CN()
_C.INPUT.REA.ENABLED = False  # random erasing
_C.INPUT.REA.PROB = 0.5  # how often
_C.INPUT.REA.MEAN = [0.485 * 255, 0.456 * 255, 0.406 * 255]  # what an erased rectangle is filled with
_C.INPUT.RPT = CN()
_C.INPUT.RPT.ENABLED = False  # random patch
_C.INPUT.RPT.PROB = 0.5  # how often

# ------------------------------------------------------------------------------------------------- data sets
_C.DATASETS = CN()
_C.DATASETS.NAMES = ("Market1501",)  # sources
_C.DATASETS.TESTS = ("Market1501",)

_C.DATALOADER = CN()
_C.DATALOADER.NUM_WORKERS = 2  # of each loader
_C.DATALOADER.NUM_INSTANCE = 4  # images of an identity in a batch
_C.DATALOADER.NAIVE_WAY = True  # draw identities over all domains; False: the same share for each domain
_C.DATALOADER.DELETE_REM = False  # drop the images of an identity beyond a multiple of NUM_INSTANCE
_C.DATALOADER.CAMERA_TO_DOMAIN = False  # each camera is a domain (single-source training)
_C.DATALOADER.CACHE = "off"  # where decoded and resized images are kept: "ram", or a folder for memory-mapped files
_C.DATALOADER.SKIP_CORRUPT = False  # train on another image of the identity for one that cannot be read

# ------------------------------------------------------------------------------------------------------ solver
_C.SOLVER = CN()
_C.SOLVER.MAX_ITER = 100  # (epochs)
_C.SOLVER.ITERS_PER_EPOCH = 0  # set from the training data
_C.SOLVER.IMS_PER_BATCH = 80
_C.SOLVER.BASE_LR = 0.01  # learning rate
_C.SOLVER.BIAS_LR_FACTOR = 2.0  # of biases, times BASE_LR
_C.SOLVER.BACKBONE_LR_FACTOR = 1.0  # of the backbone
_C.SOLVER.HEADS_LR_FACTOR = 1.0  # of the head
_C.SOLVER.MOMENTUM = 0.9  # of everything else than gates
_C.SOLVER.WEIGHT_DECAY = 0.0005  # of everything else than biases and gates
_C.SOLVER.WEIGHT_DECAY_BIAS = 0.0005  # of biases
_C.SOLVER.MOMENTUM_NORM = 0.0  # of the gates
_C.SOLVER.WEIGHT_DECAY_NORM = 0.0  # of the gates
_C.SOLVER.SCHED = "WarmupMultiStepLR"  # or WarmupCosineAnnealingLR
_C.SOLVER.STEPS = [40, 70]  # (epochs)
_C.SOLVER.GAMMA = 0.1  # factor of the learning rate at each of STEPS
_C.SOLVER.DELAY_ITERS = 0  # (epochs) the cosine begins here
_C.SOLVER.ETA_MIN_LR = 7.7e-5  # where the cosine ends
_C.SOLVER.WARMUP_ITERS = 10  # (epochs)
_C.SOLVER.WARMUP_FACTOR = 0.01  # of the learning rate at iteration 0
_C.SOLVER.WARMUP_METHOD = "linear"  # or constant
_C.SOLVER.NORM_SCHEDULER = "equal"  # of the gates' learning rate: equal, same, no_warm, cyclic
_C.SOLVER.CYCLIC_PERIOD_PER_EPOCH = 1.0  # cyclic: a triangle from MIN to MAX and back
_C.SOLVER.CYCLIC_MIN_LR = 0.0001  # lowest of the gates' learning rate
_C.SOLVER.CYCLIC_MAX_LR = 0.01  # highest
_C.SOLVER.FREEZE_ITERS = 0  # (epochs) for which MODEL.FREEZE_LAYERS are frozen
_C.SOLVER.AMP = True  # train in half precision, float16, on a GPU; tests are in float32
_C.SOLVER.AMP_ON_CPU = False  # with AMP, in bfloat16 on a CPU too: slow where the processor does not compute in it
# Kernels of ours on a GPU; "off"; torch.compile of "norm", normalizations, or "model", backbone
_C.SOLVER.COMPILE = "auto"
# Look at losses and gradients before each update; False: before each log line and checkpoint
_C.SOLVER.CHECK_FINITE = False
_C.SOLVER.CHECKPOINT_PERIOD = 2  # (epochs)
_C.SOLVER.CHECKPOINT_SAME_AS_EVAL = True  # every TEST.EVAL_PERIOD instead, unless that is 0
_C.SOLVER.CHECKPOINT_KEEP = 0  # numbered checkpoints that are kept, the newest; 0: all
_C.SOLVER.ON_NAN = "stop"  # when a loss or weight is not finite; "rollback": to the last checkpoint, without the batch
_C.SOLVER.MAX_ROLLBACKS = 3  # then the run stops
_C.SOLVER.WRITE_PERIOD = 1000  # iterations between two lines of the log

_C.SOLVER.SWA = CN()  # stochastic weight averaging, after MAX_ITER: the final model is a mean of models
_C.SOLVER.SWA.ENABLED = False
_C.SOLVER.SWA.ITER = 10  # (epochs) of averaging
_C.SOLVER.SWA.PERIOD = 2  # (epochs) between two models of the mean
_C.SOLVER.SWA.LR_FACTOR = 10.0  # the learning rate is this times SCHED's
_C.SOLVER.SWA.LR_SCHED = False  # let it fall to ETA_MIN_LR in each PERIOD, along half a cosine; False: constant
_C.SOLVER.SWA.ETA_MIN_LR = 3.5e-6  # with LR_SCHED

# ----------------------------------------------------------------------------------------------- meta-learning
_C.META = CN()
_C.META.BOTTLENECK = CN()  # linear layer, BN, LeakyReLU between pooling and head
_C.META.BOTTLENECK.DO_IT = False  # put it in
_C.META.BOTTLENECK.REDUCTION_DIM = 1024  # channels after it
_C.META.BOTTLENECK.NORM = True  # False: without the BN

_C.META.DATA = CN()
_C.META.DATA.NAMES = ("DG",)  # data sets of the meta loader, out of DATASETS.NAMES; DG: all of them; '': no meta step
_C.META.DATA.NUM_DOMAINS = 0  # set from the training data
_C.META.DATA.NAIVE_WAY = False  # as DATALOADER.NAIVE_WAY, of the meta loader
_C.META.DATA.DELETE_REM = False  # as DATALOADER.DELETE_REM
_C.META.DATA.MTRAIN_MINI_BATCH = 80
_C.META.DATA.MTRAIN_NUM_INSTANCE = 4

_C.META.MODEL = CN()
# What the inner update touches, see solver/trained_parameters.py
_C.META.MODEL.META_COMPUTE_LAYER = ("backbone_bn_gate",)
_C.META.MODEL.ALL_PARAMS = False  # True: every parameter, inner and outer (MLDG)

_C.META.LOSS = CN()
_C.META.LOSS.MTRAIN_NAME = ("TripletLoss_add", "TripletLoss_mtrain", "SCT")
_C.META.LOSS.MTEST_NAME = ("TripletLoss_mtest",)  # of the meta-test part
_C.META.LOSS.COMBINED = False  # add WEIGHT x the meta-train loss to the meta-test loss
_C.META.LOSS.WEIGHT = 1.0  # with COMBINED

_C.META.SOLVER = CN()
_C.META.SOLVER.STOP_GRADIENT = True  # the inner gradient is a constant for the outer one
_C.META.SOLVER.EARLY_SCALE = True  # under AMP, take the inner gradient from the unscaled loss
_C.META.SOLVER.INNER_CLAMP = True  # keep the gates in [0, 1] in the inner update

_C.META.SOLVER.INIT = CN()
_C.META.SOLVER.INIT.INNER_LOOP = 1  # base steps in an iteration
_C.META.SOLVER.INIT.FIRST_INNER_LOOP = 10  # base steps in iteration 0
_C.META.SOLVER.INIT.OUTER_LOOP = 1  # meta steps in an iteration

_C.META.SOLVER.MTRAIN = CN()
_C.META.SOLVER.MTRAIN.NUM_DOMAIN = 3  # meta-train domains; the others are meta-test
_C.META.SOLVER.MTRAIN.SECOND_ORDER = False  # True: the outer gradient goes through the inner one; STOP_GRADIENT False

_C.META.SOLVER.MTEST = CN()
_C.META.SOLVER.MTEST.ONLY_ONE_DOMAIN = False  # one meta-test domain, not all that are not meta-train

_C.META.SOLVER.LR_FACTOR = CN()
_C.META.SOLVER.LR_FACTOR.GATE = 10.0  # learning rate of the gates: BASE_LR x GATE
_C.META.SOLVER.LR_FACTOR.META = 0.0  # inner step / gate learning rate; 0: the cycle below
_C.META.SOLVER.LR_FACTOR.META_CYCLIC_MIDDLE_LR = 0.01  # the cycle runs between MIDDLE / RATIO and MIDDLE x RATIO
_C.META.SOLVER.LR_FACTOR.META_CYCLIC_RATIO = 10.0  # see MIDDLE_LR
_C.META.SOLVER.LR_FACTOR.META_CYCLIC_UP_RATIO = 0.5  # share of a period in which it rises
_C.META.SOLVER.LR_FACTOR.META_CYCLIC_PERIOD_PER_EPOCH = 0.2  # periods in an epoch

# -------------------------------------------------------------------------------------------------- evaluation
_C.TEST = CN()
_C.TEST.EVAL_PERIOD = 2  # (epochs)
_C.TEST.BEST_METRIC = "mAP"  # the column by whose average over the data sets model_best.pth is chosen
_C.TEST.IMS_PER_BATCH = 128  # images of a batch in tests
_C.TEST.METRIC = "cosine"  # or euclidean
_C.TEST.BLOCK_SIZE = 16_000_000  # distances held at a time, 4 bytes each
_C.TEST.FLIP = False  # average the features of each image and its mirror image
_C.TEST.PER_QUERY = False  # write AP, first correct rank, margin and nearest other of each query to per_query/*.csv

# Detection and identification rates, beside the table: who is asked for may not be in the gallery
_C.TEST.OPEN_SET = CN()
_C.TEST.OPEN_SET.ENABLED = False
# Share of the people asked for who are taken out of the gallery, by SEED; 0: as the data are
_C.TEST.OPEN_SET.UNKNOWN = 0.3
_C.TEST.OPEN_SET.FALSE_ALARM_RATES = [0.01, 0.1]  # shares of the queries without a match that get an answer

# Before each test, running statistics are computed again, as mean and variance of many batches
_C.TEST.PRECISE_BN = CN()
_C.TEST.PRECISE_BN.ENABLED = False  # (after SOLVER.SWA they always are, of NUM_ITER batches)
_C.TEST.PRECISE_BN.DATASET = "Market1501"  # whose training images; '', and with SOLVER.SWA alone: of all DATASETS.NAMES
_C.TEST.PRECISE_BN.NUM_ITER = 300  # batches of SOLVER.IMS_PER_BATCH

_C.TEST.AQE = CN()  # average query expansion, of query and gallery features
_C.TEST.AQE.ENABLED = False
_C.TEST.AQE.QE_TIME = 1  # repetitions
_C.TEST.AQE.QE_K = 5  # neighbours that are averaged, the image itself among them
_C.TEST.AQE.ALPHA = 3.0  # a neighbour's weight is cosine similarity ** ALPHA

_C.TEST.RERANK = CN()  # k-reciprocal re-ranking; holds the whole distance matrix
_C.TEST.RERANK.ENABLED = False
_C.TEST.RERANK.K1 = 20  # size of the reciprocal neighbourhoods
_C.TEST.RERANK.K2 = 6  # neighbours over which a neighbourhood is averaged
_C.TEST.RERANK.LAMBDA = 0.3  # share of the original distance

# ---------------------------------------------------------------------------------------------------- analysis
_C.ANALYSIS = CN()  # --tsne-only, --dist-only, --domain-only; what is drawn at random comes from SEED
_C.ANALYSIS.IMAGES = 2000  # of each data set at most, and as many whole identities as that allows
_C.ANALYSIS.IMAGES_PER_IDENTITY = 10  # taken first, so that a few identities with many images do not fill the sample
_C.ANALYSIS.IMAGES_PER_DOMAIN = 500  # out of those, for t-SNE and distances between domains: N x N of each two
_C.ANALYSIS.PAIRS = 100_000  # of one identity, and of two, in each data set at most
_C.ANALYSIS.BINS = 50  # of the histograms of distances

_C.ANALYSIS.TSNE = CN()
_C.ANALYSIS.TSNE.PCA_DIM = 50  # principal components that t-SNE sees
_C.ANALYSIS.TSNE.PERPLEXITY = 30.0  # lowered where there are fewer than three times as many images
_C.ANALYSIS.TSNE.IDENTITIES = 8  # that get a colour of their own

# ------------------------------------------------------------------------------------------------------- other
_C.OUTPUT_DIR = ""  # '': the config's path with configs -> logs
_C.SEED = 2020  # below 0: another one for each run, written to its config.yaml
_C.CUDNN_BENCHMARK = True  # let cuDNN try its algorithms first, on a GPU


def get_cfg() -> CN:
    """Return a copy of the defaults."""
    return _C.clone()


def add_options(section: str, defaults: dict[str, Any]) -> None:
    """Add a section of options, such as MODEL.LOSSES.MINE, to those that exist: to every `get_cfg` from now on.

    Raises:
        KeyError: there is such a section, or none that it could stand in.
    """
    *parents, name = section.split(".")
    node = reduce(getitem, parents, _C)
    if name in node:
        raise KeyError(f"there are options {section} already")
    node[name] = CN(defaults)
