"""Exports: what leaves is what was scored, whole, loadable, with a card that says how good it is and under which licence."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.models import resolve
from codelutra.reporting.export import export, push
from codelutra.reporting.failures import ANSWERS_FILE
from codelutra.reporting.model_card import card as card_of
from codelutra.reporting.report import write_report
from codelutra.results.findings import policy_row, read_findings
from codelutra.store.run_dir import RunDir
from tests.helpers.example_run import example_run
from tests.helpers.http import Raw, answering
from tests.helpers.rights import rights_count
from tests.helpers.tiny_model import write_tiny_model

pytestmark = pytest.mark.usefixtures("drawn_once")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy directory as training leaves it: model, tokenizer, generation config, adapter, the record of the steps."""
    directory = write_tiny_model(tmp_path_factory.mktemp("weights"))
    (directory / "adapter").mkdir()
    (directory / "adapter" / "adapter_config.json").write_text('{"r": 16}')
    record = {"base": "hf:example/tiny@main", "fingerprint": "ab12" * 16, "method": "lora"}
    (directory / "adapter" / "codelutra-adapter.json").write_text(json.dumps(record))
    (directory / "codelutra-model.json").write_text('{"licence": "apache-2.0"}')
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    return example_run(tmp_path_factory.mktemp("home"), weights=weights)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("out") / "model")


def front(card: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(card.read_text().split("---\n")[1])
    return parsed


def test_what_is_exported_is_what_was_scored(exported: Path, run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    best = Path(next(p["path"] for p in summary["policies"] if p["label"] == summary["best"]))
    model = {p.name for p in best.iterdir() if p.suffix in (".safetensors", ".json", ".jinja")} - {
        "manifest.json",
        "codelutra-model.json",
    }
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= model
    for name in model:
        assert (exported / name).read_bytes() == (best / name).read_bytes()
    assert (exported / "adapter" / "adapter_config.json").is_file()
    beside = {p.name for p in exported.iterdir()} - model
    assert beside == {"README.md", "run.yaml", "report", "adapter"}
    assert (exported / "report" / "index.html").read_text() == write_report(run, every_answer=False).read_text()


def test_the_report_in_an_export_has_examples_and_not_every_question(exported: Path, run: Path) -> None:
    page = (exported / "report" / "index.html").read_text()
    assert "Some of them:" in page
    assert ANSWERS_FILE not in page
    assert not (exported / "report" / ANSWERS_FILE).exists()
    assert '"problems":[' not in page
    assert '"problems":[' in write_report(run).read_text()


def test_the_export_answers_a_prompt_as_its_card_shows(exported: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert code is not None
    program = code[1].replace("PATH", str(exported)).replace("max_new_tokens=256", "max_new_tokens=4")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_card_has_the_numbers_with_their_intervals_and_the_licences(exported: Path, run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    text = (exported / "README.md").read_text()
    for row in summary["policies"]:
        dev = row["dev"]
        assert row["name"] in text
        assert f"{dev['value']:.1%}" in text
        assert f"{100 * dev['low']:.1f} – {100 * dev['high']:.1f}" in text
    test = summary["test"]
    assert f"**{test['value']:.1%} [{100 * test['low']:.1f} – {100 * test['high']:.1f}]** of {test['n']} problems" in text
    assert "starter-sql, version" in text
    assert "licence Apache-2.0" in text
    assert "codelutra run run.yaml" in text
    assert "$" not in text, "a blank of the template was left"
    meta = front(exported / "README.md")
    assert meta["license"] == "apache-2.0"
    assert meta["base_model"] == "example/tiny"
    values = [m["value"] for m in meta["model-index"][0]["results"][0]["metrics"]]
    best = next(p for p in summary["policies"] if p["label"] == summary["best"])
    assert values == [round(best["dev"]["value"], 4), round(test["value"], 4)]


def test_the_card_of_a_run_that_went_on_from_another_names_the_first_model(run: Path, weights: Path, tmp_path: Path) -> None:
    later = example_run(run.parent.parent, weights=weights, name="later", model=f"run:{run.name}")
    card = export(later, tmp_path / "later") / "README.md"
    assert front(card)["base_model"] == "example/tiny"
    assert front(card)["license"] == "apache-2.0"
    assert "# later: hf:example/tiny" in card.read_text()
    assert f"| trained before | run `{run.name}` on starter-sql" in card.read_text()


@pytest.mark.parametrize(
    ("changes", "policy", "says", "says_not"),
    [
        ({}, "policy-1", "train with DPO and an SFT term on the right ones, repeat", "rejection sampling"),
        ({"train": {"sft_weight": 0}}, "policy-1", "train with DPO, repeat", "SFT term"),
        (
            {"train": {"dpo_weight": 0, "sft_on": "right+references"}},
            "policy-1",
            "train with an SFT term on all right ones and references, repeat",
            "DPO",
        ),
        ({"train": {"objective": "rft"}}, "policy-1", "refined by rejection sampling", "DPO"),
        ({"train": {"objective": "grpo"}}, "policy-1", "trained by GRPO", "DPO"),
        ({"train": {"objective": "sft"}}, "policy-1", "fine-tuned on the references", "DPO"),
        ({}, "policy-0", "fine-tuned on the references", "DPO"),
        ({}, "base", "as it came: nothing of it was trained here", "DPO"),
    ],
)
def test_the_card_says_how_this_policy_was_made(
    changes: dict[str, Any], policy: str, says: str, says_not: str, weights: Path, tmp_path: Path
) -> None:
    card = export(example_run(tmp_path / "home", weights=weights, **changes), tmp_path / "out", policy=policy) / "README.md"
    assert says in card.read_text()
    assert says_not not in card.read_text().split("## Use")[0].split("## How it was made")[1]
    assert ("dpo" in front(card)["tags"]) == ("train with DPO" in says)


def test_the_card_of_a_model_without_a_chat_template_uses_none(weights: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(weights, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    card = export(example_run(tmp_path / "home", weights=bare), tmp_path / "out") / "README.md"
    assert "apply_chat_template" not in card.read_text()
    assert "prompt = tokenizer(text" in card.read_text()


def test_a_tokenizer_that_cannot_be_read_costs_the_card_nothing_else(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    for content in ("{}", "[1]", "no JSON"):
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (odd / name).write_text(content)
        found = read_findings(example_run(tmp_path / content, weights=odd, skills=(0.2, 0.5)))
        assert "apply_chat_template(messages" in card_of(found, policy_row(found, None))


@pytest.mark.parametrize(
    ("template", "more"),
    [
        ("{{ raise_exception('no system') if messages[0].role == 'system' else messages[0].content }}<|im_end|>", ""),
        (
            "{{ messages[0].content }}{{ enable_thinking }}{{ date_string }}",
            ', enable_thinking=False, date_string="26 Jul 2024"',
        ),
    ],
)
def test_the_cards_example_is_what_the_policy_was_trained_on(
    template: str, more: str, weights: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(weights, tmp_path / "other")
    (other / "chat_template.jinja").write_text(template)
    card = export(example_run(tmp_path / "home", weights=other), tmp_path / "out") / "README.md"
    assert f"add_generation_prompt=True{more}, return" in card.read_text()
    assert '"role": "system"' not in card.read_text(), "neither template has a place for it"


@pytest.mark.parametrize(
    ("template", "thinking", "wanted"),
    [
        ("enable_thinking", False, ""),
        ("enable_thinking", True, ""),
        ("thinking", True, ""),
        ("opens", True, ""),
        ("opens", False, "\n</think>\n\n"),
    ],
)
def test_the_cards_example_thinks_as_the_policy_was_trained_to(
    template: str, thinking: bool, wanted: str, weights: Path, tmp_path: Path
) -> None:
    """The example is run, and its prompt is the one that training used."""
    from transformers import AutoTokenizer

    from codelutra.prompts import prompt_ids

    switch = "" if template == "opens" else f"{{% if {template} %}}"
    text = "{{ messages[0].content }}{{ '<|im_end|>' }}{% if add_generation_prompt %}" + switch + "{{ '<think>' }}"
    other = shutil.copytree(weights, tmp_path / "other")
    (other / "chat_template.jinja").write_text(text + ("{% endif %}" if switch else "") + "{% endif %}")
    run = example_run(tmp_path / "home", weights=other, prompt={"thinking": thinking, "thinking_tokens": 300})
    card = (export(run, tmp_path / "out") / "README.md").read_text()
    example = card.split("```python")[1].split("answer = ")[0].split("PATH")[-1].partition("\n")[2]
    names: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(other)}
    exec(example, names)
    asked = names["messages"][0]["content"]
    ids = names["prompt"]["input_ids"][0].tolist()
    assert ids == prompt_ids(names["tokenizer"], "", asked, thinking=thinking)
    assert names["tokenizer"].decode(ids).endswith("<think>" * thinking + wanted)
    assert ("thinking | on, at most 300 tokens a thought" in card) is thinking
    assert ("what stands behind </think>" in card) is thinking
    assert f"max_new_tokens={256 + 300 * thinking}" in card


def test_the_config_in_the_export_is_the_one_of_the_run(exported: Path, run: Path) -> None:
    assert load_config(exported / "run.yaml") == load_config(run / "run.yaml")


def test_another_policy_goes_by_label_or_name_and_does_not_borrow_the_test_number(run: Path, tmp_path: Path) -> None:
    by_label = export(run, tmp_path / "a", policy="policy-1")
    by_name = export(run, tmp_path / "b", policy="policy 1")
    assert (by_label / "README.md").read_text() == (by_name / "README.md").read_text()
    text = (by_label / "README.md").read_text()
    assert "The policy in this folder is **policy 1**" in text
    assert "It was not scored on a test split" in text
    assert len(front(by_label / "README.md")["model-index"][0]["results"][0]["metrics"]) == 1


def test_an_unknown_policy_is_answered_with_those_there_are(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no policy 'policy-9'; there: base, policy-0, policy-1, policy-2"):
        export(run, tmp_path / "out", policy="policy-9")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_and_left_alone_but_an_empty_one_is_taken(run: Path, tmp_path: Path) -> None:
    used, empty = tmp_path / "used", tmp_path / "empty"
    used.mkdir()
    empty.mkdir()
    (used / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        export(run, used)
    assert [p.name for p in used.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="not empty"):
        export(run, used / "mine.txt")
    (tmp_path / "empty" / ".empty.part").mkdir()
    (tmp_path / "empty" / ".empty.part" / "half.safetensors").write_text("what a killed export left")
    assert (export(run, empty) / "config.json").is_file()
    assert not list(empty.glob("half*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "used"]


def test_weights_that_changed_since_they_were_scored_are_refused_and_nothing_is_left(run: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(run.parents[1], home, symlinks=True)
    own = home / "runs" / run.name
    summary = (own / "summary.json").read_text().replace(str(run.parents[1]), str(home))
    (own / "summary.json").write_text(summary)
    best = Path(json.loads(summary)["policies"][-1]["path"])
    with (best / "model.safetensors").open("r+b") as f:
        f.seek(-4, 2)
        f.write(b"\1\2\3\4")
    with pytest.raises(UserError, match="its sha256 differs"):
        export(own, tmp_path / "out")
    shutil.rmtree(best)
    with pytest.raises(UserError, match=r"not at .* any more"):
        export(own, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_the_card_says_what_the_adapter_beside_merged_weights_is(exported: Path, tmp_path: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "`adapter/` is in them already" in card
    assert f"an adapter (LoRA) of `hf:example/tiny@main` (fingerprint `{'ab12' * 16}`)" in card
    assert "--max-lora-rank 16" in card
    full = export(example_run(tmp_path, weights=write_tiny_model(tmp_path / "full")), tmp_path / "out")
    assert "adapter" not in (full / "README.md").read_text()


@pytest.mark.parametrize("record", ['{"base": "policy-1", "fingerprint": "ab"}', '{"base": 3}', "[", ""])
def test_an_adapter_that_is_not_of_the_base_model_stays_where_it_is(record: str, weights: Path, tmp_path: Path) -> None:
    """What an iteration added to the policy before it is of no use without that policy."""
    model = shutil.copytree(weights, tmp_path / "model")
    (model / "adapter" / "codelutra-adapter.json").write_text(record)
    out = export(example_run(tmp_path / "home", weights=model), tmp_path / "out")
    assert not (out / "adapter").exists()
    assert "adapter" not in (out / "README.md").read_text()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "home-of-somebody").mkdir()
    key = tmp_path / "home-of-somebody" / "id_ed25519"
    key.write_text("PRIVATE KEY")
    return key


@pytest.mark.parametrize("name", ["tokenizer_config.json", "vocab.json", "LICENSE", "adapter/adapter_config.json"])
def test_a_link_out_of_the_model_s_folder_is_refused_and_what_it_leads_to_stays(
    name: str, weights: Path, secret: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(weights, tmp_path / "model")
    run = example_run(tmp_path / "home", weights=model)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(UserError, match=rf"{Path(name).name} is a link that leads out of its folder, to {secret}"):
        export(run, tmp_path / "out", policy="base")
    assert not (tmp_path / "out").exists()
    assert "PRIVATE KEY" not in "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*out*/**/*") if p.is_file())


def test_what_lies_beside_a_model_of_others_is_not_exported(weights: Path, secret: Path, tmp_path: Path) -> None:
    model = shutil.copytree(weights, tmp_path / "model")
    (model / ".env").write_text("HF_TOKEN=hf_secret")
    (model / ".git").mkdir()
    (model / ".git" / "config").write_text("url = https://me:secret@host")
    (model / "notes.txt").symlink_to(secret)
    (model / "more").symlink_to(secret.parent)
    (model / "LICENSE").write_text("Apache-2.0")
    out = export(example_run(tmp_path / "home", weights=model), tmp_path / "out", policy="base")
    assert {"config.json", "tokenizer.json", "model.safetensors", "LICENSE", "adapter"} <= {p.name for p in out.iterdir()}
    assert not [n for n in (".env", ".git", "notes.txt", "more") if (out / n).exists()]


def test_a_snapshot_of_the_hub_and_links_within_a_folder_are_exported_as_files(weights: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--coder"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    shutil.copytree(weights, repository / "blobs")
    for file in (f for f in weights.iterdir() if f.is_file()):
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    (snapshot / "LICENSE").symlink_to("config.json")
    run = example_run(tmp_path / "home", weights=snapshot)
    out = export(run, tmp_path / "out", policy="base")
    assert (out / "config.json").read_bytes() == (weights / "config.json").read_bytes() == (out / "LICENSE").read_bytes()
    assert not [p for p in out.rglob("*") if p.is_symlink()]


def test_a_link_among_a_model_s_files_is_refused_before_anything_is_sampled(
    weights: Path, secret: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(weights, tmp_path / "model")
    (model / "tokenizer_config.json").unlink()
    (model / "tokenizer_config.json").symlink_to(secret)
    with pytest.raises(UserError, match="is a link that leads out of its folder"):
        resolve(f"path:{model}", tmp_path / "cache")


def test_a_run_of_before_with_credentials_in_its_config_publishes_none(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run.parents[1], tmp_path / "home", symlinks=True)
    own = tmp_path / "home" / "runs" / run.name
    config = yaml.safe_load((own / "run.yaml").read_text())
    config["sample"]["endpoints"] = ["http://user:s3cret@host:8000/v1"]
    (own / "run.yaml").write_text(yaml.safe_dump(config))
    out = export(own, tmp_path / "out")
    shown = [p.read_text(errors="replace") for p in out.rglob("*") if p.is_file() and p.suffix != ".safetensors"]
    assert not [text for text in shown if "s3cret" in text]
    assert "http://***@host:8000/v1" in (out / "run.yaml").read_text()


@pytest.mark.parametrize("answers", [True, False], ids=["refuses", "is not there"])
def test_an_export_that_the_hub_does_not_take_is_kept_and_says_how_to_try_again(
    run: Path, tmp_path: Path, answers: bool
) -> None:
    with answering(lambda _: Raw(401, ""), "") as url:  # a hub that refuses every token
        env = {"HF_ENDPOINT": url if answers else "http://127.0.0.1:9", "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "codelutra.cli", "export", run.name, str(tmp_path / "out"), "--push", "hf:me/model"]
        done = subprocess.run(
            [*command, "--home", str(run.parents[1])], env=os.environ | env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"exported to {tmp_path / 'out'}, but not pushed to hf:me/model: " in done.stderr
    assert f"hf upload me/model {tmp_path / 'out'}" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "target",
    [
        "me/model",
        "hf:model",
        "s3://bucket/model",
        "hf:",
        "hf:../..",
        "hf:./x",
        "hf:a/b/c",
        "hf:me/m..n",
        "hf:me/m--n",
        "hf:-me/model",
        "hf:me/model.git",
        "hf:me/model\n",
        "hf:me/model@main",
        f"hf:me/{'x' * 200}",
    ],
)
def test_a_push_to_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(UserError, match="write hf:org/name"):
        push(tmp_path, target)


def test_a_run_that_goes_on_is_exported_by_name_only_and_the_card_says_so(run: Path, tmp_path: Path) -> None:
    with RunDir(run).hold():
        with pytest.raises(UserError, match=r"(?s)'example' is going on and may still choose another .*--policy policy-2"):
            export(run, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        export(run, tmp_path / "out", policy="policy-1")
    card = (tmp_path / "out/README.md").read_text()
    assert "The run was going on when this was exported: the numbers are those it had by then." in card
    assert "\\*" not in card, "no mark of Markdown is shown as it is written"
    assert "when this was exported" not in (export(run, tmp_path / "later") / "README.md").read_text()


def test_a_run_of_another_user_is_exported(run: Path, tmp_path: Path) -> None:
    for folder in (run, *(p for p in run.rglob("*") if p.is_dir() and not p.is_symlink())):
        folder.chmod(0o555)
    try:
        with rights_count():
            out = export(run, tmp_path / "out")
    finally:
        for folder in (run, *(p for p in run.rglob("*") if p.is_dir() and not p.is_symlink())):
            folder.chmod(0o755)
    assert (out / "report/index.html").is_file()


def test_a_policy_that_lacks_a_file_does_not_leave(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    best = Path(next(p["path"] for p in summary["policies"] if p["label"] == summary["best"]))
    (best / "tokenizer.json").rename(tmp_path / "kept")
    try:
        with pytest.raises(UserError, match=rf"{best}/tokenizer.json is not there any more; `codelutra run "):
            export(run, tmp_path / "out")
    finally:
        (tmp_path / "kept").rename(best / "tokenizer.json")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        with pytest.raises(UserError, match=r"disk full at .*small"):
            export(run, small / "model")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
