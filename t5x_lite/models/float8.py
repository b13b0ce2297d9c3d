"""Products with weights in float8, for training.

Forward both operands are rounded to e4m3, backward the gradient of the outputs to e5m2, whose
range is wider (Micikevicius et al. 2022, section 3). Each is scaled so that the largest absolute
value in it becomes the largest of the format. As no scale comes from an earlier step, there is
nothing to carry along: microbatches, scanned layers, recomputation and checkpoints are as without.
"""

import jax
import jax.numpy as jnp
from flax.linen import fp8_ops


@jax.custom_vjp
def product(rows, kernel):
  """Multiplies rows [rows, inputs] with a kernel [inputs, features]; returns the dtype of rows."""
  return _forward(rows, kernel)[0]


def _forward(rows, kernel):
  x, x_scale = _quantized(rows, jnp.float8_e4m3fn)
  w, w_scale = _quantized(kernel, jnp.float8_e4m3fn)
  products = _dot(x, w, ((1,), (0,))) * (x_scale * w_scale)
  return products.astype(rows.dtype), (x, x_scale, w, w_scale)


def _backward(operands, gradient):
  x, x_scale, w, w_scale = operands
  g, g_scale = _quantized(gradient, jnp.float8_e5m2)
  of_rows = _dot(g, w, ((1,), (1,))) * (g_scale * w_scale)
  of_kernel = _dot(x, g, ((0,), (0,))) * (x_scale * g_scale)
  return of_rows.astype(gradient.dtype), of_kernel


product.defvjp(_forward, _backward)


def _quantized(x, dtype):
  """Returns (x divided by its scale in float8, the float32 scale)."""
  x = x.astype(jnp.float32)
  largest = fp8_ops.get_fp8_max(dtype, jnp.float32)
  # The scale of zeros is 1, and of what is not finite, of which NaN stays what it is.
  scale = fp8_ops.compute_scale(jnp.max(jnp.abs(x)), jnp.float32(1), largest)
  return fp8_ops.quantize(x, dtype, scale, jnp.float32), scale


def _dot(a, b, contracted):
  dimensions = (contracted, ((), ()))
  return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
