"""The dataset program: owns Files (uploads, given back unchanged) and Datasets (validated versions of their records).

Neither has states: a File exists when its upload is complete, a Dataset when all its parts are in the object store. A File
that comes in parts is an Upload until then (`upload`, `uploading`, `upload_rpc`): PENDING for an hour, then COMPLETED,
CANCELLED or EXPIRED; a loop deletes the parts of those that have ended.
The road of an upload: `rpc` → `use_cases` → `version`, which reads `records` (how they are strung together: `containers`,
`objects`; one JSON text: `json_text`; what its fields mean: `shapes`, `chats`), counts and divides them (`division`,
`near_rows`), and writes the parts.

How it fails: what is wrong with a file is answered with every violation at once, and the whole list is a File that can
be downloaded. A full disk or an absent store is Unavailable, and nothing half-written stays. Finalising is safe to
repeat from any point: the same bytes and split give the same Dataset. It needs object store and database, and asks nobody.
"""
