"""What docs/parity.md lists. An expression stands for both: it is evaluated in torch.nn and in dlwp_jax.nn."""

NAMES = """CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish PReLU ReLU ReLU6 SELU SiLU
Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink"""
ACTIVATIONS = [(f"{name}()", (32, 32)) for name in NAMES.split()]
ACTIVATIONS += [(f"{name}(dim=1)", (32, 32)) for name in ("LogSoftmax", "Softmax", "Softmin")]

# (expression, input shapes in torch's layout). Layers that are random in train mode are compared in eval mode.
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
    ("BatchNorm1d(6)", (16, 6)),
    ("BatchNorm2d(6)", (4, 6, 8, 8)),
    ("BatchNorm3d(2)", (2, 2, 4, 6, 6)),
    ("LayerNorm(32)", (8, 32)),
    ("RMSNorm(32)", (8, 32)),
    ("GroupNorm(2, 6)", (2, 6, 8, 8)),
    ("InstanceNorm2d(6, affine=True)", (2, 6, 8, 8)),
    ("Dropout(0.5)", (4, 8)),
    ("MaxPool2d(3, stride=2, padding=1, ceil_mode=True)", (2, 4, 12, 12)),
    ("AvgPool2d(3, stride=2, padding=1, ceil_mode=True)", (2, 4, 12, 12)),
    ("AdaptiveAvgPool2d((3, 5))", (2, 4, 10, 12)),
    ("AdaptiveMaxPool2d((3, 5))", (2, 4, 10, 12)),
    ("ReflectionPad2d((1, 2, 3, 0))", (2, 4, 8, 8)),
    ("ReplicationPad2d(2)", (2, 4, 8, 8)),
    ("ConstantPad2d(2, 0.5)", (2, 4, 8, 8)),
    ("Upsample(scale_factor=2, mode='nearest')", (2, 4, 6, 6)),
    ("Upsample(scale_factor=2, mode='bilinear', align_corners=True)", (2, 4, 6, 6)),
    ("Upsample(size=(9, 7), mode='bicubic')", (2, 4, 6, 6)),
    ("PixelShuffle(2)", (2, 8, 6, 6)),
    ("Flatten()", (2, 4, 3, 5)),
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
]

# (class in torch.optim, options); ours is made from the live optimizer by `parity.torch_optimizer`.
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

# (class in torch.optim.lr_scheduler, function in dlwp_jax.optim, positional options after optimizer or learning rate)
SCHEDULES = [
    ("StepLR", "step_lr", (30, 0.5)),
    ("MultiStepLR", "multi_step_lr", ([10, 200, 700],)),
    ("ConstantLR", "constant_lr", (0.7, 500)),
    ("LinearLR", "linear_lr", (0.1, 1.0, 700)),
    ("ExponentialLR", "exponential_lr", (0.999,)),
    ("PolynomialLR", "polynomial_lr", (600, 2.5)),
    ("CosineAnnealingLR", "cosine_annealing_lr", (300, 0.01)),
    ("CosineAnnealingWarmRestarts", "cosine_annealing_warm_restarts", (11, 2)),
    ("LambdaLR", "lambda_lr", (lambda step: 1 / (1 + 0.01 * step),)),
]

# kind -> (tolerance relative to the largest value of an array, why it is of that size)
TOLERANCES = {
    "layer": (1e-5, "float32 sums of up to some hundred products in another order: 6e-8 for each rounding"),
    "loss": (1e-5, "exp and log differ in the last place, sums in their order"),
    "optimizer": (1e-4, "200 steps, each with some roundings of 6e-8, divided by roots of small averages"),
    "schedule": (1e-5, "float32 here, float64 in torch; powers of up to 1000 steps"),
}
# What needs its own: Muon multiplies in bfloat16, 8 bits, and every step passes through it.
EXCEPTIONS = {"Muon": (2e-2, "orthogonalised in bfloat16 (4e-3 a rounding), as torch does")}
