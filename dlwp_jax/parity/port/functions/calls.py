"""Functions of JAX on arrays in torch's order of axes: Fourier transforms, complex numbers,
linear algebra, places in sorted values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlwp_jax.parity.port.functions.common import Val, bound, handler, together
from dlwp_jax.parity.port.functions.products import places
from dlwp_jax.parity.port.nodes import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body

_AXIS = {"n": ("n", None), "dim": ("axis", -1), "norm": ("norm", None)}
_TWO = {"s": ("s", None), "dim": ("axes", (-2, -1)), "norm": ("norm", None)}
_ALL = {"s": ("s", None), "dim": ("axes", None), "norm": ("norm", None)}
_RIGHT = {"right": ("side", False)}
# torch's name -> JAX's, the arrays, and for each option JAX's name and torch's default.
_CALLS: dict[str, tuple[str, str, dict[str, tuple[str, Any]]]] = {
    "linalg_cross": ("jnp.cross", "input other", {"dim": ("axis", -1)}),
    "diff": ("jnp.diff", "input", {"n": ("n", 1), "dim": ("axis", -1)}),
    "trace": ("jnp.trace", "input", {}),
    "logcumsumexp": ("jax.lax.cumlogsumexp", "input", {"dim": ("axis", 0)}),
    "count_nonzero": ("jnp.count_nonzero", "input", {"dim": ("axis", None)}),
    "quantile": (
        "jnp.quantile",
        "input q",
        {"dim": ("axis", None), "keepdim": ("keepdims", 0)},
    ),
    "searchsorted": ("jnp.searchsorted", "sorted_sequence input", _RIGHT),
    "bincount": (
        "jnp.bincount",
        "input",
        {"weights": ("weights", None), "minlength": ("length", None)},
    ),
    "fft_fftshift": ("jnp.fft.fftshift", "input", {"dim": ("axes", None)}),
    "fft_ifftshift": ("jnp.fft.ifftshift", "input", {"dim": ("axes", None)}),
    "fft_fftfreq": ("jnp.fft.fftfreq", "n", {"d": ("d", 1.0)}),
    "fft_rfftfreq": ("jnp.fft.rfftfreq", "n", {"d": ("d", 1.0)}),
    "inverse": ("jnp.linalg.inv", "input", {}),
    "linalg_inv": ("jnp.linalg.inv", "A", {}),
    "det": ("jnp.linalg.det", "input", {}),
    "linalg_det": ("jnp.linalg.det", "A", {}),
    "linalg_solve": ("jnp.linalg.solve", "A B", {}),
    "cholesky": ("jnp.linalg.cholesky", "input", {}),
    "linalg_cholesky": ("jnp.linalg.cholesky", "input", {}),
    "pinverse": ("jnp.linalg.pinv", "input", {}),
    "linalg_pinv": ("jnp.linalg.pinv", "input", {}),
    "matrix_exp": ("jax.scipy.linalg.expm", "A", {}),
    "linalg_matrix_exp": ("jax.scipy.linalg.expm", "A", {}),
    "linalg_vecdot": ("jnp.vecdot", "x y", {"dim": ("axis", -1)}),
    "complex": ("jax.lax.complex", "real imag", {}),
    "fliplr": ("jnp.fliplr", "input", {}),
    "flipud": ("jnp.flipud", "input", {}),
    "rot90": ("jnp.rot90", "input", {"k": ("k", 1), "dims": ("axes", (0, 1))}),
    "logspace": ("jnp.logspace", "start end steps", {"base": ("base", 10.0)}),
    "pdist": ("nn.pdist", "input", {"p": ("p", 2.0)}),
    "local_response_norm": (
        "nn.local_response_norm",
        "input size",
        {"alpha": ("alpha", 1e-4), "beta": ("beta", 0.75), "k": ("k", 1.0)},
    ),
}
for _name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
    _CALLS[f"fft_{_name}"] = (f"jnp.fft.{_name}", "input", _AXIS)
for _name in ("fft2", "ifft2", "rfft2", "irfft2"):
    _CALLS[f"fft_{_name}"] = (f"jnp.fft.{_name}", "input", _TWO)
for _name in ("fftn", "ifftn", "rfftn", "irfftn"):
    _CALLS[f"fft_{_name}"] = (f"jnp.fft.{_name}", "input", _ALL)


@handler(*_CALLS)
def _call(body: Body, node: Node) -> Val:
    call, names, options = _CALLS[node.name]
    arrays = names.split()
    if len(node.args) > len(arrays) + len(options):
        raise Refused(f"{node.name} with {len(node.args)} arguments is not known to the port.")
    given = dict(zip((*arrays, *options), node.args, strict=False)) | node.kwargs
    unknown = [name for name in given if name not in (*arrays, *options, "dtype", "device")]
    if unknown:
        raise Refused(f"{node.name} with {', '.join(unknown)} is not known to the port.")
    texts = [body.text(_tuple(given[name])) for name in arrays]
    for name, (ours, default) in options.items():
        value = _tuple(given.get(name, default))
        if isinstance(value, Node) or value != default:
            text = _option(body, name, value)
            texts.append(f"{ours}={text}")
    last = call == "nn.local_response_norm"
    if last:
        texts[0] = body.last(node.args[0]).text
    return Val(f"{call}({', '.join(texts)})", last)


def _option(body: Body, name: str, value: Any) -> str:
    if name == "right":
        return repr("right")
    return repr(value) if isinstance(value, str | bool) else body.text(value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@handler("cross")
def _cross(body: Body, node: Node) -> Val:
    x, other, dim = bound(node, "input", "other", "dim")
    axis = x.shape.index(3) if dim is None else dim  # torch's choice
    return Val(f"jnp.cross({body.plain(x).text}, {body.plain(other).text}, axis={axis})")


@handler("bucketize")
def _bucketize(body: Body, node: Node) -> Val:
    x, edges = bound(node, "input", "boundaries")
    side = ", side='right'" if node.kwargs.get("right") else ""
    return Val(f"jnp.searchsorted({body.plain(edges).text}, {body.plain(x).text}{side})")


@handler("triu_indices", "tril_indices")
def _of_triangle(body: Body, node: Node) -> Val:
    rows, columns, offset = bound(node, "row", "col", "offset", offset=0)
    given = f"{body.text(rows)}, {body.text(offset)}, {body.text(columns)}"
    return Val(f"jnp.stack(jnp.{node.name}({given}))")


@handler("diag_embed")
def _diag_embed(body: Body, node: Node) -> Val:
    x, *others = node.args
    if others or node.kwargs:
        raise Refused("diag_embed is known to the port for the main diagonal alone.")
    x = body.part(body.plain(x), 0)
    eye = f"jnp.eye({x}.shape[-1], dtype=bool)"
    return Val(f"jnp.where({eye}, {x}[..., None], 0)")


@handler("block_diag")
def _block_diag(body: Body, node: Node) -> Val:
    return Val(f"jax.scipy.linalg.block_diag({', '.join(map(body.text, node.args))})")


@handler("view_as_complex")
def _view_as_complex(body: Body, node: Node) -> Val:
    x = body.part(body.plain(node.args[0]), 0)
    return Val(f"jax.lax.complex({x}[..., 0], {x}[..., 1])")


@handler("view_as_real")
def _view_as_real(body: Body, node: Node) -> Val:
    x = body.part(body.plain(node.args[0]), 0)
    return Val(f"jnp.stack([{x}.real, {x}.imag], -1)")


@handler("polar")
def _polar(body: Body, node: Node) -> Val:
    size, angle = (body.plain(arg) for arg in bound(node, "abs", "angle"))
    wave = f"jax.lax.complex(jnp.cos({angle.text}), jnp.sin({angle.text}))"
    return Val(f"{body.part(size, 3)} * {wave}", False, 3)


@handler("threshold")
def _threshold(body: Body, node: Node) -> Val:
    x, threshold, value = bound(node, "input", "threshold", "value")
    val = body.val(x)
    given = f"{val.text}, {body.number(threshold)}, {body.number(value)}"
    return Val(f"nn.threshold({given})", val.last)


@handler("logit")
def _logit(body: Body, node: Node) -> Val:
    x, eps = bound(node, "input", "eps")
    val = body.val(x)
    inner = val.text if eps is None else f"jnp.clip({val.text}, {eps!r}, {1 - eps!r})"
    return Val(f"jax.scipy.special.logit({inner})", val.last)


@handler("xlogy", "special_xlogy", "copysign", "heaviside", "fmax", "fmin", "isclose")
def _of_two(body: Body, node: Node) -> Val:
    pair, last = together(body, node.args[:2], node.ndim)
    if node.kwargs or len(node.args) > 2:
        raise Refused(f"{node.name} with options is not known to the port.")
    call = "jax.scipy.special.xlogy" if "xlogy" in node.name else f"jnp.{node.name}"
    return Val(f"{call}({pair[0].text}, {pair[1].text})", last)


@handler("scatter_reduce")
def _scatter_reduce(body: Body, node: Node) -> Val:
    names = ("input", "dim", "index", "src", "reduce", "include_self")
    x, dim, index, source, how, own = bound(node, *names, include_self=True)
    verbs = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
    if how not in verbs or not own or source.shape != index.shape:
        raise Refused(
            "scatter_reduce is known for sum, prod, amax and amin, "
            "with include_self and a source of the index's shape."
        )
    at = f"{body.part(body.plain(x), 0)}.at[{places(body, index, dim)}]"
    return Val(f"{at}.{verbs[how]}({body.plain(source).text})")


@handler("index_fill", "index_copy")
def _index_fill(body: Body, node: Node) -> Val:
    name = "value" if node.name == "index_fill" else "source"
    x, dim, index, value = bound(node, "input", "dim", "index", name)
    at = f"{':, ' * (dim % x.ndim)}{body.plain(index).text}"
    return Val(f"{body.part(body.plain(x), 0)}.at[{at}].set({body.text(value)})")


@handler("index_put")
def _index_put(body: Body, node: Node) -> Val:
    x, indices, values, add = bound(node, "input", "indices", "values", "accumulate")
    at = ", ".join(body.text(index) for index in indices)
    verb = "add" if add else "set"
    return Val(f"{body.part(body.plain(x), 0)}.at[{at}].{verb}({body.text(values)})")


@handler("frac")
def _frac(body: Body, node: Node) -> Val:
    x = body.val(node.args[0])
    return Val(f"{body.part(x, 4)} - jnp.trunc({x.text})", x.last, 4)
