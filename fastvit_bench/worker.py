"""The program of a worker process: ``python -m fastvit_bench.worker``, in this environment or another one."""

from fastvit_bench.measuring.worker import main

if __name__ == "__main__":
    main()
