"""Inference: owns models, endpoints, the catalogue of bases, and the model servers that answer for them.

States of a model: ACTIVE, QUARANTINED (a proof failed). Of a server: STARTING → ACTIVE, FAILED and again STARTING. Of a
placement, which is one model on one server: LOADING → PROVEN or REFUSED.

How it fails: a server that crashed or does not answer is launched again, with growing pauses, and every model on it is
proven again before it gets a request; a model whose proof fails is quarantined and says why; while nothing is proven,
EnsureServed answers UNAVAILABLE. Servers outlive this program and are found again by the records in its database. It
needs object store, database and launcher; it reads evaluations from `evaluator`.
"""
