# From the root of the checkout, for machines with NVIDIA GPUs and their container toolkit:
#   docker build -f docker/cuda.Dockerfile -t sae-dist:cuda .
#   docker run --rm --gpus all --ipc=host -v "$PWD/runs:/app/runs" sae-dist:cuda \
#       torchrun --nproc-per-node gpu launch/train.py store=PATH run=NAME
# The devel image has the compilers that Triton and DeepSpeed call; torch brings its own CUDA libraries.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN usermod --login coder --home /home/coder --move-home ubuntu \
    && install --directory --owner=coder /opt/venv /app
USER 1000
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /app

# The default build of the pinned torch for Linux is its CUDA build; it gets a layer of its own.
COPY --chown=coder constraints.txt ./
RUN python3 -m venv /opt/venv && pip install -c constraints.txt torch

COPY --chown=coder . .
RUN pip install -c constraints.txt -e '.[dev,gpu,deepspeed]'

CMD ["bash"]
