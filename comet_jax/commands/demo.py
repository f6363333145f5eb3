"""``comet-jax demo``: a language model continues a prompt that nobody but the client sees, in five processes."""

from typing import Literal

from rich.console import Console

from comet_jax.commands import jobs, local
from comet_jax.commands.jobs import Job
from comet_jax.commands.roles import PROMPT


def demo(prompt: str = PROMPT, *, runs: int = 24, tokens: int = 64, ring: Literal[32, 64] = 32) -> None:
    """Continue a prompt privately, with all roles as processes of this machine, and compare with the clear.

    Args:
        prompt: text that the client keeps secret.
        runs: bytes to write.
        tokens: positions of the model's window.
        ring: bits of the ring.
    """
    job = Job(runs=runs, tokens=tokens, ring=ring)
    jobs.check_prompt(prompt, job)
    console = Console()
    console.print(
        "A byte-level language model continues a secret prompt with secret weights, on two parties that see random "
        "shares only.\nProcesses: dealer, party 0, party 1, the model's owner, and the client, whose output this is."
    )
    with local.started(job, ("--prompt", prompt), show_client=True) as roles:
        roles.wait()
        dealer, parties = roles.report("dealer"), [roles.report(f"party{i}") for i in (0, 1)]
    online = max(_median(p, "online") for p in parties)
    console.print(
        f"Of that time the parties computed and exchanged openings for {online:.2f} s; the dealer's work for one byte, "
        f"done ahead of time, took {_median(dealer, 'deal'):.2f} s."
    )


def _median(report: dict, name: str) -> float:
    seconds = sorted(run["seconds"][name] for run in report["runs"])
    return seconds[len(seconds) // 2]
