"""The command ``comet-jax``."""

import sys
from collections.abc import Sequence

import tyro

from comet_jax.commands.bench import bench
from comet_jax.commands.demo import demo
from comet_jax.commands.explain import explain
from comet_jax.commands.network import keys
from comet_jax.commands.roles import client, dealer, model, party
from comet_jax.errors import CometError

COMMANDS = {
    "demo": demo,
    "explain": explain,
    "bench": bench,
    "keys": keys,
    "dealer": dealer,
    "party": party,
    "model": model,
    "client": client,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, by default this process's; errors that the user can mend come without a traceback."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="comet-jax",
            description="Private inference of Flax models between two parties.",
            args=args,
        )
    except CometError as error:
        print(f"comet-jax: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
