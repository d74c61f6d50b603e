"""Build the compiled evaluator; everything else about the package is in pyproject.toml."""

import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError


class BuildWithOpenMP(build_ext):
    """Add OpenMP flags where the compiler takes them; without OpenMP the evaluator runs on one core."""

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc":
            compile_flags, link_flags, openmp = ["/O2"], [], (["/openmp"], [])
        else:
            compile_flags, link_flags, openmp = ["-O3"], [], (["-fopenmp"], ["-fopenmp"])
        if self.links(*openmp):
            compile_flags, link_flags = compile_flags + openmp[0], link_flags + openmp[1]
        for extension in self.extensions:
            extension.extra_compile_args = compile_flags
            extension.extra_link_args = link_flags
        super().build_extensions()

    def links(self, compile_flags: list[str], link_flags: list[str]) -> bool:
        """Tell whether a program that calls OpenMP compiles and links with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "openmp.c"
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_flags)
                self.compiler.link_executable(objects, "openmp", output_dir=folder, extra_postargs=link_flags)
            except (CompileError, LinkError):
                return False
        return True


# optional: without a C compiler the installation succeeds with a warning and the NumPy evaluator is used.
setup(
    ext_modules=[
        Extension(
            "fastreid.evaluation.rank_cylib.rank_cy", ["fastreid/evaluation/rank_cylib/rank_cy.pyx"], optional=True
        )
    ],
    cmdclass={"build_ext": BuildWithOpenMP},
)
