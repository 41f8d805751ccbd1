"""Functions of torch that are one row of a table."""

from typing import Any

# One value at a time; the layout stays.
_OF_NN = """relu relu6 silu hardswish hardsigmoid sigmoid tanh mish selu softsign tanhshrink
log_sigmoid"""
_OF_JNP = """exp log log2 log10 log1p expm1 sqrt abs sin cos tan sinh cosh square floor ceil
round sign isnan isfinite isinf logical_not reciprocal zeros_like ones_like exp2 trunc arctanh
arcsinh arccosh deg2rad rad2deg sinc real imag conj angle"""
ELEMENTWISE = {
    **{name: f"nn.{name}" for name in _OF_NN.split()},
    **{name: f"jnp.{name}" for name in _OF_JNP.split()},
    "logsigmoid": "nn.log_sigmoid",
    "arctan": "jnp.arctan",
    "atan": "jnp.arctan",
    "acos": "jnp.arccos",
    "asin": "jnp.arcsin",
    "atanh": "jnp.arctanh",
    "asinh": "jnp.arcsinh",
    "acosh": "jnp.arccosh",
    "absolute": "jnp.abs",
    "sgn": "jnp.sign",
    "fix": "jnp.trunc",
    "special_expit": "nn.sigmoid",
    "special_erf": "jax.scipy.special.erf",
    "special_gammaln": "jax.scipy.special.gammaln",
    "special_logit": "jax.scipy.special.logit",
    "empty_like": "jnp.zeros_like",
    "rsqrt": "jax.lax.rsqrt",
    "erf": "jax.scipy.special.erf",
    "erfc": "jax.scipy.special.erfc",
    "erfinv": "jax.scipy.special.erfinv",
    "lgamma": "jax.scipy.special.gammaln",
    "digamma": "jax.scipy.special.digamma",
    "detach": "jax.lax.stop_gradient",
}
# Functions with numbers behind the array, by name and default.
WITH_NUMBERS: dict[str, tuple[str, tuple[tuple[str, Any], ...]]] = {
    "gelu": ("nn.gelu", (("approximate", "none"),)),
    "leaky_relu": ("nn.leaky_relu", (("negative_slope", 0.01),)),
    "elu": ("nn.elu", (("alpha", 1.0),)),
    "celu": ("nn.celu", (("alpha", 1.0),)),
    "softplus": ("nn.softplus", (("beta", 1), ("threshold", 20))),
    "hardtanh": ("nn.hardtanh", (("min_val", -1.0), ("max_val", 1.0))),
    "hardshrink": ("nn.hardshrink", (("lambd", 0.5),)),
    "softshrink": ("nn.softshrink", (("lambd", 0.5),)),
}
# What changes nothing here.
PASSED_ON = {"contiguous", "clone", "requires_grad", "cpu", "cuda", "alias", "view_as_self"}
PASSED_ON |= {"positive", "resolve_conj", "resolve_neg"}
_SIGN_ROWS = {
    "+": ("add", "iadd", "radd"),
    "-": ("sub", "isub", "subtract"),
    "*": ("mul", "imul", "rmul", "multiply"),
    "/": ("div", "truediv", "itruediv", "true_divide", "divide", "idiv"),
    "//": ("floordiv", "floor_divide", "ifloordiv"),
    "%": ("mod", "remainder", "imod"),
    "**": ("pow", "ipow"),
    "<": ("lt", "less"),
    "<=": ("le",),
    ">": ("gt", "greater"),
    ">=": ("ge",),
    "==": ("eq",),
    "!=": ("ne",),
    "&": ("and", "logical_and", "iand", "bitwise_and"),
    "|": ("or", "logical_or", "ior", "bitwise_or"),
    "^": ("xor", "logical_xor", "ixor", "bitwise_xor"),
}
_BINDS = {"**": 1, "*": 3, "/": 3, "//": 3, "%": 3, "+": 4, "-": 4}
SIGNS = {name: (sign, _BINDS.get(sign, 5)) for sign, row in _SIGN_ROWS.items() for name in row}
TURNED = {
    "rsub": "sub",
    "rtruediv": "div",
    "rdiv": "div",
    "rpow": "pow",
    "rfloordiv": "floordiv",
}
REDUCTIONS = {name: name for name in ("mean", "sum", "var", "std", "prod", "any", "all")}
REDUCTIONS |= {"amax": "max", "amin": "min"}
