"""What follows success: base and candidate are compared on the rows that the job's dataset held out, and the verdict is kept.

    SUCCEEDED, awaits_verdict → evaluation begun → evaluation ended → verdict on the Model and in the job's events

The job has succeeded and its model answers; nothing here can take that back. One thing a look, and each is safe to repeat, so
a program that dies between any two finds its way: the suite is found by its dataset, the evaluation by a request id that is
made of the job's, the verdict by the evaluation's name. While `evaluator` or `inference` are away the job waits, as long as it
takes. An evaluation that can't begin, or that ends without scores, costs a warning that says how to compare by hand.

The trainer reckons nothing: `evaluator` counts, `inference` judges.
"""

import math
from dataclasses import replace
from typing import Any

from services.common import errors
from services.common.names import last, project_of
from services.common.ports.database import NewEvent
from services.common.reconcile import Change
from services.trainer.job import Job
from services.trainer.use_cases import Trainer

LOOK_AGAIN_S = 2.0


async def find_verdict(trainer: Trainer, job: Job) -> Change:
    """Take the next step towards the verdict. Raises: Unavailable (somebody is away; the job waits)."""
    try:
        return await (_look if job.evaluation else _begin)(trainer, job)
    except (errors.InvalidInput, errors.NotFound, errors.WrongState) as error:
        return _without(job, error.message)


async def _begin(trainer: Trainer, job: Job) -> Change:
    """Have the evaluation made, or find it."""
    project, asked = project_of(job.name), job.evaluation_settings
    suite = asked.get("suite") or await trainer.peers.default_suite(project, job.dataset)
    subjects = {job.base["name"]: [], job.model: list(asked.get("candidate_prompts", ()))}
    begun = await trainer.peers.begin_evaluation(project, suite, subjects, f"verdict-{job.id}")
    told = (
        f"The model is compared with its base on rows that were held out: {begun['question_count']} questions of {last(suite)}. "
        f"It can be asked meanwhile."
    )
    data = {"evaluation": begun["name"], "suite": suite, "question_count": begun["question_count"]}
    begun_job = replace(job, suite=suite, evaluation=begun["name"])
    return Change(begun_job.to_document(), LOOK_AGAIN_S, [NewEvent("EVALUATION_STARTED", told, data=data)])


async def _look(trainer: Trainer, job: Job) -> Change:
    """See whether the evaluation has ended, and keep what it says."""
    evaluation = await trainer.peers.evaluation(job.evaluation)
    if not evaluation["has_ended"]:
        return Change(job.to_document(), LOOK_AGAIN_S)
    if evaluation["state"] != "SUCCEEDED":
        return _without(job, f"{job.evaluation} is {evaluation['state']}. {evaluation['error']}".strip())
    verdict = await trainer.peers.judge(job.model, job.evaluation)
    judged = replace(job, verdict=verdict, awaits_verdict=False)
    begins_so, _, rest = verdict["sentence"].partition(": ")  # the gate's sentence may begin with the word itself
    sentence = rest if begins_so.upper().replace(" ", "_") == verdict["answer"] else verdict["sentence"]
    told = f"{verdict['answer']}: {sentence}{_rows_needed(job, verdict)}"
    return Change(judged.to_document(), None, [NewEvent("VERDICT", told, data=verdict)])


def _rows_needed(job: Job, verdict: dict[str, Any]) -> str:
    """Say how much data would hold out so many items as would tell, where the dataset holds out fewer."""
    held_out, needed = job.dataset_spec["test"]["row_count"], verdict["items_needed"]
    if job.evaluation_settings.get("suite") or needed <= held_out:
        return ""
    rows = math.ceil(needed * job.dataset_spec["row_count"] / held_out)
    return f" Divided as they are, about {rows} rows of data would hold out so many."


def _without(job: Job, why: str) -> Change:
    """Go without a verdict, and say why and what to do."""
    suite = last(job.suite) if job.suite else "SUITE"
    base, model = job.base["name"], job.fine_tuned_model
    told = (
        f"There is no verdict on the model, which can be used all the same: {why} To compare it by hand: `afina evaluations "
        f"create --suite {suite} --model {base} --model {model}`, and then `afina models judge {model} EVALUATION`."
    )
    ended = replace(job, awaits_verdict=False)
    return Change(ended.to_document(), None, [NewEvent("EVALUATION_FAILED", told, "WARNING", {"evaluation": job.evaluation})])
