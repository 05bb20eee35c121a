# fastvit-bench on a processor.
#
#   docker build -t fastvit-bench .
#   docker run --rm --init -v "$PWD:/work" fastvit-bench latency --device cpu --res 224..1024
#
# A container is timed as any process is: give it whole cores (--cpuset-cpus), for a CPU quota makes runs wait.
FROM python:3.12-slim AS build
# the builds of torch without CUDA; empty takes those of the package index
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY pyproject.toml README.md LICENSE benchmark.toml ./
COPY results/published results/published
COPY results/cpu-reference results/cpu-reference
COPY fastvit_bench fastvit_bench
RUN python -m venv /opt/fastvit-bench \
    && /opt/fastvit-bench/bin/pip install --no-cache-dir '.[compress,zoo]'

FROM python:3.12-slim
# for the commit of a figure, and for `gate --baseline-rev`
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/fastvit-bench /opt/fastvit-bench
RUN useradd --create-home bench \
    && install --directory --owner bench --group bench /work
USER bench
WORKDIR /work
ENTRYPOINT ["/opt/fastvit-bench/bin/fastvit-bench"]
CMD ["--help"]
