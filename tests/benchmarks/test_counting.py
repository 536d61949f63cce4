"""FLOPs counted by hand."""

import jax
import jax.numpy as jnp

from benchmarks.counting import product_flops


def test_products_in_loops_and_branches_are_counted():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert product_flops(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5
    batched = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)
    assert product_flops(batched, jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5))) == 7 * 2 * 3 * 4 * 5

    def looped(x):
        step = lambda carry, _: (carry @ carry, None)
        return jax.lax.scan(step, x, None, length=6)[0]

    assert product_flops(jax.jit(looped), jnp.ones((3, 3))) == 6 * 2 * 27
    either = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x)
    assert product_flops(either, jnp.ones((3, 3))) == 2 * 27
