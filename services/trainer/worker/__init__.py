"""The training worker: one attempt at one job, on a GPU or a CPU.

It owns nothing. It reads its spec, the base and the rows from the object store, trains, and commits one manifest there;
progress goes to the trainer by gRPC and may be lost. It fails with an exit code: 64 what was asked for can't work,
75 stopped on request with a checkpoint (the next attempt goes on from it), anything else is a crash.

`count.py` is a program of its own: it counts tokens before a job starts, with the tokenizer (`tokens.py`) and the rows
(`batches.py`) that training uses.

`loop.py` is the training loop and reads from top to bottom. `batches.py` is the only place that knows how rows lie in
memory, `model.py` the only one that knows the model, `checkpoint.py` and `publish.py` what is kept.
"""

import sys

# Text needs none of these, and their wheels need not fit the torch that is here: transformers would import them.
for _name in ("torchvision", "torchaudio", "torchcodec"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]
