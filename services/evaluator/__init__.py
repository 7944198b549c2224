"""The evaluator: owns suites and evaluations, launches a worker for each evaluation, and keeps its scores and every answer.

A suite is data and never changes: the rows of a dataset that were held out, the prompts to ask them with, the criteria to
score answers by. Of the criteria the first decides. Each model is judged by the prompt that was best on the validation
rows, where there are enough; rows that choose never decide (`scoring/choice.py`). Every number has a 95% interval, every
two models a paired test. Before it begins an evaluation finds out of each model whether it has seen the rows (`held_out`), by
the datasets that its provenance names. A dataset's default suite (`default_suite`) asks its test rows as they are.

States of an evaluation: PENDING → RUNNING → SUCCEEDED, and FAILED or CANCELLED from anywhere; RUNNING → PENDING where an
attempt ended without a result.

How it fails: a mistake in suite or subjects is refused at creation, all at once; a model that answers under another's
name, or a row that can't be scored, ends the evaluation; a crashed worker is launched again, three times at most, and asks
only what was not answered. A service that was away reads the manifest. It needs object store, database and launcher; it
asks `dataset`, `inference` and `gateway` (for one key per attempt, which may only ask models).
"""
