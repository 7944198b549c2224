"""The main job as a new user meets it: the README's commands, the report, the endpoint, restarts, and the end."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.builders import chat, eventually, jsonl
from tests.e2e.conftest import Demo, readme_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REVIEW = "Classify the sentiment of this product review. Answer with exactly one word: positive, neutral or negative.\n\n{}"


def test_the_readme_prints_two_commands() -> None:
    assert readme_commands() == ["make demo", "make test"]


def test_the_tuned_model_beats_every_way_of_prompting_its_base_significantly(demo: Demo) -> None:
    evaluations = json.loads(demo.afina("evaluations", "list", "--json"))
    evaluation = evaluations[0] if isinstance(evaluations, list) else evaluations["evaluations"][0]
    scores = {(s["model"], s["prompt"]): s["accuracy"] for s in evaluation["scores"]}
    comparison = next(c for c in evaluation["comparisons"] if c["candidate"].startswith("projects/"))
    base = comparison["champion"]
    tuned = scores[(comparison["candidate"], comparison["candidate_prompt"])]
    baselines = {prompt: accuracy for (model, prompt), accuracy in scores.items() if model in (base, "")}
    assert {"zero-shot", "few-shot", "label-scored", "majority"} <= set(baselines)
    assert tuned > max(baselines.values())
    chosen_on = {s["prompt"]: s["validation"]["value"] for s in evaluation["scores"] if s["model"] in (base, "")}
    assert comparison["champion_prompt"] == max(chosen_on, key=lambda prompt: chosen_on[prompt])
    assert comparison["p_value"] < 0.05
    assert comparison["effect_low"] > 0


def test_the_job_ends_with_a_verdict_on_its_model_from_rows_that_it_has_not_seen(demo: Demo) -> None:
    (job,) = json.loads(demo.afina("jobs", "list", "--json"))
    assert (job["state"], job["awaits_verdict"], job["verdict"]["answer"]) == ("SUCCEEDED", False, "BETTER")
    model = json.loads(demo.afina("models", "get", job["model"], "--json"))
    assert model["verdict"] == job["verdict"]
    events = {
        event["type"]: event for event in json.loads(demo.afina("jobs", "events", job["name"].rpartition("/")[2], "--json"))
    }
    assert events["VERDICT"]["data"]["evaluation"] == job["evaluation"] == model["verdict"]["evaluation"]
    assert events["VERDICT"]["sequence"] > events["EVALUATION_STARTED"]["sequence"] > 0
    evaluation = json.loads(demo.afina("evaluations", "get", job["evaluation"].rpartition("/")[2], "--json"))
    found = {one["model"]: one["finding"] for one in evaluation["held_out"]}
    assert found == {job["model"]: "SAME_SPLIT", model["base"]: "UNKNOWN"}
    promoted = json.loads(demo.afina("endpoints", "get", "reviews", "--json"))
    assert promoted["promotions"][-1]["evaluation"] == job["evaluation"]
    assert "BETTER" in (demo.home / "report.html").read_text()


def test_the_report_stands_alone_and_shows_every_baseline(demo: Demo) -> None:
    report = (demo.home / "report.html").read_text()
    for word in ("zero-shot", "few-shot", "label-scored", "majority", "curl", "openai", "<svg"):
        assert word in report
    assert 'src="http' not in report
    assert (demo.home / "api_key").read_text().strip() not in report


def test_the_endpoint_answers_the_unmodified_sdk_also_in_a_stream(demo: Demo) -> None:
    messages: Any = [{"role": "user", "content": REVIEW.format("I love it, the best thing I ever bought.")}]
    client = demo.openai()
    answer = client.chat.completions.create(model="reviews", messages=messages, temperature=0, max_tokens=5)
    stream: Any = client.chat.completions.create(model="reviews", messages=messages, temperature=0, max_tokens=5, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert answer.choices[0].message.content == streamed == "positive"
    assert answer.model == "reviews"
    assert (answer.system_fingerprint or "").startswith("fp_")


def test_the_first_key_is_readable_by_its_owner_only_and_a_wrong_one_is_refused(demo: Demo) -> None:
    assert (demo.home / "api_key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{demo.gateway}/v1", api_key="wrong", max_retries=0).models.list()


def test_a_model_server_answers_nobody_without_its_key(demo: Demo) -> None:
    manifest = json.loads(next(demo.home.glob("processes/inference/*/manifest.json")).read_text())
    command = manifest["command"]
    port = command[command.index("--port") + 1]
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).status_code == 401


def test_the_sdks_own_flow_from_file_to_answer(demo: Demo) -> None:
    client = demo.openai()
    rows = [chat(f"What is the code of room {n}?", "blue" if n % 2 else "red") for n in range(16)]
    file = client.files.create(file=("rooms.jsonl", jsonl(rows)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        training_file=file.id, model="SmolLM2-135M-Instruct", suffix="rooms", hyperparameters={"n_epochs": 1, "batch_size": 8}
    )
    end = time.monotonic() + 600
    while job.status not in ("succeeded", "failed", "cancelled") and time.monotonic() < end:
        client.fine_tuning.jobs.with_raw_response.list_events(job.id, limit=5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    assert job.status == "succeeded", [event.message for event in events]
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("ft:SmolLM2-135M-Instruct:default:rooms:")
    assert any("loss" in event.message.lower() for event in events)
    answer = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "What is the code of room 3?"}], max_tokens=4
    )
    assert answer.choices[0].message.content


def test_a_broken_line_fails_the_job_in_words(demo: Demo) -> None:
    client = demo.openai()
    data = jsonl([chat("a", "b")] * 12) + b'{"messages": [\n'
    file = client.files.create(file=("broken.jsonl", data), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(training_file=file.id, model="SmolLM2-135M-Instruct")
    end = time.monotonic() + 60
    while job.status not in ("succeeded", "failed") and time.monotonic() < end:
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert "13" in (job.error.message or "")


def program_pids(demo: Demo) -> dict[str, int]:
    status = json.loads(demo.afina("status", "--json"))
    return {program["name"]: program["pid"] for program in status["programs"]}


async def test_every_program_that_is_killed_comes_back_with_its_resources(demo: Demo) -> None:
    before = {
        noun: json.loads(demo.afina(noun, "list", "--json"))
        for noun in ("datasets", "jobs", "evaluations", "models", "endpoints")
    }
    pids = program_pids(demo)
    assert set(pids) == {"dataset", "trainer", "evaluator", "inference", "gateway"}
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        done = demo.run([".venv/bin/afina", "status", "--json"])
        if done.returncode != 0:
            return False
        programs = json.loads(done.stdout)["programs"]
        return len(programs) == 5 and all(
            p["pid"] not in pids.values() and p.get("state", "SERVING") == "SERVING" for p in programs
        )

    await eventually(back, timeout_s=90)
    after = {noun: json.loads(demo.afina(noun, "list", "--json")) for noun in before}
    assert after == before
    messages: Any = [{"role": "user", "content": REVIEW.format("Broke after a day, terrible.")}]
    answer = demo.openai().chat.completions.create(model="reviews", messages=messages, temperature=0, max_tokens=5)
    assert answer.choices[0].message.content == "negative"


def test_a_second_demo_reuses_what_is_there(demo: Demo) -> None:
    jobs = json.loads(demo.afina("jobs", "list", "--json"))
    began = time.monotonic()
    done = demo.run(["make", "demo"], timeout_s=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert json.loads(demo.afina("jobs", "list", "--json")) == jobs
    assert time.monotonic() - began < 120  # the first takes minutes: nothing was trained or asked again


def test_make_stop_leaves_no_process_behind(demo: Demo) -> None:
    done = demo.run(["make", "stop"])
    assert done.returncode == 0, done.stdout + done.stderr
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_ours = f"AFINA_HOME={demo.home}".encode() in (process / "environ").read_bytes()
            is_ours |= str((process / "cwd").readlink()).startswith(str(demo.home))
            if is_ours and process.name != str(os.getpid()):
                left.append((process / "cmdline").read_bytes().replace(b"\0", b" "))
    assert left == []
