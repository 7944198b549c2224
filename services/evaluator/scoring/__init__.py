"""From answers to scores: pure functions, without clock, disk or network; one file a family.

`answers` holds what was said and reads it with `labels` and `exact`; `classes`, `bleu`, `chrf` and `rouge` grade it, each as a
`graded.Graded`; `criteria` says which of them a suite wants; `measured` has all that they see in one model's answers. From
there `score` makes one model's result, `comparison` that of two, and `choice` says by which prompt a model is judged.
"""
