"""The subcommands of ``comet-jax``, one a file; what they share is in network.py, jobs.py and local.py."""
