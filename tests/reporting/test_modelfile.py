"""What Ollama makes of a Modelfile is what the policy was sampled and trained with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from codelutra.prompts import prompt_ids
from codelutra.reporting.modelfile import Wanted, modelfile
from tests.helpers.tiny_model import tiny_tokenizer

PLAIN = "{{ messages[0].content }}<|im_end|>{% if add_generation_prompt %}>>{% endif %}"
TEMPLATES = {
    "ChatML": "",
    "no place for the system text": "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + PLAIN,
    "a default system text": "{% if messages[0].role != 'system' %}Be good.\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[answer] {% endif %}",
    "marks of Go": '{% for m in messages %}{{ "{{ .Prompt }}" }}{{ m.content }}"""<|im_end|>{% endfor %}{{ "{{" }}',
    "opens a thought": "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}<think>\n",
    "none": "none",
}
SYSTEMS = ["Answer with one SQLite query.", "", 'Say """SELECT""".\nNo {{ .System }}!', 'End with "quotes"', "ü\n\nlines\n"]


def tokenizer(template: str, *, bos: bool = False) -> Any:
    made = tiny_tokenizer()
    if template:
        made.chat_template = None if template == "none" else template
    if bos:
        from tokenizers import processors

        made.bos_token = "<|im_start|>"
        single = "<|im_start|> $A"
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<|im_start|>", 1)]
        )
        made.chat_template = "{{ bos_token }}" + (made.chat_template or "") if made.chat_template else None
    return made


def written(made: Any, policy: Path, system: str, **more: Any) -> str:
    told: dict[str, Any] = {"adds_bos": False, "thinking": False, "context": 1024, "max_tokens": 256, "licence": "mit"}
    return modelfile(made, policy, Wanted(file="m.gguf", system=system, **(told | more)))


def read(text: str) -> dict[str, Any]:
    """As Ollama reads it: a command, then a text in triple quotes, in quotes, or up to the end of the line."""
    found: dict[str, Any] = {"parameters": []}
    at = 0
    while at < len(text):
        line = re.compile(r'(\w+) (?:(\w+) )?(?:"""(.*?)"""|"(.*?)"|([^\n"]*))\n', re.DOTALL).match(text, at)
        assert line, text[at : at + 80]
        value = next(v for v in line.groups()[2:] if v is not None)
        at = line.end()
        if line[1] == "PARAMETER":
            found["parameters"].append((line[2], value))
        else:
            found[line[1]] = value if line[2] is None else f"{line[2]} {value}"
    return found


def rendered(template: str, names: dict[str, str]) -> str:
    """What Go's text/template makes of the few forms that are used."""
    out, keeps = [], [True]
    for text, action in re.findall(r'(.*?)(?:\{\{ ((?:"(?:\\.|[^"\\])*"|[^"}])*?) \}\}|\Z)', template, re.DOTALL):
        out.append(text if keeps[-1] else "")
        match action.split(" ", 1):
            case ["if", name]:
                keeps.append(bool(names[name.removeprefix(".")]))
            case ["else"]:
                keeps[-1] = not keeps[-1]
            case ["end"]:
                keeps.pop()
            case [said] if said.startswith('"') and keeps[-1]:
                out.append(json.loads(said.replace(r"\x22", r"\"")))
            case [said] if said.startswith(".") and keeps[-1]:
                out.append(names[said.removeprefix(".")])
    return "".join(out)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_the_one_of_training_whatever_the_template_and_the_system_text(
    name: str, system: str, tmp_path: Path
) -> None:
    made = tokenizer(TEMPLATES[name])
    found = read(written(made, tmp_path, system))
    question = "singer(id, name)\n\nHow many?"
    names = {"System": found.get("SYSTEM", ""), "Prompt": question, "Response": ""}
    wanted = made.decode(prompt_ids(made, system, question))
    shown = rendered(found["TEMPLATE"], names)
    assert shown.startswith(wanted), (shown, wanted)
    assert shown.removeprefix(wanted) in ("<|im_end|>", "\n<|im_end|>", '"""<|im_end|>'), "and behind the answer its end"
    if "SYSTEM" in found and name != "marks of Go":  # and of another system text, what that makes of it
        other = rendered(found["TEMPLATE"], names | {"System": "Other."})
        assert other.startswith(made.decode(prompt_ids(made, "Other.", question)))


def test_bos_is_left_to_whoever_loads_the_file(tmp_path: Path) -> None:
    made = tokenizer("[{{ messages[0].content }}]", bos=True)
    assert made.decode(prompt_ids(made, "", "q")) == "<|im_start|>[q]"
    once = read(written(made, tmp_path, "", adds_bos=True))["TEMPLATE"]
    kept = read(written(made, tmp_path, "", adds_bos=False))["TEMPLATE"]
    names = {"System": "", "Prompt": "q", "Response": ""}
    assert rendered(once, names).startswith("[q]")
    assert rendered(kept, names).startswith("<|im_start|>[q]")


def test_it_answers_greedily_within_the_limits_of_the_run_and_stops_where_answers_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    found = read(written(tokenizer(""), tmp_path, "S", context=2048, max_tokens=300))
    assert found["FROM"] == "./m.gguf"
    assert found["LICENSE"] == "mit"
    wanted = [("stop", "<|endoftext|>"), ("stop", "<|im_end|>"), ("temperature", "0"), ("repeat_penalty", "1")]
    assert found["parameters"] == [*wanted, ("num_ctx", "2048"), ("num_predict", "300")]


GO = """package main
import ("os"; "strings"; "encoding/json"; "text/template")
func main() {
  var asked []struct{ Template string; Names map[string]string }
  json.NewDecoder(os.Stdin).Decode(&asked)
  out := []string{}
  for _, a := range asked {
    var b strings.Builder
    if err := template.Must(template.New("").Parse(a.Template)).Execute(&b, a.Names); err != nil { panic(err) }
    out = append(out, b.String())
  }
  json.NewEncoder(os.Stdout).Encode(out)
}
"""


def test_go_renders_the_templates_as_this_file_does(tmp_path: Path) -> None:
    go = shutil.which("go")
    if not go:
        pytest.skip("Go is not installed; `rendered` stands for its text/template")
    asked = []
    for template in TEMPLATES.values():
        for system in SYSTEMS:
            found = read(written(tokenizer(template), tmp_path, system))
            names = {"System": found.get("SYSTEM", ""), "Prompt": "a {{ .b }}", "Response": "SELECT"}
            asked.append({"Template": found["TEMPLATE"], "Names": names})
    (tmp_path / "main.go").write_text(GO)
    done = subprocess.run(
        [go, "run", "main.go"], cwd=tmp_path, input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [rendered(a["Template"], a["Names"]) for a in asked]
