"""The trainer: owns fine-tuning jobs, sweeps and token counts; plans, launches workers, sees results through to a proven Model.

**Job**: VALIDATING → PENDING → RUNNING → PROVING → SUCCEEDED, and FAILED or CANCELLED from anywhere. Until it is trained it
can be paused, → PAUSING → PAUSED, and resumed, → PENDING. While it validates its tokens are counted; rows that the base can't
read, or that are longer than max_length, fail it there, each listed.

**Token count**: PENDING → RUNNING → SUCCEEDED or FAILED; belongs to rows, base, chat template and the code that renders, and is
made once.

**Verdict**: a job that has succeeded, and whose dataset holds test rows out, has its model compared with its base: `evaluator`
asks both, `inference` judges and keeps the verdict on the Model, and the job's events tell it. The job's state does not wait
for that, and its watch does. Of a sweep's jobs the winner's is.

**Sweep**: RUNNING → PROVING → SUCCEEDED; FAILED; CANCELLING → CANCELLED. Jobs one after another; the lowest validation loss
wins, and only the winner is proven (the others' models are registered, and proven when somebody asks for them).

How it fails: a mistake in data or recipe ends the job with every violation; a crashed worker is launched again and
goes on from its last checkpoint, until three have crashed in a row without a step saved between (one that was told to leave,
or was cut off from its store, is no crash, unless that happens twenty times in a row);
a service that was away reads the manifest; a model that its server does not
prove ends the job as FAILED. A member that fails costs its sweep nothing but itself. It needs object store, database and
launcher; it asks `dataset`, `inference` and `evaluator`. While these are away a verdict waits; without scores a warning says
how to compare by hand.
"""
