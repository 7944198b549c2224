"""The command line, `afina`: starts the five programs on this machine and speaks gRPC to them, wherever they are.

It owns nothing. A noun has a file with its verbs; `up.py` supervises, `logs.py` shows what was said, `completion.py` completes
words and names in a shell, `demo.py` is the main job from end to end. Every
command prints a table for people and, with `--json`, one document for programs: a list is an array, a resource an
object with the fields of its proto.

Exit codes: 0 done · 1 failed (the job failed, the gate refused, a bug) · 2 usage or refused input · 3 not found ·
4 the program does not answer, or not in time · 5 not in this state (it exists already, has ended, somebody was first,
the gate refused a promotion) · 6 not allowed · 130 interrupted. Errors are one line on standard error that names the
fix, with a line for each violation; under `--json` they are an object.
"""
