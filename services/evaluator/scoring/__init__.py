"""From answers to scores: pure functions, without clock, disk or network.

`labels` reads an answer, `classes` counts who took what for what, `score` puts a model's result and a pair of models
into one value each. An answer is right where the label that it names first is the reference; where a suite has no
labels, where the whole answer equals the reference.
"""
