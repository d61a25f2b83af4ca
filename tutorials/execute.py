"""Execute every notebook of this folder from the first cell to the last; a cell that fails ends the run.

The notebooks are kept without outputs. Copies with them are written to ``build/tutorials``, for ``docs/build.py``.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> int:
    """Run the notebooks named on the command line, or all of them, and say how long each took."""
    here = Path(__file__).resolve().parent
    executed = here.parent / "build" / "tutorials"
    executed.mkdir(parents=True, exist_ok=True)
    # The notebooks' tensors are small: on a busy machine, threads would mostly wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # or figures would not be kept
    paths = [Path(name) for name in sys.argv[1:]] or sorted(here.glob("*.ipynb"))
    for path in paths:
        started = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}}).execute()
        nbformat.write(notebook, executed / path.name)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
