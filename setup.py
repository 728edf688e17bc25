"""The extension modules; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
from glob import glob
from pathlib import PurePosixPath

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        [
            Extension(
                str(PurePosixPath(source).with_suffix("")).replace("/", "."),
                [source],
                # Any header that changed rebuilds all: a struct is laid out in several modules.
                depends=sorted(glob("core/kernel/*.pxd")),
                extra_compile_args=["-std=c11", "-O2"],
            )
            for source in sorted(glob("core/*/_*.pyx"))
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
        },
    ),
)
