"""The published holes of this field: the dangerous input of each, at each of our doors. Loaders: tests/learning."""

import asyncio
import io
import json
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from afina.v1 import (
    catalogue_pb2,
    endpoint_pb2,
    fine_tuning_job_pb2,
    model_pb2,
    store_access_pb2,
    sweep_pb2,
    token_count_pb2,
    worker_pb2,
)
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor

from services.cli.hub import fetch
from services.cli.sources import folder_files
from services.common.backends.launcher.process import ProcessLauncher
from services.common.errors import AfinaError, InvalidInput, NotFound
from services.common.ports.launcher import Workload
from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import Artifact
from services.dataset.faults import Fault
from services.dataset.records import Record, read_records
from services.gateway.openai.parameters import check_chat
from tests.rpc.inference_world import PARENT, World, inference_world
from tests.unit.inference import adapters

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 512}
EVIL = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
ELSEWHERE = {"AutoConfig": "attacker/backend--configuration.Evil"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with inference_world(tmp_path) as made:
        yield made


def told(caught: pytest.ExceptionInfo[AfinaError]) -> set[tuple[str, str]]:
    return {(violation.field, violation.reason) for violation in caught.value.violations}


async def import_base(world: World, name: str, **files: Any) -> catalogue_pb2.CatalogueEntry:
    """Put a folder into the store as an import would, and ask for a catalogue entry."""
    written: dict[str, Any] = {
        path: data if isinstance(data, bytes) else json.dumps(data).encode() for path, data in files.items()
    }
    return await world.add_base(world.put_base(name, **written), name)


# vLLM CVE-2025-66448 (before 0.11.1): a nested config's auto_map fetched and ran the Python of another repository.
@pytest.mark.parametrize("place", ["vision_config", "text_config", "deep"])
async def test_cve_2025_66448_code_that_a_nested_config_names_in_another_repository(world: World, place: str) -> None:
    inner: Any = {"auto_map": ELSEWHERE}
    nested = {**CONFIG, place: {"a": [{"b": inner}]} if place == "deep" else inner}
    with pytest.raises(InvalidInput) as caught:
        await import_base(world, "nested", config__json=nested)
    assert ("config.json", "REMOTE_CODE") in told(caught)
    with pytest.raises(InvalidInput) as caught:
        await import_base(world, "repo", config__json={**CONFIG, "auto_map": ELSEWHERE})
    assert ("config.json", "REMOTE_CODE") in told(caught)
    full = world.put_full(config__json=json.dumps({**nested, "name": "full"}).encode())
    with pytest.raises(InvalidInput):
        await world.models.CreateModel(model_pb2.CreateModelRequest(parent=PARENT, manifest_key=full))


# vLLM CVE-2026-22807 (0.10.1 to 0.13): auto_map was followed when the model was resolved, whatever trust_remote_code said.
async def test_cve_2026_22807_code_of_its_own_is_ignored_for_a_known_type_and_refused_for_another(world: World) -> None:
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    taken = await import_base(world, "known", config__json={**CONFIG, "auto_map": EVIL}, tokenizer_config__json=tokenizer)
    assert taken.digest
    for number, model_type in enumerate(("evil", "", None, ["llama"], {"llama": 1})):
        strange = {**CONFIG, "model_type": model_type, "auto_map": EVIL}
        with pytest.raises(InvalidInput) as caught:
            await import_base(world, f"strange-{number}", config__json=strange, tokenizer_config__json=tokenizer)
        assert told(caught) == {("config.json", "REMOTE_CODE"), ("tokenizer_config.json", "REMOTE_CODE")}


# vLLM CVE-2026-27893 (0.10.1 to 0.17): two models loaded their parts with a literal trust_remote_code=True.
@pytest.mark.parametrize("file", ["processor_config", "preprocessor_config", "video_preprocessor_config", "generation_config"])
async def test_cve_2026_27893_code_that_a_part_of_a_model_names_is_refused_even_of_a_known_type(world: World, file: str) -> None:
    part = {f"{file}__json": {"auto_map": {"AutoProcessor": "evil.Evil"}}}
    with pytest.raises(InvalidInput) as caught:
        await import_base(world, "parts", config__json=CONFIG, **part)
    assert told(caught) == {(f"{file}.json", "REMOTE_CODE")}


async def test_a_base_that_brings_python_or_an_adapter_that_names_another_base_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        await import_base(world, "python", config__json=CONFIG, modeling_evil__py=b"raise SystemExit")
    assert told(caught) == {("modeling_evil.py", "UNSAFE_FILE")}
    with pytest.raises(InvalidInput) as caught:
        await import_base(world, "other", config__json=CONFIG, adapter_config__json={"base_model_name_or_path": "/etc"})
    assert told(caught) == {("adapter_config.json", "ADAPTER_IN_BASE")}
    with pytest.raises(InvalidInput) as caught:
        folder_files(world.folder / "python")
    assert ("modeling_evil.py", "UNSAFE_FILE") in told(caught)


class Exploit:
    """What a pickle does when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


# torch CVE-2025-32434 (before 2.6): torch.load ran code though weights_only=True. No pickle is read here, by any name.
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.pkl", "x.pickle", "last.ckpt", "X.BIN", "a.npy", "a.npz"]
)
async def test_cve_2025_32434_a_pickle_is_refused_by_its_name_and_is_never_read(world: World, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    data = pickle.dumps(Exploit(marker))
    with pytest.raises(InvalidInput) as caught:
        await import_base(world, "pickled", config__json=CONFIG, **{name.replace(".", "__"): data})
    assert {reason for _, reason in told(caught)} == {"UNSAFE_FILE"}
    with pytest.raises(InvalidInput):
        folder_files(world.folder / "pickled")
    assert not marker.exists()


async def test_cve_2025_32434_a_pickle_by_the_name_of_safetensors_is_not_whole_safetensors(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(InvalidInput, match="safetensors"):
        await import_base(world, "disguised", config__json=CONFIG, model__safetensors=pickle.dumps(Exploit(marker)))
    await world.add_base()
    key = world.put_adapter()
    lying = Path(world.folder, "adapter-1", "adapter_model.safetensors")
    lying.write_bytes(pickle.dumps(Exploit(marker)))
    with lying.open("rb") as stream:
        placed = world.store.put("jobs/job-1/files", stream)
    manifest = Manifest.from_json(world.store.read(key))
    files = tuple(ManifestFile(f.path, placed) if f.path.endswith(".safetensors") else f for f in manifest.files)
    world.store.commit("jobs/job-1/lying.json", Manifest("adapter", files, manifest.data).to_json())
    with pytest.raises(InvalidInput) as caught:
        await world.add_adapter("jobs/job-1/lying.json")
    assert "SAFETENSORS_INVALID" in {reason for _, reason in told(caught)}
    assert not marker.exists()


def header(text: str, length: int = 0, data: bytes = b"") -> bytes:
    """A safetensors file with a header, and a length of it that need not be true."""
    return (length or len(text)).to_bytes(8, "little") + text.encode() + data


HEADERS = [
    b" ", b"\xff" * 8, header("{}", 1 << 62), header("{}", 100_000_001), header("", 2), header("[" * 100_000),
    header("{}" + " " * (16 << 20)),
    header('{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}}'),
    header('{"a":{"dtype":"F32","shape":[9223372036854775807,2],"data_offsets":[0,4]}}', data=b"0000"),
    header('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,99999999999]}}', data=b"0000"),
    header('{"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}', data=b"0000"),
]  # fmt: skip


async def test_a_document_of_absurd_size_is_refused_before_it_is_read(world: World) -> None:
    with pytest.raises(InvalidInput) as caught:
        await import_base(world, "large", config__json=b"{}" + b" " * (17 << 20))
    assert told(caught) == {("config.json", "TOO_LARGE")}
    world.store.commit("manifests/bases/large.json", b" " * (17 << 20))
    with pytest.raises(InvalidInput):
        await world.add_base("manifests/bases/large.json")


async def test_headers_of_absurd_sizes_are_refused_and_nothing_of_their_size_is_allocated(world: World) -> None:
    for number, absurd in enumerate(HEADERS):
        with pytest.raises(InvalidInput):
            await import_base(world, f"header-{number}", config__json=CONFIG, model__safetensors=absurd)


def fields_of(file: FileDescriptor) -> Iterator[FieldDescriptor]:
    left = list(file.message_types_by_name.values())
    while left:
        message = left.pop()
        left += message.nested_types
        yield from message.fields


# Ray CVE-2023-48022: whoever reached the jobs API could submit a command. Ours has no field in which one could stand.
def test_cve_2023_48022_no_request_has_a_field_for_a_command_a_program_or_an_environment() -> None:
    files = (
        fine_tuning_job_pb2, sweep_pb2, token_count_pb2, worker_pb2, store_access_pb2, catalogue_pb2, model_pb2, endpoint_pb2,
    )  # fmt: skip
    words = {
        "command",
        "cmd",
        "entrypoint",
        "script",
        "args",
        "argv",
        "env",
        "environment",
        "runtime_env",
        "image",
        "code",
        "module",
    }
    found = {f.full_name for file in files for f in fields_of(file.DESCRIPTOR) if f.name in words}
    assert found == set()


async def test_cve_2023_48022_what_a_launcher_runs_is_a_list_and_no_shell_reads_it(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    launcher = ProcessLauncher(tmp_path / "processes")
    hostile = f"$(touch {marker}); `touch {marker}` && touch {marker} | touch {marker}"
    command = ("/bin/echo", hostile)
    await launcher.launch(launcher.plan(Workload("echo", "job", command, {"AFINA_SPEC": hostile}, {"label": hostile})))
    for _ in range(200):
        if (await launcher.observe("echo")).has_ended:
            break
        await asyncio.sleep(0.05)
    assert (await launcher.logs("echo"))[0].decode().strip() == hostile
    assert not marker.exists()
    for key in ("../escape", "a/b", "/abs", "a\0", "A", "-a", "a;b", ""):
        with pytest.raises(InvalidInput):
            launcher.plan(Workload(key, "job", command, {}, {}))


# MLflow CVE-2023-1177 (before 2.2.1) and its bypasses 2023-2356, 2023-2780, 2023-6730: a model version whose source is a path.
SOURCES = [
    "/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "file://../etc/passwd", "jobs/../../etc/passwd", "a\0b", ".",
    "\\..\\..\\etc\\passwd", "jobs/%2e%2e/%2e%2e/etc/passwd", "http://169.254.169.254/latest", "s3://other/secret",
    "mlflow-artifacts:/../x",
]  # fmt: skip


@pytest.mark.parametrize("key", SOURCES)
async def test_cve_2023_1177_a_model_whose_source_is_a_path_or_a_url_reads_nothing(world: World, key: str) -> None:
    for ask in (lambda: world.add_adapter(key), lambda: world.add_base(key)):
        with pytest.raises((InvalidInput, NotFound)) as caught:
            await ask()
        assert "root:" not in caught.value.message


@pytest.mark.parametrize(
    "path", ["../../evil", "/etc/cron.d/evil", "a/../../evil", "..\\evil", "a\0b", "", ".", "./x", "a//../../x"]
)
async def test_cve_2023_1177_a_file_of_a_manifest_that_leaves_its_folder_is_refused(world: World, path: str) -> None:
    artifact = world.store.put("bases", io.BytesIO(b"{}"))
    document = Manifest("base", (ManifestFile(path, artifact),), {}).to_json()
    world.store.commit("manifests/bases/evil.json", document)
    with pytest.raises(InvalidInput):
        await world.add_base("manifests/bases/evil.json")


async def test_cve_2023_1177_a_manifest_hands_out_no_object_of_another_job_or_project(world: World) -> None:
    await world.add_base()
    key = world.put_adapter()
    theirs = world.store.put("datasets", io.BytesIO(b'{"messages": "of another project"}'))
    manifest = Manifest.from_json(world.store.read(key))
    for number, stolen in enumerate(
        (theirs.key, "jobs/job-2/files/" + theirs.sha256, f"jobs/job-1/../../{theirs.key}", "/etc/passwd")
    ):
        extra = ManifestFile("notes.txt", Artifact(stolen, theirs.size_bytes, theirs.sha256))
        made = Manifest("adapter", (*manifest.files, extra), manifest.data)
        world.store.commit(f"jobs/job-1/stolen-{number}.json", made.to_json())
        with pytest.raises(InvalidInput) as caught:
            await world.add_adapter(f"jobs/job-1/stolen-{number}.json")
        assert ("notes.txt", "KEY_FOREIGN") in told(caught)


async def test_the_result_of_another_projects_job_is_registered_there_and_nowhere_else(world: World) -> None:
    await world.add_base()
    key = world.put_adapter(parent="projects/theirs")
    with pytest.raises(InvalidInput, match="projects/theirs/fineTuningJobs/job-1") as caught:
        await world.add_adapter(key)
    assert caught.value.reason == "WRONG_PROJECT"
    assert (await world.add_adapter(key, "projects/theirs")).name.startswith("projects/theirs/models/")


async def test_the_result_of_a_job_has_no_file_of_what_somebody_else_imported(world: World) -> None:
    await world.add_base()
    manifest = Manifest.from_json(world.store.read(world.put_adapter()))
    theirs = world.store.put("full", io.BytesIO(b"weights of another project"))
    made = Manifest("adapter", (*manifest.files, ManifestFile("notes.txt", theirs)), manifest.data)
    world.store.commit("jobs/job-1/stolen.json", made.to_json())
    with pytest.raises(InvalidInput) as caught:
        await world.add_adapter("jobs/job-1/stolen.json")
    assert ("notes.txt", "KEY_FOREIGN") in told(caught)


def test_a_link_in_a_folder_that_is_imported_brings_no_file_from_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password")
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {f"{module}.weight": ("F32", np.zeros(shape, "f4")) for module, shape in adapters.MODULES.items()}
    (folder / "model.safetensors").write_bytes(adapters.safetensors(weights))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").symlink_to(secret)
    (folder / "LICENSE").symlink_to("/dev/zero")
    with pytest.raises(InvalidInput) as caught:
        folder_files(folder)
    assert ("tokenizer.json", "LINK_OUTSIDE") in told(caught)


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A server inside the network that nobody should ask, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def parts(url: str) -> list[dict[str, Any]]:
    """Each way in which a message can point to something that somebody might fetch."""
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "file", "file": {"file_data": url, "file_id": url}},
        {"type": "image_embeds", "image_embeds": url},
    ]


# LLaMA-Factory CVE-2025-61784 (before 0.9.4): its chat API fetched image, audio and video URLs, and opened them as local paths.
def test_cve_2025_61784_a_chat_that_points_to_a_url_or_a_file_is_refused_and_nothing_is_fetched() -> None:
    with listening() as (url, asked):
        for target in (
            f"{url}/secret",
            "file:///etc/passwd",
            "/etc/passwd",
            "data:image/png;base64,AAAA",
            "http://169.254.169.254/",
        ):
            for part in parts(target):
                body = {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]}
                with pytest.raises(InvalidInput, match="type"):
                    check_chat(body)
        unlike: list[dict[str, Any]] = [
            {"chat_template": "{{ 1 }}"}, {"chat_template_kwargs": {}}, {"mm_processor_kwargs": {}}, {"lora_path": url},
            {"allowed_local_media_path": "/"}, {"media_io_kwargs": {}}, {"documents": [{"url": url}]},
        ]  # fmt: skip
        for more in unlike:
            with pytest.raises(InvalidInput):
                check_chat({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **more})
        assert asked == []


def test_cve_2025_61784_a_row_that_points_to_a_url_or_a_file_is_refused_or_stays_text() -> None:
    with listening() as (url, asked):
        for part in parts(f"{url}/secret"):
            row = {"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "yes"}]}
            assert all(isinstance(found, Fault) for found in read(row)), part
        for field in ("images", "audios", "videos", "image", "file", "url"):
            row = {
                "messages": [{"role": "user", "content": "<image> see"}, {"role": "assistant", "content": "yes"}],
                field: [url],
            }
            for record in read(row):
                assert isinstance(record, Fault) or url not in json.dumps(record.chat.messages)
        assert asked == []


def read(row: dict[str, Any]) -> list[Record | Fault]:
    """What the dataset makes of a row."""
    return list(read_records(io.BytesIO(json.dumps(row).encode())))


@pytest.mark.parametrize(
    "endpoint",
    [
        "file:///etc",
        "ftp://hub",
        "gopher://127.0.0.1:6379/_x",
        "http://",
        "//host",
        "http://user:secret@hub",
        "https://hub?x=1",
        "hub",
    ],
)
def test_a_hub_is_asked_over_http_alone_and_gets_no_password_from_its_url(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        fetch("org/tiny", tmp_path, {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_x"}, is_quiet=True)
    assert caught.value.reason == "HUB_ENDPOINT_INVALID"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "hub_id", ["../../etc", "org/../x", "http://127.0.0.1/x", "org/name@../../x y", "a/b/c", "org/name\n", "/abs/x"]
)
def test_a_hub_id_is_a_name_and_never_a_path_or_a_url(tmp_path: Path, hub_id: str) -> None:
    with pytest.raises(InvalidInput):
        fetch(hub_id, tmp_path, {"HF_ENDPOINT": "http://127.0.0.1:1"}, is_quiet=True)
    assert list(tmp_path.iterdir()) == []
