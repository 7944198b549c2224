"""The trainer: owns fine-tuning jobs, plans their recipes, launches workers, and sees results through to a proven Model.

States of a job: VALIDATING → PENDING → RUNNING → PROVING → SUCCEEDED, and FAILED or CANCELLED from anywhere. Until it is
trained it can be paused, → PAUSING → PAUSED, and resumed, → PENDING.

How it fails: a mistake in data or recipe ends the job with every violation; a crashed worker is launched again, three
times at most, and goes on from its last checkpoint (one that was told to leave, and did, is no crash); a service that was
away reads the manifest; a model that its server does not prove ends the job as FAILED. It needs object store, database
and launcher; it asks `dataset` and `inference`.
"""
