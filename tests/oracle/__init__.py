"""An independent implementation of the M6 family in JAX, to hold m6c's numbers against.

model.py   the mathematics: layers, routing in GShard's one-hot einsum form, optimizers, schedules
text.py    the same model as .m6 text
files.py   random parameters and batches, safetensors files, comparison of two files
ops.py     single operations
"""
import pathlib

import jax

jax.config.update("jax_platforms", "cpu")
# What JAX compiled is kept between runs: compiling is most of the time these tests take.
jax.config.update("jax_compilation_cache_dir",
                  str(pathlib.Path(__file__).resolve().parents[2] / "build" / "jax-cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
