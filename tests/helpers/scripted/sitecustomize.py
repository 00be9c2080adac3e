"""Found through PYTHONPATH: puts the scripted vLLM before the real one, in engines alone (TRL looks for vLLM as well)."""

import sys
from pathlib import Path

if "codelutra.sampling" in sys.orig_argv:
    sys.path.insert(0, str(Path(__file__).parent / "engine"))
