"""Copies a policy out in the form that somebody else loads, with a model card and the report.

transformers        weights, tokenizer and adapter as transformers and vLLM load them
gguf                one file for llama.cpp, and a Modelfile for Ollama
adapter             a LoRA adapter of the base model, as PEFT and vLLM load it

OUT/README.md       the model card: numbers with their intervals, the commands behind them, licences, limits
OUT/run.yaml        the config that made it
OUT/report/         the run's report
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from codelutra.errors import UserError
from codelutra.models.references import check_repository
from codelutra.reporting.card_use import Form, Kind, To, has_adapter_of_base, system_of
from codelutra.reporting.model_card import base_licence, card
from codelutra.reporting.new_folder import new_folder, require_free
from codelutra.reporting.report import write_report
from codelutra.results.findings import Findings, policy_row, read_findings
from codelutra.results.summary import PolicyResult
from codelutra.store.artifacts import Manifest
from codelutra.store.child import Child
from codelutra.store.files import refuse_foreign, sha256_file, write_atomic
from codelutra.training.bases import record_of

_NOT_THE_MODEL = {"manifest.json", "training.jsonl", "codelutra-model.json", "README.md"}
# What is taken from a folder that somebody else made: notes, keys and checkpoints beside the model stay there.
_MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*"),
    *("special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template*", "*.model", "*.tiktoken", "*.py"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "adapter/*", "preprocessor_config.json", "processor_config.json"),
)


def export(
    run_path: Path,
    out: Path,
    *,
    policy: str | None = None,
    to: To = "transformers",
    kind: Kind = "q8_0",
    progress: Callable[[str, int, int, str], None] = lambda *_: None,
) -> Path:
    """Copy a policy of a run to `out`, which must be absent or empty; returns `out`, whole.

    policy: its label ("policy-1") or name ("policy 1"); None means the one the run chose. to: merged weights; a GGUF file,
    its matrices of that `kind`, with a Modelfile; or the adapter alone. `progress` hears stage, done, total, unit.
    Raises UserError where there is no such policy, the run may still choose another, its weights are gone or damaged, it has
    no adapter of the base or cannot be a GGUF file, `out` is in use, or the disk is full.
    """
    require_free(out)
    found, row = exported_policy(run_path, policy)
    form = form_of(found, to, kind)
    if to == "adapter" and not has_adapter_of_base(found, row):
        raise UserError(
            f"{row.name} of run {run_path.name!r} has no adapter over the run's own base model: its weights were trained "
            f"{'without one' if not record_of(Path(row.path)) else 'in steps, each over the one before'}. Export it "
            "without --to (all weights), or train with train.method lora and train.adapter continued, from a warm start of "
            "the same method or none"
        )
    with new_folder(out) as part:
        manifest = found.manifest(row.path)
        if to == "gguf":
            _require_as_scored(row, manifest, found.mend)
            _write_gguf(found, row, form, part, progress)
        else:
            left_out = () if has_adapter_of_base(found, row) else ("adapter",)
            _copy_model(row, manifest, part, found.mend, left_out, "adapter" if to == "adapter" else "")
        # Not to the run's own folder, which may be another user's; and without all the questions, which may be private.
        write_report(run_path, out=part / "report", every_answer=False)
        write_atomic(part / "run.yaml", found.config_text)
        write_atomic(part / "README.md", card(found, row, form))
    return out


def exported_policy(run_path: Path, policy: str | None) -> tuple[Findings, PolicyResult]:
    """What leaves. Raises UserError where there is no such policy, or the run may still choose another."""
    found = read_findings(run_path)
    row = policy_row(found, policy)
    if policy is None and found.summary.state == "running":
        raise UserError(
            f"run {run_path.name!r} is going on and may still choose another policy than {row.name}; export when it has "
            f"ended, or name the policy: --policy {row.label}"
        )
    return found, row


def form_of(found: Findings, to: To, kind: Kind) -> Form:
    return Form(to, kind, f"{found.summary.run}-{kind}.gguf" if to == "gguf" else "")


def _write_gguf(found: Findings, row: PolicyResult, form: Form, to: Path, progress: Callable[..., None]) -> None:
    """The GGUF file and its Modelfile, by a process of its own: torch and transformers stay out of this one."""
    config, licence = found.config, base_licence(found)
    asked = {
        "model": row.path,
        "out": str(to / form.file),
        "kind": form.kind,
        "about": {"name": found.summary.run, "licence": licence},
        "modelfile": {
            "system": system_of(found, row),
            "thinking": config.prompt.thinking,
            "context": config.engine.max_model_len,
            "max_tokens": config.sample.max_tokens + config.prompt.budget,
            "licence": licence,
        },
    }
    with (
        tempfile.TemporaryDirectory() as scratch,
        Child("export", "codelutra.reporting.gguf_worker", log=Path(scratch) / "log") as child,
    ):
        child.send(asked)
        while (event := child.hear())["event"] != "done":
            progress(f"write {form.file}", event["done"], event["total"], "tensors")


def hub_name(target: str) -> str:
    """`org/name` of `hf:org/name`. Raises UserError for anything else."""
    scheme, _, name = target.partition(":")
    wrong = f"--push {target!r}: write hf:org/name, the repository on the Hugging Face hub it goes to"
    if scheme != "hf":
        raise UserError(wrong)
    check_repository(name, wrong)
    return name


def push(exported: Path, target: str, *, data: bool = False) -> str:
    """Upload an export, of a policy or of `data`, to `hf:org/name`, made private where it is not there yet; returns its
    address.

    Raises UserError with what the hub said; the folder stays, so that the upload can be tried again.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    http_error: type[Exception] = HfHubHTTPError.__mro__[1]  # of the HTTP library below, another in every major version
    name = hub_name(target)
    kind, option = ("dataset", " --data") if data else ("model", "")
    again = f"hf upload {name} {exported}" + (" --repo-type dataset" if data else "")
    told = f"{exported.name}, by codelutra export{option}"
    try:
        api = HfApi()
        address = api.create_repo(name, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, repo_type=kind, folder_path=exported, commit_message=told)
    except (http_error, HFValidationError, OSError) as e:
        said = str(e).strip().splitlines() or [type(e).__name__]
        raise UserError(
            f"exported to {exported}, but not pushed to {target}: {said[0]}\nA token with the right to write is needed "
            f"(`hf auth login`, or $HF_TOKEN) and the hub must be reachable; then: {again}"
        ) from e
    return str(address)


def _of_a_model(name: Path) -> bool:
    """By its name in the folder; those of subfolders, other than adapter/, are not."""
    return any(name.match(kind) and len(name.parts) == kind.count("/") + 1 for kind in _MODEL_FILES)


def _recorded(row: PolicyResult, manifest: Manifest | None, made_by: str) -> dict[str, str]:
    """File → sha256 of what the policy was scored with; empty where nobody wrote that down. Raises UserError where one of
    the files is gone; `made_by` is the way out."""
    source = Path(row.path)
    if not (source / "config.json").is_file():
        raise UserError(f"the weights of {row.name} are not at {source} any more; {made_by}")
    files = (manifest["files"] if manifest else {}).items()
    recorded = {name: said["sha256"] for name, said in files if name not in _NOT_THE_MODEL}
    if gone := [name for name in recorded if not (source / name).is_file()]:
        raise UserError(f"{source / gone[0]} is not there any more; {made_by}")
    return recorded


def _require_as_scored(row: PolicyResult, manifest: Manifest | None, made_by: str) -> None:
    for name, digest in _recorded(row, manifest, made_by).items():
        if sha256_file(Path(row.path) / name) != digest:
            raise UserError(_damaged(Path(row.path) / name, row, made_by))


def _damaged(file: Path, row: PolicyResult, made_by: str) -> str:
    return f"{file} is not what {row.name} was scored with (its sha256 differs); {made_by}"


def _copy_model(
    row: PolicyResult, manifest: Manifest | None, to: Path, made_by: str, left_out: tuple[str, ...] = (), only: str = ""
) -> None:
    """Copy what defines the policy, each file checked against the digest it had when it was scored; `made_by` is the way
    out where one is not what it was. The folders `left_out` stay; of the folder `only` the content is copied, and nothing
    else."""
    source, recorded = Path(row.path), _recorded(row, manifest, made_by)
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        name = file.relative_to(source)
        if str(name) in _NOT_THE_MODEL or name.parts[0] in left_out or not (str(name) in recorded or _of_a_model(name)):
            continue
        if only and name.parts[0] != only:
            continue
        refuse_foreign(file, source)
        copy = to / (name.relative_to(only) if only else name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        if str(name) in recorded and sha256_file(copy) != recorded[str(name)]:
            raise UserError(_damaged(file, row, made_by))
