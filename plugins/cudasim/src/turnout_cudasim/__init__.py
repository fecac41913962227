"""A CUDA device that needs no GPU: a stand-in for the driver library, and an interpreter of the PTX that NVRTC emits.

    import turnout_cudasim

    turnout_cudasim.install()  # before cuda.bindings is imported
    from cuda.core import Device

    device = Device()  # the simulated one

`python -m turnout_cudasim SCRIPT` does the same for a script, `pytest --cuda=sim` for tests. What was found wrong is printed as it is
found, and kept in `reports()`.
"""

from .installing import InstallError, clear, install, mode, reports

__all__ = ["InstallError", "clear", "install", "mode", "reports"]
