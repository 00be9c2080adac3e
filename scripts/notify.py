"""Have Prefect's server send a message after every retraining, and when one fails or is killed.

    set -a; . ~/.config/codelutra/prefect.env; set +a            # the server's address and password
    .venv/bin/python scripts/notify.py --to https://hooks.slack.com/services/T000/B000/XXXX
    .venv/bin/python scripts/notify.py --to 'mailtos://me:password@smtp.example.org?from=me@example.org&to=you@example.org'
    .venv/bin/python scripts/notify.py --to http://127.0.0.1:9000/codelutra --on promoted,failed
    .venv/bin/python scripts/notify.py --remove

--to is a web hook, which gets {"subject": …, "text": …} as JSON, or any address of Apprise (Slack, e-mail and more:
https://github.com/caronc/apprise/wiki). It may be repeated. With `--to -` addresses are read from stdin, one a line, so
that a password does not stand in the shell's history. Blocks and automations of an earlier call are replaced. The server
keeps the addresses, encrypted, and sends the messages: they need no worker.
"""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from typing import Any

from apprise import Apprise
from prefect.automations import Automation, Posture
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import get_client
from prefect.events import EventTrigger, SendNotification
from prefect.settings import get_current_settings

from codelutra.errors import UserError
from tasks.server import require_server

NAME = "codelutra-notify"
CRASHED = "crashed"
LINK = "\n{{ flow_run|ui_url }}"
EACH: dict[str, Any] = {
    "for_each": {"prefect.resource.id"},
    "posture": Posture.Reactive,
    "threshold": 1,
    "within": timedelta(0),
}
OUTCOMES = ("promoted", "kept", "failed", CRASHED)


def trigger(outcome: str) -> EventTrigger:
    """Every event of that outcome, each by itself."""
    if outcome == CRASHED:
        return EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "retrain"},
            **EACH,
        )
    return EventTrigger(
        expect={f"codelutra.retraining.{outcome}"}, match={"prefect.resource.id": "codelutra.promoted.*"}, **EACH
    )


def message(outcome: str) -> tuple[str, str]:
    """Subject and body, as templates that the server fills in."""
    if outcome == CRASHED:
        said = "{{ flow_run.name }} ended early ({{ flow_run.state.message }})"
        return "codelutra: {{ flow_run.name }} crashed", said + LINK
    return f"codelutra: {{{{ event.resource.name }}}} {outcome}", "{{ event.payload.text }}" + LINK


def block(address: str) -> Any:
    """What sends to `address`. Raises ValueError where Apprise doesn't know such an address."""
    if address.startswith(("http://", "https://")) and not address.startswith("https://hooks.slack"):
        return CustomWebhookNotificationBlock(
            name=NAME,
            url="{{address}}",
            json_data={"subject": "{{subject}}", "text": "{{body}}"},
            secrets={"address": address},
        )
    if not Apprise().add(address):
        raise ValueError("it is neither http(s):// nor an address of Apprise")
    return SlackWebhook(url=address)  # gives what is no address of Slack to Apprise as it is


def set_up(addresses: list[str], outcomes: list[str]) -> None:
    blocks = [block(address) for address in addresses]
    remove()
    for i, sender in enumerate(blocks, 1):
        sent_by = sender.save(f"{NAME}-{i}", overwrite=True)
        for outcome in outcomes:
            subject, body = message(outcome)
            action = SendNotification(block_document_id=sent_by, subject=subject, body=body)
            Automation(name=f"{NAME}-{i}-{outcome}", trigger=trigger(outcome), actions=[action]).create()


def remove() -> None:
    """Whatever an earlier call has set up."""
    with get_client(sync_client=True) as client:
        for automation in client.read_automations():
            if automation.name.startswith(f"{NAME}-"):
                client.delete_automation(automation.id)
        for document in client.read_block_documents(limit=200):
            if (document.name or "").startswith(f"{NAME}-"):
                client.delete_block_document(document.id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", action="append", default=[], metavar="ADDRESS", help="where to send; - reads from stdin")
    parser.add_argument("--on", default=",".join(OUTCOMES), help="which outcomes, of %(default)s")
    parser.add_argument("--remove", action="store_true", help="send nothing any more")
    asked = parser.parse_args()
    addresses = [a for to in asked.to for a in (sys.stdin.read().split() if to == "-" else [to])]
    outcomes = asked.on.split(",")
    if unknown := sorted({*outcomes} - {*OUTCOMES}):
        parser.error(f"--on {asked.on}: unknown {', '.join(unknown)}; known: {', '.join(OUTCOMES)}")
    if bool(addresses) == asked.remove:
        parser.error("give --to ADDRESS, or --remove")
    if not get_current_settings().api.url:
        parser.error("PREFECT_API_URL is not set: set -a; . ~/.config/codelutra/prefect.env; set +a")
    try:
        require_server()
        for n, address in enumerate(addresses, 1):
            try:
                block(address)
            except (ValueError, TypeError) as e:
                parser.error(f"address {n} cannot be used: {e}")  # it may hold a password, so it is not shown
        if asked.remove:
            remove()
        else:
            set_up(addresses, outcomes)
    except UserError as e:
        parser.error(str(e))
    print("removed" if asked.remove else f"{len(addresses)} address(es) will hear of: {', '.join(outcomes)}")


if __name__ == "__main__":
    main()
