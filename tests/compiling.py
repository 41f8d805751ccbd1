"""How XLA compiles the programs of tests.

A default run leaves out the slow tests and compiles quickly: most of its programs run once or
twice, and XLA's last optimisations take longer than they save. Measured on 88 tests: 51 s of
processor time, 22 s with the options below. A run with the slow tests, as CI's, compiles as a
user's program is compiled. Processes that are started to see how they share arrays or how they
end compile quickly in every run: each compiles the same programs again.
"""

import os

import jaxlib

QUICK: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
# `jax.jit(..., compiler_options=AS_USERS_DO)` is for a test whose digits hang on the compiler.
AS_USERS_DO: dict[str, int | bool] = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
if jaxlib.__version__.startswith(
    "0.10."
):  # a later XLA ends at an option that it does not know
    QUICK["xla_cpu_use_fusion_emitters"] = False
    AS_USERS_DO["xla_cpu_use_fusion_emitters"] = True


def quick_environment() -> dict[str, str]:
    """The environment of a process that compiles quickly."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    for name, value in QUICK.items():
        flag = f"--{name}={value}".lower()
        if flag not in flags:
            flags.append(flag)
    return os.environ | {"XLA_FLAGS": " ".join(flags)}


def compile_quickly() -> None:
    """From the first program of this process on, and in the processes that it starts."""
    os.environ.update(quick_environment())
