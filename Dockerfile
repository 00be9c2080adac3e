# codelutra itself: what work pools (deploy/docker-pool.json, deploy/kubernetes-pool.json) and compose.yaml run.
#
#   docker build -t codelutra .                                     CPU
#   docker build -t codelutra:gpu --build-arg PACKAGES=gpu .        NVIDIA GPUs; the host needs NVIDIA's container toolkit
#
# Without a registry, on the base image that `python -m sandbox.image` makes:
#
#   docker build -t codelutra --build-arg BASE=codelutra/base:bookworm-1 .
#
# Its sandbox needs a Docker daemon, which it does not bring: docs/scaling.md says which, and what that means for safety.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ARG PACKAGES=cpu
# A mirror of PyPI, or more wheels; without them pip's own default holds.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS

# vLLM links libnuma. On a GPU, Triton compiles with gcc and Python's headers, which Debian's own Python keeps apart.
RUN apt-get update \
    && gpu=$([ "$PACKAGES" != gpu ] || echo gcc g++ libc6-dev $([ -e /usr/local/bin/python3.11 ] || echo python3-dev)) \
    && apt-get install -y --no-install-recommends ca-certificates libnuma1 $gpu \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/codelutra
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY scripts/setup.sh scripts/
COPY codelutra/__init__.py codelutra/
# One layer: what is removed at its end takes no room. The locks hold the tools of development, too.
RUN PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 CODELUTRA_PACKAGES=$PACKAGES scripts/setup.sh python cluster \
    && .venv/bin/uv pip uninstall --quiet --python .venv/bin/python \
        flask flask-cors hypothesis moto mypy pytest pytest-timeout pytest-xdist ruff types-docker types-pyyaml \
    && rm -rf .setup /var/lib/apt/lists/*
COPY . .

# One folder to mount, for all that is kept: runs and store, models and caches, data sets, Prefect's records of cached tasks.
ENV PATH=/opt/codelutra/.venv/bin:$PATH \
    CODELUTRA_HOME=/srv/codelutra/home \
    CODELUTRA_CACHE=/srv/codelutra/cache \
    CODELUTRA_DATA=/srv/codelutra/data \
    HF_HOME=/srv/codelutra/cache/huggingface \
    XDG_CACHE_HOME=/srv/codelutra/cache \
    PREFECT_HOME=/srv/codelutra/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 1000 --create-home --shell /bin/bash codelutra \
    && mkdir -p /srv/codelutra/home /srv/codelutra/cache /srv/codelutra/data /srv/codelutra/prefect \
    && chown -R codelutra /srv/codelutra
USER codelutra
CMD ["codelutra", "--help"]
