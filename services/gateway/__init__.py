"""The gateway: the one program that clients speak to. It owns API keys, speaks OpenAI's HTTP API, and routes to model servers.

Models are asked over HTTP (`openai/chat.py`) and over gRPC (`generation_rpc.py`). Both only read a request and write an
answer; what happens between (the route, a connection, the answer in the right name, usage) is `generation.py`,
once. That path is kept short, since every token passes it: no framework, connections of our own (`connections.py`), and
a key is looked up once a second (`keys.py`). `tests/benchmarks/gateway.py` says what it costs.

A key works until it expires or is deleted; it has no other states. Files are kept by `dataset`, jobs by `trainer`, models
and routes by `inference`; the gateway keeps none of theirs.

OpenAI's API as its SDK asks for it: files and uploads, fine-tuning jobs with their events and checkpoints, models, chats,
completions, and responses, which are chats in other words (`openai/responses.py`). What OpenAI has and this has not –
stored responses and completions, tools that run here, embeddings, batches – is refused by a sentence that says what to
do instead (`openai/absent.py`), and so is every parameter that would be ignored. A JSON object that says a key twice is
refused too, but on the two inference paths, where the last one wins. `/openapi.json` describes all of it.

How it fails: while `inference` is away, the last table of routes stands and loaded models answer; after ROUTES_BELIEVED_S
(`belief.py`) endpoints no longer do, since a promotion may not have been heard of. While another program
is away, what needs it gets 503 with Retry-After. A model that no server has loaded is waited for, bounded, then 503. A
model server that fails before the first byte of an answer is replaced by another; after it, the stream ends with an
error. At SIGTERM nothing new is accepted and answers under way have ten seconds. It needs a database.
"""
