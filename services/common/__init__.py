"""What the five programs share: a closed list, below every service, importing none.

`errors`, `names`, `settings` – words. `program` – how a program begins, what it needs, how it serves. `telemetry` – logs and
traces; `metrics` – what is counted. `reconcile` – the loop that moves resources; `attempts` – how workers are launched, and
report. `principal` – who acts; `scopes` – what he may do; `believed` – answers about keys that are believed for a second;
`store_access` – which keys of the store a workload may touch.
`ports/` – what a service asks of the world; `backends/` – who answers, chosen by URL in `choose.py` alone, with a counter
around each in `measured.py`. `transport/` – gRPC, HTTP, probes, and what every `rpc.py` translates the same way.
"""
