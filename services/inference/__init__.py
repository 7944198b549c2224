"""Inference: owns models, endpoints, the catalogue of bases, and the model servers that answer for them.

A model is a base (in the catalogue, everybody's), an adapter, or full weights (both a project's). Whole weights have one
server, by digest; adapters are loaded on their base's. States of a model: ACTIVE, QUARANTINED (a proof failed). Of a server:
STARTING → ACTIVE, FAILED and again STARTING; STOPPING → STOPPED, and STARTING when it is asked for, or by itself where what it
was launched with has changed. Of a placement, which is one model on one server: LOADING → PROVEN, REFUSED or UNPROVABLE.

How it fails: a server that crashed or does not answer is launched again, with growing pauses, and every model on it is
proven again before it gets a request; a model whose proof fails is quarantined and says why, until `afina models prove`
goes well; one whose server takes too few tokens to be asked waits for another length; while nothing is proven, EnsureServed
answers UNAVAILABLE. When MAX_SERVERS run, another waits until one has been idle for a minute, which then ends. A model's
serving_message says in words which of these it is. Servers outlive this program and are found again by the records in its
database. What a machine has fetched, by digest, stays in its cache. It needs object store, database and launcher; it reads
evaluations from `evaluator`.

An endpoint changes in `promotions.py`, on what `evidence.py` makes of an evaluation. Why every gateway follows at once is told in
`watchers.py`; why it never points to what is gone, in `candidacy.py`.

Verbs: `use_cases.py` (models), `entries.py` (the catalogue), `serving.py`, `endpoints.py`, `promotions.py`, `verdicts.py` (on
a model, beside its base). `demand.py` is how they ask the loops in `fleet.py` for something; `room.py` bounds them.
"""
