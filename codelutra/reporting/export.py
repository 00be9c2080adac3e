"""A policy on its way out: weights, tokenizer and adapter as transformers and vLLM load them, a model card, the report.

OUT/README.md       the model card: numbers with their intervals, the commands behind them, licences, limits
OUT/run.yaml        the config that made it
OUT/report/         the run's report
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from codelutra.errors import UserError
from codelutra.reporting.model_card import card, has_adapter_of_base
from codelutra.reporting.report import write_report
from codelutra.results.findings import policy_row, read_findings
from codelutra.results.summary import PolicyResult
from codelutra.store.artifacts import Manifest
from codelutra.store.files import refuse_foreign, refusing_full_disk, sha256_file, write_atomic

_NOT_THE_MODEL = {"manifest.json", "training.jsonl", "codelutra-model.json", "README.md"}
# What is taken from a folder that somebody else made: notes, keys and checkpoints beside the model stay there.
_MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*"),
    *("special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template*", "*.model", "*.tiktoken", "*.py"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "adapter/*", "preprocessor_config.json", "processor_config.json"),
)


def export(run_path: Path, out: Path, *, policy: str | None = None) -> Path:
    """Copy a policy of a run to `out`, which must be absent or empty; returns `out`, whole.

    policy: its label ("policy-1") or name ("policy 1"); None means the one the run chose. Raises UserError where there
    is no such policy, the run may still choose another, its weights are gone or damaged, `out` is in use, or the disk is
    full.
    """
    found = read_findings(run_path)
    row = policy_row(found, policy)
    if policy is None and found.summary.state == "running":
        raise UserError(
            f"run {run_path.name!r} is going on and may still choose another policy than {row.name}; export when it has "
            f"ended, or name the policy: --policy {row.label}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and not empty; export writes a new folder: give another one, or remove it")
    part = out.parent / f".{out.name}.part"  # what a killed export left is cleared away by the next
    shutil.rmtree(part, ignore_errors=True)
    try:
        with refusing_full_disk(out.parent, part):
            part.mkdir(parents=True)
            left_out = () if has_adapter_of_base(found, row) else ("adapter",)
            _copy_model(row, found.manifest(row.path), part, found.mend, left_out)
            # Not to the run's own folder, which may be another user's; and without all the questions, which may be private.
            write_report(run_path, out=part / "report", every_answer=False)
            write_atomic(part / "run.yaml", found.config_text)
            write_atomic(part / "README.md", card(found, row))
            os.rename(part, out)  # an empty `out` is replaced
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def hub_name(target: str) -> str:
    """`org/name` of `hf:org/name`. Raises UserError for anything else."""
    named = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)", target)
    if not named:
        raise UserError(f"--push {target!r}: write hf:org/name, the repository on the Hugging Face hub it goes to")
    return named[1]


def push(exported: Path, target: str) -> str:
    """Upload an export to `hf:org/name`, made private where it is not there yet; returns its address.

    Raises UserError with what the hub said; the folder stays, so that the upload can be tried again.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    http_error: type[Exception] = HfHubHTTPError.__mro__[1]  # of the HTTP library below, another in every major version
    name = hub_name(target)
    again = f"hf upload {name} {exported}"
    try:
        api = HfApi()
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=exported, commit_message=f"{exported.name}, by codelutra export")
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


def _copy_model(
    row: PolicyResult, manifest: Manifest | None, to: Path, made_by: str, left_out: tuple[str, ...] = ()
) -> None:
    """Copy what defines the policy, each file checked against the digest it had when it was scored; `made_by` is the way
    out where one is not what it was. The folders `left_out` stay."""
    source = Path(row.path)
    if not (source / "config.json").is_file():
        raise UserError(f"the weights of {row.name} are not at {source} any more; {made_by}")
    recorded = {name: said for name, said in (manifest["files"] if manifest else {}).items() if name not in _NOT_THE_MODEL}
    if gone := [name for name in recorded if not (source / name).is_file()]:
        raise UserError(f"{source / gone[0]} is not there any more; {made_by}")
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        name = file.relative_to(source)
        if str(name) in _NOT_THE_MODEL or name.parts[0] in left_out or not (str(name) in recorded or _of_a_model(name)):
            continue
        refuse_foreign(file, source)
        copy = to / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        if str(name) in recorded and sha256_file(copy) != recorded[str(name)]["sha256"]:
            raise UserError(f"{file} is not what {row.name} was scored with (its sha256 differs); {made_by}")
