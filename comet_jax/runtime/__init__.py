"""Running programs: sessions, links between processes, liveness."""
