"""What `segkit serve` does with its flags."""

import argparse

from segkit.serve.server import default_state, run
from segkit.serve.settings import Settings, read_token


def serve(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    state = None if args.no_state else args.state_dir or default_state(args.port)
    settings = Settings(
        host=args.host,
        port=args.port,
        token=read_token(args.token_file),
        allow_hosts=tuple(name.lower() for name in args.allow_host),
        allow_origins=tuple(args.allow_origin),
        state=state,
        max_leases=args.max_sessions,
        idle_s=args.idle_seconds,
        keep_s=args.keep_hours * 3600,
        learning=not args.no_learning,
    )
    run(args.models, settings, device=args.device)
    return 0
