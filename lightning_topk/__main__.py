"""``python -m lightning_topk``: the command ``lightning-topk``."""

from lightning_topk.cli import main

if __name__ == "__main__":
    main()
