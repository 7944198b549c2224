"""What the five programs share: a closed list, below every service, importing none.

`errors`, `names`, `settings` – words. `program` – how a program begins, what it needs, how it serves. `telemetry` – logs and
traces; `metrics` – what is counted. `reconcile` – the loop that moves resources; `attempts` – a worker's token and reports.
`ports/` – what a service asks of the world; `backends/` – who answers, chosen by URL in `choose.py` alone, with a counter
around each in `measured.py`. `transport/` – gRPC, HTTP, probes, and what every `rpc.py` translates the same way.
"""
