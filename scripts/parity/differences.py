"""Where torch and the JAX side differ by default, and the tests that hold ours to torch's."""

# (what, torch, JAX side by default, tests: file without its `tests/test_` and `.py`, and the
# function's name)
ROWS = [
    (
        "Linear and Conv initialisation",
        "kaiming-uniform(a=sqrt 5), bias uniform(+-1/sqrt fan_in)",
        "lecun-normal, zero bias",
        [
            "nn_init::test_default_distribution_of_kernel_and_bias",
            "nn_init::test_linear_is_narrower_than_flaxs_at_fan_in_100",
        ],
    ),
    (
        "Embedding initialisation",
        "N(0, 1)",
        "scaled",
        ["nn_init::test_default_embedding_and_norms"],
    ),
    (
        "RNN, LSTM, GRU",
        "two biases, uniform(+-1/sqrt hidden); layers, two directions, projection",
        "one bias, orthogonal recurrent kernel; cells of one layer",
        [
            "nn_recurrent::test_outputs_states_and_gradients_with_every_option",
            "nn_recurrent::test_parameters_are_drawn_as_torch_draws_them",
        ],
    ),
    (
        "sequences of different lengths",
        "packed sequences: the last state is that at each sequence's own end",
        "seq_lengths of nnx.RNN: outputs behind the end are not zero",
        ["nn_recurrent::test_outputs_states_and_gradients_with_every_option"],
    ),
    (
        "BatchNorm",
        "momentum 0.1 of the new value, eps 1e-5, unbiased running variance in two passes",
        "0.99 of the old value, biased, one pass (error 0.28 at a mean of 1000)",
        [
            "nn_norm::test_running_statistics_over_steps_then_eval_mode",
            "nn_norm::test_two_pass_variance_at_a_mean_of_1000",
        ],
    ),
    (
        "Layer-, Group-, InstanceNorm",
        "eps 1e-5; InstanceNorm without affine",
        "eps 1e-6; affine",
        ["nn_norm::test_norms_within_an_example", "nn_init::test_default_embedding_and_norms"],
    ),
    (
        "convolution's padding",
        "whole numbers, the same on both sides",
        "'SAME' depends on the stride",
        ["nn_convolution::test_output_and_gradients"],
    ),
    (
        "transposed convolution",
        "output_padding, kernel flipped",
        "another rule for padding",
        [
            "nn_convolution::test_output_and_gradients",
            "nn_convolution::test_output_size_of_transposed_convolution",
        ],
    ),
    (
        "pooling",
        "stride = window; ceil_mode; adaptive",
        "stride 1; neither",
        ["nn_pool::test_output_and_gradient"],
    ),
    (
        "flatten",
        "C H W order",
        "H W C order",
        [
            "nn_basics::test_flatten_in_torchs_order",
            "parity_weights::test_a_probe_finds_and_turns_the_flatten",
        ],
    ),
    (
        "grid_sample, affine_grid",
        "align_corners, padding_mode, 2-D and 3-D",
        "absent",
        ["nn_resize::test_affine_grid", "nn_resize::test_grid_sample"],
    ),
    ("resize", "no antialias", "antialias", ["nn_resize::test_upsample"]),
    (
        "GELU",
        "exact",
        "tanh approximation",
        ["nn_activations::test_values_and_derivatives_with_torchs_choice_at_every_kink"],
    ),
    (
        "SGD",
        "weight decay before momentum; dampening; nesterov",
        "the order is yours; no dampening",
        ["optim::test_formula_is_torchs"],
    ),
    (
        "Adam, AdamW",
        "weight_decay is L2 in Adam, 1e-2 in AdamW",
        "none; 1e-4",
        ["optim::test_formula_is_torchs"],
    ),
    (
        "RMSprop",
        "alpha 0.99, eps outside of the root",
        "0.9, inside",
        ["optim::test_formula_is_torchs", "optim::test_schedule_in_torchs_order"],
    ),
    (
        "Adagrad, Adadelta, Adamax, NAdam, RAdam, ASGD, Rprop, L-BFGS",
        "torch's formulas",
        "some differ, some are absent",
        ["optim::test_formula_is_torchs", "optim_lbfgs::test_lbfgs_finds_torchs_minimum"],
    ),
    (
        "ReduceLROnPlateau",
        "patience p",
        "reduces one epoch earlier",
        ["optim_schedules::test_reduce_lr_on_plateau"],
    ),
    (
        "clip_grad_norm_",
        "divides by the norm + 1e-6",
        "by the norm",
        ["optim_clip::test_clip_grad_norm"],
    ),
    (
        "cross_entropy(weight=)",
        "divides by the sum of weights",
        "by n",
        ["losses::test_value_and_gradient"],
    ),
    (
        "precision of products",
        "float32",
        "TF32 may be on (GPU)",
        ["parity_compare::test_both_sides_run_at_the_highest_precision"],
    ),
]
