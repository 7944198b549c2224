"""The gateway: the one program that clients speak to. It owns API keys, speaks OpenAI's HTTP API, and routes to model servers.

A key works until it expires or is deleted; it has no other states. Files are kept by `dataset`, jobs by `trainer`, models
and routes by `inference`; the gateway keeps none of theirs.

How it fails: while `inference` is away, the last table of routes stands and loaded models answer; while another program
is away, what needs it gets 503 with Retry-After. A model that no server has loaded is waited for, bounded, then 503. A
model server that fails before the first byte of an answer is replaced by another; after it, the stream ends with an
error. At SIGTERM nothing new is accepted and answers under way have ten seconds. It needs a database.
"""
