"""``python -m fastvit_bench.cli``: the program without its console script, as another Python runs it."""

from fastvit_bench.cli import main

main()
