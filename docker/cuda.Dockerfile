# From the root of the checkout, for machines with NVIDIA GPUs and their container toolkit;
# docs/docker.md says how the image is used:
#   docker build -f docker/cuda.Dockerfile -t sae-dist:cuda .
FROM python:3.12.12-slim-bookworm AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt pyproject.toml ./
RUN pip install -c constraints.txt hatchling && mkdir /dist \
    && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extras = project['optional-dependencies']; \
        print(*project['dependencies'], *extras['gpu'], *extras['deepspeed'], sep='\n')" > /dist/requirements.txt
COPY LICENSE README.md ./
COPY conf conf
COPY launch launch
COPY sae_dist sae_dist
RUN python -m hatchling build -t wheel -d /dist

# The devel image has the compilers that Triton and DeepSpeed call; torch brings its own CUDA libraries.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04
LABEL org.opencontainers.image.title="sae_dist" \
      org.opencontainers.image.description="Harvest, train and measure sparse coders, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /opt/

# One layer each for torch, the other packages and sae_dist, by how often they change. The default
# build of the pinned torch for Linux is its CUDA build.
RUN python3 -m venv /opt/venv && pip install -c /opt/constraints.txt torch
COPY --from=wheel /dist/requirements.txt /opt/
RUN pip install -c /opt/constraints.txt -r /opt/requirements.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --no-deps /dist/*.whl

COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/
RUN usermod --login coder --home /data --move-home ubuntu
# Also for those who run it as themselves (--user): their caches then lie in what is mounted there.
ENV HOME=/data USER=coder
WORKDIR /data
USER 1000
ENTRYPOINT ["entrypoint.sh"]
CMD ["--help"]
