"""What docs/parity.md lists, and what it leaves out by name (tests/test_parity_table.py sees
that nothing else is).
"""

import torch.optim.lr_scheduler as theirs

from dlwp_jax import optim

NAMES = """CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish
PReLU ReLU ReLU6 SELU SiLU RReLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink"""
ACTIVATIONS = [(f"{name}()", (32, 32)) for name in NAMES.split()]
ACTIVATIONS += [
    (f"{name}(dim=1)", (32, 32)) for name in ("GLU", "LogSoftmax", "Softmax", "Softmin")
]
ACTIVATIONS += [("Softmax2d()", (2, 4, 8, 8)), ("Threshold(0.5, 7.0)", (32, 32))]

# An expression stands for both: it is evaluated in torch.nn and in dlwp_jax.nn, and read with
# an input of that shape in torch's layout, or with inputs of those shapes. Layers that are
# random in train mode are compared in eval mode.
LAYERS = [
    ("Linear(64, 32)", (8, 64)),
    ("Conv1d(4, 8, 5, stride=2, padding=2)", (2, 4, 32)),
    ("Conv2d(8, 16, 3, padding=1)", (2, 8, 16, 16)),
    ("Conv2d(8, 16, 3, padding='same', dilation=2, groups=4)", (2, 8, 16, 16)),
    ("Conv2d(8, 16, 3, padding=1, padding_mode='reflect')", (2, 8, 16, 16)),
    ("Conv3d(2, 4, 3, padding=1)", (1, 2, 6, 8, 8)),
    ("ConvTranspose1d(4, 6, 3, stride=2)", (2, 4, 10)),
    ("ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1)", (2, 8, 8, 8)),
    ("ConvTranspose3d(2, 3, 2, stride=2)", (1, 2, 4, 4, 4)),
    ("Embedding(20, 6, padding_idx=3)", (4, 9)),  # tokens below 20
    ("BatchNorm1d(6)", (16, 6)),
    ("BatchNorm2d(6)", (4, 6, 8, 8)),
    ("BatchNorm3d(2)", (2, 2, 4, 6, 6)),
    ("LayerNorm(32)", (8, 32)),
    ("RMSNorm(32)", (8, 32)),
    ("GroupNorm(2, 6)", (2, 6, 8, 8)),
    ("InstanceNorm1d(6)", (2, 6, 8)),
    ("InstanceNorm2d(6, affine=True)", (2, 6, 8, 8)),
    ("InstanceNorm3d(2, track_running_stats=True)", (2, 2, 4, 4, 4)),
    ("Dropout(0.5)", (4, 8)),
    ("Dropout1d(0.5)", (2, 4, 8)),
    ("Dropout2d(0.5)", (2, 4, 8, 8)),
    ("Dropout3d(0.5)", (2, 4, 3, 3, 3)),
    ("MaxPool1d(3, stride=2, dilation=2)", (2, 4, 16)),
    ("MaxPool2d(3, stride=2, padding=1, ceil_mode=True)", (2, 4, 12, 12)),
    ("MaxPool3d(2)", (2, 2, 6, 6, 6)),
    ("AvgPool1d(3, stride=2, padding=1, count_include_pad=False)", (2, 4, 16)),
    ("AvgPool2d(3, stride=2, padding=1, ceil_mode=True)", (2, 4, 12, 12)),
    ("AvgPool3d(2)", (2, 2, 6, 6, 6)),
    ("LPPool1d(2, 3)", (2, 4, 12)),
    ("LPPool2d(2, 3)", (2, 4, 12, 12)),
    ("LPPool3d(2, 2)", (2, 2, 6, 6, 6)),
    ("AdaptiveAvgPool1d(5)", (2, 4, 12)),
    ("AdaptiveAvgPool2d((3, 5))", (2, 4, 10, 12)),
    ("AdaptiveAvgPool3d((2, 3, 1))", (2, 2, 5, 7, 4)),
    ("AdaptiveMaxPool1d(5)", (2, 4, 12)),
    ("AdaptiveMaxPool2d((3, 5))", (2, 4, 10, 12)),
    ("AdaptiveMaxPool3d((2, 3, 1))", (2, 2, 5, 7, 4)),
]
# Ahead of the first axis as much as behind it would hide a side mistaken for another.
for n, sides in ((1, (1, 2)), (2, (1, 2, 3, 0)), (3, (1, 2, 0, 1, 2, 0))):
    image = (2, 3, *(5, 6, 7)[:n])
    LAYERS += [
        (f"{kind}Pad{n}d({sides})", image)
        for kind in ("Reflection", "Replication", "Circular", "Zero")
    ]
    LAYERS += [(f"ConstantPad{n}d({sides}, 0.5)", image)]
LAYERS += [
    ("Upsample(scale_factor=2, mode='nearest')", (2, 4, 6, 6)),
    ("TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)", (3, 5, 8)),
    ("TransformerEncoder(TransformerEncoderLayer(8, 2, 16, 0.0, 'gelu'), 2)", (5, 3, 8)),
    ("Upsample(scale_factor=2, mode='bilinear', align_corners=True)", (2, 4, 6, 6)),
    ("Upsample(size=(9, 7), mode='bicubic')", (2, 4, 6, 6)),
    ("Upsample(scale_factor=1.5, mode='linear')", (2, 4, 6)),
    ("Upsample(size=(5, 7, 9), mode='trilinear')", (1, 2, 4, 5, 6)),
    ("UpsamplingNearest2d(scale_factor=2)", (2, 4, 6, 6)),
    ("UpsamplingBilinear2d(scale_factor=2)", (2, 4, 6, 6)),
    ("PixelShuffle(2)", (2, 8, 6, 6)),
    ("PixelUnshuffle(2)", (2, 2, 6, 6)),
    ("Flatten()", (2, 4, 3, 5)),
    ("Unflatten(1, (4, 3, 5))", (2, 60)),
    ("Identity()", (2, 4)),
    ("RNN(6, 8, nonlinearity='relu', batch_first=True)", (2, 7, 6)),
    ("LSTM(6, 8, num_layers=2, bidirectional=True)", (7, 2, 6)),
    ("LSTM(6, 8, proj_size=3)", (7, 2, 6)),
    ("GRU(6, 8, num_layers=2, batch_first=True)", (2, 7, 6)),
    ("RNNCell(6, 8)", (4, 6)),
    ("LSTMCell(6, 8)", (4, 6)),
    ("GRUCell(6, 8)", (4, 6)),
    ("Bilinear(6, 5, 3)", ((4, 6), (4, 5))),
    ("EmbeddingBag(20, 6, mode='max', padding_idx=3)", (4, 9)),
    ("CosineSimilarity(dim=1)", ((4, 6), (4, 6))),
    ("PairwiseDistance(p=3.0)", ((4, 6), (4, 6))),
    ("ChannelShuffle(2)", (2, 6, 4, 4)),
    ("LocalResponseNorm(3, alpha=0.1)", (2, 6, 4, 4)),
    ("Unfold(3, padding=1, stride=2)", (2, 4, 9, 8)),
    ("Fold((9, 8), 3, padding=1, stride=2)", (2, 36, 20)),
    ("AlphaDropout(0.5)", (4, 8)),
    ("FeatureAlphaDropout(0.5)", (4, 8, 3)),
    ("Sequential(Linear(8, 6), Tanh(), Linear(6, 2))", (4, 8)),
]
LAYERS += ACTIVATIONS

# (name in torch.nn.functional and in dlwp_jax.losses, kinds of arguments, options)
LOSSES = [
    ("mse_loss", "xx", {}),
    ("l1_loss", "xx", {}),
    ("smooth_l1_loss", "xx", {"beta": 0.5}),
    ("huber_loss", "xx", {"delta": 0.5}),
    ("cross_entropy", "xc", {"label_smoothing": 0.1}),
    ("cross_entropy", "xp", {}),
    ("nll_loss", "xc", {}),
    ("binary_cross_entropy", "uu", {}),
    ("binary_cross_entropy_with_logits", "xu", {}),
    ("kl_div", "xp", {"reduction": "sum"}),
    ("poisson_nll_loss", "xu", {}),
    ("gaussian_nll_loss", "xxu", {}),
    ("hinge_embedding_loss", "xs", {}),
    ("soft_margin_loss", "xs", {}),
    ("multi_margin_loss", "xc", {}),
    ("multilabel_soft_margin_loss", "xu", {}),
    ("triplet_margin_loss", "xxx", {}),
    ("triplet_margin_with_distance_loss", "xxx", {"swap": True}),
    ("cosine_embedding_loss", "xxt", {"margin": 0.1}),
    ("margin_ranking_loss", "xxs", {"margin": 0.1}),
    ("multilabel_margin_loss", "xm", {}),
]

# (class in torch.optim, options); ours is made from the live optimizer by
# `parity.torch_optimizer`.
OPTIMIZERS = [
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01}),
    ("Adamax", {"lr": 0.01}),
    ("NAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True}),
    ("Adagrad", {"lr": 0.01}),
    ("Adadelta", {}),
    ("ASGD", {"lr": 0.01, "t0": 100}),
    ("Rprop", {}),
    ("Adafactor", {}),
    ("Muon", {"lr": 0.01}),
]

# Name -> (schedule here, torch's for an optimizer, what it sets). The first rate is RATE, the
# milestones are steps.
RATE, STEPS = 0.3, 1000


def slower(step):
    """A factor for LambdaLR and MultiplicativeLR."""
    return 1 / (1 + 0.01 * step)


def two_here():
    """Two schedules to be put together, as factors."""
    return [optim.exponential_lr(1.0, 0.999), optim.step_lr(1.0, 300, 0.5)]


def two_there(opt):
    """The same two in torch."""
    return [theirs.ExponentialLR(opt, 0.999), theirs.StepLR(opt, 300, 0.5)]


SCHEDULES = {
    "StepLR": (optim.step_lr(RATE, 30, 0.5), lambda o: theirs.StepLR(o, 30, 0.5), "lr"),
    "MultiStepLR": (
        optim.multi_step_lr(RATE, [10, 200, 700]),
        lambda o: theirs.MultiStepLR(o, [10, 200, 700]),
        "lr",
    ),
    "ConstantLR": (
        optim.constant_lr(RATE, 0.7, 500),
        lambda o: theirs.ConstantLR(o, 0.7, 500),
        "lr",
    ),
    "LinearLR": (
        optim.linear_lr(RATE, 0.1, 1.0, 700),
        lambda o: theirs.LinearLR(o, 0.1, 1.0, 700),
        "lr",
    ),
    "ExponentialLR": (
        optim.exponential_lr(RATE, 0.999),
        lambda o: theirs.ExponentialLR(o, 0.999),
        "lr",
    ),
    "PolynomialLR": (
        optim.polynomial_lr(RATE, 600, 2.5),
        lambda o: theirs.PolynomialLR(o, 600, 2.5),
        "lr",
    ),
    "CosineAnnealingLR": (
        optim.cosine_annealing_lr(RATE, 300, 0.01),
        lambda o: theirs.CosineAnnealingLR(o, 300, 0.01),
        "lr",
    ),
    "CosineAnnealingWarmRestarts": (
        optim.cosine_annealing_warm_restarts(RATE, 11, 2),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 11, 2),
        "lr",
    ),
    "OneCycleLR": (
        optim.one_cycle_lr(RATE, STEPS),
        lambda o: theirs.OneCycleLR(o, RATE, STEPS),
        "lr",
    ),
    "one_cycle_momentum": (
        optim.one_cycle_momentum(STEPS),
        lambda o: theirs.OneCycleLR(o, RATE, STEPS),
        "momentum",
    ),
    "CyclicLR": (
        optim.cyclic_lr(0.01, RATE, 33, 10, "exp_range", 0.999),
        lambda o: theirs.CyclicLR(o, 0.01, RATE, 33, 10, "exp_range", 0.999),
        "lr",
    ),
    "cyclic_momentum": (
        optim.cyclic_momentum(step_size_up=33),
        lambda o: theirs.CyclicLR(o, 0.01, RATE, 33),
        "momentum",
    ),
    "LambdaLR": (optim.lambda_lr(RATE, slower), lambda o: theirs.LambdaLR(o, slower), "lr"),
    "MultiplicativeLR": (
        optim.multiplicative_lr(RATE, lambda step: 1 - 1e-5 * step),
        lambda o: theirs.MultiplicativeLR(o, lambda step: 1 - 1e-5 * step),
        "lr",
    ),
    "SequentialLR": (
        optim.sequential_lr(
            [optim.constant_lr(RATE, 0.1, 50), optim.exponential_lr(RATE, 0.99)], [50]
        ),
        lambda o: theirs.SequentialLR(
            o, [theirs.ConstantLR(o, 0.1, 50), theirs.ExponentialLR(o, 0.99)], [50]
        ),
        "lr",
    ),
    "ChainedScheduler": (
        optim.chained_scheduler(RATE, two_here()),
        lambda o: theirs.ChainedScheduler(two_there(o)),
        "lr",
    ),
}

# kind -> (tolerance relative to the largest value of an array, why it is of that size)
TOLERANCES = {
    "layer": (
        1e-5,
        "float32 sums of up to some hundred products in another order: 6e-8 for each rounding",
    ),
    "loss": (1e-5, "exp and log differ in the last place, sums in their order"),
    "optimizer": (
        1e-4,
        "200 steps, each with some roundings of 6e-8, divided by roots of small averages",
    ),
    "function": (1e-5, "float32 products and sums in another order: 6e-8 for each rounding"),
    "clipping": (1e-5, "one float32 norm, one division"),
    "schedule": (1e-5, "float32 here, float64 in torch; powers of up to 1000 steps"),
}
# What needs its own: Muon multiplies in bfloat16, 8 bits, and every step passes through it.
EXCEPTIONS = {
    "Muon": (2e-2, "orthogonalised in bfloat16 (4e-3 a rounding), as torch does"),
    "LBFGS": (
        1e-3,
        "where both end, in float32: the loss is flat to a rounding for 2e-4 around its "
        "minimum",
    ),
}

# Public names without a row, with the reason.
BY_LAYER = "the function of a layer that has a row"
WITHOUT_A_ROW = {
    **dict.fromkeys(
        ("Conv", "ConvTranspose", "conv", "conv_transpose"),
        "Conv1d to ConvTranspose3d are these",
    ),
    "batch_norm": "the function of BatchNorm1d to BatchNorm3d: tests/test_nn_functions.py",
    **dict.fromkeys(
        ("ModuleDict", "ModuleList", "ParameterDict", "ParameterList"),
        "hold layers or parameters and compute nothing",
    ),
    **dict.fromkeys(
        (
            *("MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "max_unpool"),
            *("FractionalMaxPool2d", "FractionalMaxPool3d", "fractional_max_pool"),
            *("AdaptiveLogSoftmaxWithLoss", "SyncBatchNorm", "normalize", "pdist"),
            "vector_norm",
            "gumbel_softmax",
        ),
        "takes more than floats, draws, or does not run on torch's CPU: tests/test_nn_rest.py",
    ),
    "pad_sequence": "copies: tests/test_nn_recurrent.py",
    "StochasticDepth": "torchvision's, and draws: tests/test_nn_dropout.py",
    **dict.fromkeys(
        ("LunaModel", "UNet", "UNetWrapper"),
        "networks of the book: tests/test_golden_luna.py, tests/test_golden_unet.py",
    ),
    **dict.fromkeys(
        (
            "ConvNet",
            "NetBatchNorm",
            "NetDepth",
            "NetDropout",
            "NetRes",
            "NetResDeep",
            "ResBlock",
        ),
        "networks of the book: tests/test_golden_chapter8.py",
    ),
    **dict.fromkeys(
        ("AttentionMLP", "Bigram", "SequenceBlock", "SequenceMLP", "SequenceTransformer"),
        "networks of the book: tests/test_golden_chapter9.py",
    ),
    **dict.fromkeys(
        (
            "MultiheadAttention",
            "Transformer",
            "TransformerDecoder",
            "TransformerDecoderLayer",
            "scaled_dot_product_attention",
        ),
        "several inputs: tests/test_nn_attention.py",
    ),
    **dict.fromkeys(
        (
            "attend_with_cache",
            "generate",
            "next_token",
            "rotary",
            "sinusoidal_embedding",
            "sinusoidal_positions",
        ),
        "torch has no such function: tests/test_nn_generation.py",
    ),
    **dict.fromkeys(
        ("AlexNet", "BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet50", "resnet101"),
        "networks of torchvision: tests/test_models_imagenet.py",
    ),
    **dict.fromkeys(
        ("VisionTransformer", "vit_b_16"), "torchvision's too: tests/test_models_vit.py"
    ),
    "LayerStack": "layers that have rows, as a loop: tests/test_nn_layer_stack.py",
    **dict.fromkeys(
        ("adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "lp_pool", "max_pool"), BY_LAYER
    ),
    **dict.fromkeys(("instance_norm", "interpolate", "pad"), BY_LAYER),
    **dict.fromkeys(
        ("grad_norm", "groups", "torch_layout", "per_epoch"),
        "change no number of an optimizer's own",
    ),
}
