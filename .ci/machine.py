"""Says, in one line, what this machine lacks to build Stockade. Runs on any Python 3.6 or newer."""

import os
import shutil
import sys
import sysconfig


def missing():
    """The first thing that is missing, with what to install, or None."""
    if sys.version_info < (3, 11):  # noqa: UP036
        found = sys.version.split()[0]
        return f"Python >= 3.11 is needed, this is {found}; name a newer one: make PYTHON=python3.x"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler}): install gcc (Debian: apt-get install gcc)"
    header = os.path.join(sysconfig.get_config_var("INCLUDEPY"), "Python.h")
    if not os.path.exists(header):
        return f"there is no {header}: install it (Debian: apt-get install python3-dev)"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "there is no venv module: install it (Debian: apt-get install python3-venv)"
    return None


if __name__ == "__main__":
    lack = missing()
    if lack is not None:
        sys.exit(f"stockade cannot be built: {lack}")
