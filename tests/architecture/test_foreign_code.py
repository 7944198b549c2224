"""Nothing in services/ runs what comes from outside: no pickle, no code of a model, no shell, no text that is evaluated.

Read from the syntax, so it holds for what no test reaches. Where something is fetched from is a closed list for the same reason.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICKLES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "pd.read_pickle", "torch.hub.load", "runpy.run_path",
    "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
# What loads no class by a name that a folder gives, so takes no trust_remote_code.
PLAIN_LOADERS = {"PeftModel", "GenerationConfig"}
CLIENTS = {"aiohttp", "httpx", "httpx2", "requests", "urllib.request", "http.client", "huggingface_hub", "openai", "boto3"}
# Who asks somebody over HTTP, and whom. None of them takes an address from a request, a row or a manifest.
CONNECTING = {
    "services/cli/chat.py",  # the gateway of the home's settings
    "services/cli/hub.py",  # HF_ENDPOINT of whoever types the command
    "services/cli/readiness.py",  # the programs that it has started
    "services/common/backends/model_server/vllm.py",  # servers that inference has started, on loopback
    "services/common/backends/object_store/s3_client.py",  # the store of the settings, or what its program has signed
    "services/evaluator/worker/asking.py",  # the gateway of its environment
    "services/inference/__main__.py",  # the session for its servers
}


def sources() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted((ROOT / "services").rglob("*.py"))}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '()'}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def offences(tree: ast.Module) -> Iterator[str]:
    """Yield each place where something from outside could run."""
    yield from (f"imports {name}" for name in imported(tree) if name.split(".")[0] in PICKLES)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        where = f"line {node.lineno}: {name}"
        if name in CALLS:
            yield where
        if "allow_pickle" in given or _is_true(given.get("shell")) or _is_not_false(given.get("trust_remote_code")):
            yield f"{where} with {sorted(map(str, given))}"
        if name.endswith("import_module") and not all(isinstance(argument, ast.Constant) for argument in node.args):
            yield f"{where} of a name that is computed"
        if name.endswith(".from_pretrained") and name.split(".")[-2] not in PLAIN_LOADERS and "trust_remote_code" not in given:
            yield f"{where} without trust_remote_code=False"


def _is_true(value: ast.expr | None) -> bool:
    return value is not None and not (isinstance(value, ast.Constant) and not value.value)


def _is_not_false(value: ast.expr | None) -> bool:
    return value is not None and not (isinstance(value, ast.Constant) and value.value is False)


def test_nothing_that_comes_from_outside_is_run() -> None:
    assert {path: list(offences(tree)) for path, tree in sources().items() if list(offences(tree))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from cloudpickle import load", "eval('1')", "exec(text)", "torch.load(path)",
        "np.load(path, allow_pickle=True)", "subprocess.run(text, shell=True)", "subprocess.run(text, shell=flag)",
        "os.system(text)", "yaml.load(text)", "AutoModel.from_pretrained(folder)",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)",
        "AutoConfig.from_pretrained(folder, trust_remote_code=flag)", "importlib.import_module(name)",
    ],
)  # fmt: skip
def test_the_reader_finds_each_way_of_running_it(code: str) -> None:
    assert list(offences(ast.parse(code)))


def test_connections_are_opened_by_those_who_are_listed_and_nobody_else() -> None:
    connecting = {
        path
        for path, tree in sources().items()
        if any(name == c or name.startswith(f"{c}.") for name in imported(tree) for c in CLIENTS)
    }
    assert connecting == CONNECTING
