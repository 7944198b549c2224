"""One evaluation, in a process of its own: it asks every subject every item through the gateway, as any client would.

It reads one spec from the object store, reports progress to the evaluator, and publishes by committing a manifest last.
It owns nothing: killed at any point it leaves only files that no manifest names, and the next attempt goes on from the answers
that were kept.
Exit codes: 0 published, 64 nothing to retry (the error is in the store), 75 stopped on request, else worth another try.
"""
