"""Entry point of ``python -m fastvit_bench``: the program without its console script."""

from fastvit_bench.cli import main

main()
