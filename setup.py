"""The compiled kernels; all else is in pyproject.toml. Without a C compiler the build goes on without them."""

from __future__ import annotations

import glob
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class OptionalBuild(build_ext):
    """A kernel that cannot be compiled is left out: Numba and numpy serve instead."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as why:  # any failure of any compiler means the same here
            print(f"lsmtensor: {ext.name} was not compiled ({type(why).__name__}); the Numba and numpy kernels serve instead.", file=sys.stderr)


def extensions() -> list[Extension]:
    import numpy
    from Cython.Build import cythonize

    sources = sorted(glob.glob("lsmtensor/kernels/cython/*.pyx") + ["lsmtensor/rows/_rows.pyx"])
    made = [
        Extension(
            source[:-4].replace("/", "."), [source], depends=glob.glob("lsmtensor/kernels/cython/*.h") + glob.glob("lsmtensor/*/**/*.pxi", recursive=True), include_dirs=[numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math"],
        )
        for source in sources
    ]  # fmt: skip
    made = cythonize(made, compiler_directives={"language_level": 3}, annotate=False, quiet=True)
    for extension in made:
        extension.optional = True  # or an editable install looks for the file that was not made; cythonize drops it before
    return list(made)


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild})
