"""The version of this package, without importing PyTorch."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The version of this package as it is installed; "not installed" in a checkout."""
    try:
        return version("captum-extremal")
    except PackageNotFoundError:
        return "not installed"
