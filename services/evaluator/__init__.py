"""The evaluator: owns suites and evaluations, launches a worker for each evaluation, and keeps its scores.

A suite is data and never changes. States of an evaluation: PENDING → RUNNING → SUCCEEDED, and FAILED or CANCELLED from
anywhere; RUNNING → PENDING where an attempt ended without a result.

How it fails: a mistake in suite or subjects is refused at creation, all at once; a model that answers under another's
name, or a row that can't be scored, ends the evaluation; a crashed worker is launched again, three times at most. A
service that was away reads the manifest. It needs object store, database and launcher; it asks `dataset`, `inference`
and `gateway` (for one key per attempt, which may only ask models).
"""
