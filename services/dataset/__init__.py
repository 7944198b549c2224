"""The dataset program: owns Files (uploads, given back unchanged) and Datasets (validated versions of their records).

Neither has states: a File exists when its upload is complete, a Dataset when all its parts are in the object store. A File
that comes in parts is an Upload until then (`upload`, `uploading`, `upload_rpc`): PENDING for an hour, then COMPLETED,
CANCELLED or EXPIRED; a loop deletes the parts of those that have ended.
The road of an upload: `rpc` → `use_cases` → `version`, which reads `records` (how they are strung together: `containers`,
`objects`; what is no record at all, as a zip: `foreign`; one JSON text: `json_text`; what its fields mean: `shapes`, `chats`),
counts and divides them (`division`, `near_rows`), and writes the parts. `comparison` finds the test rows of one dataset that
train or validate in others, by the same rule as divides them; what was found is kept.

How it fails: what is wrong with a file is answered with every violation at once, and the whole list is a File that can
be downloaded. A full disk or an absent store is Unavailable, and nothing half-written stays. Finalising is safe to
repeat from any point: the same rows in any container, with the same split, give the same Dataset; read as another format,
or with a validation file, they give another. Validation runs in a thread, and other calls are answered meanwhile. Memory
grows with the number of rows, by less than 200 bytes each at the peak, and not with their length. It needs object store and
database, and asks the gateway whose a key is, and nobody else. How many tokens a row has is for trainer to say, because it
depends on the base.
"""
