"""Speed and zero-shot tables; each module is one command, its output lies in results/."""
