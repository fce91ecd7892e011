"""``warren health``: ask a service how it is; also the health check of its container."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import click

_SECONDS = 5.0
_MAX_BYTES = 64 * 1024


@click.command()
@click.option("--url", default="http://127.0.0.1:9464", show_default=True, help="Address of the service.")
@click.option("--ready", is_flag=True, help="Ask whether it can work now, not only whether it is alive.")
@click.option("--json", "as_json", is_flag=True, help="Print the service's answer as it is.")
@click.pass_context
def health(context: click.Context, url: str, ready: bool, as_json: bool) -> None:
    """Ask a scheduler or a worker how it is. Exit code 0: well, 1: not, or no answer."""
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("has to begin with http:// or https://", param_hint="--url")
    path = "/readyz" if ready else "/healthz"
    good, answer = _ask(url.rstrip("/") + path)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{'ok' if good else 'not ok'}: {_describe(answer)}")
    context.exit(0 if good else 1)


def _ask(url: str) -> tuple[bool, dict[str, Any]]:
    # Without a proxy: the environment's would be asked even for 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_SECONDS) as response:
            return True, _decode(response.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            return False, _decode(error.read(_MAX_BYTES))
    except (urllib.error.URLError, OSError, ValueError) as error:
        return False, {"error": f"{url}: {getattr(error, 'reason', error)}"}


def _decode(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"error": "the answer is not that of a Warren service"}


def _describe(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return str(answer["error"])
    if "checks" in answer:
        return ", ".join(f"{name}: {outcome}" for name, outcome in answer["checks"].items()) or "no checks"
    return f"the event loop ticked {answer.get('loop_silent_seconds')} s ago"
