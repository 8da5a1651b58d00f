"""Takes over a run from its checkpoint, makes a step on the CPU devices of torch-xla, and saves. Started by test_checkpoints.py.

mover.py FOLDER BATCHES: checkpoints are in FOLDER/checkpoints, the program in FOLDER/program
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from safetensors.torch import load_file

from llmc.runtimes.xla import device
from llmc.runtimes.xla.checkpoint import SpreadCheckpoints
from llmc.runtimes.xla.run import join_hosts

folder = Path(sys.argv[1])
device.start()
join_hosts()
sys.path.insert(0, str(folder / "program"))
program = importlib.import_module("train")
program.take_mesh()
model, optimizer = program.build(program.first_weight, program.SPREADS.zeros)
checkpoints = SpreadCheckpoints(folder / "checkpoints", program.SPREADS, keep=5)
saved = checkpoints.load_latest(model=model, optimizer=optimizer)
assert saved is not None
windows = load_file(sys.argv[2])["batches"][saved.step].unflatten(0, (-1, program.ROWS)).numpy()
program.train_step(model, optimizer, program.on_devices(iter(windows)), lr=1e-3)
checkpoints.save(saved.step + 1, model=model, optimizer=optimizer, cursor=saved.cursor)
checkpoints.finish()
sys.stdout.flush()
os._exit(0)
