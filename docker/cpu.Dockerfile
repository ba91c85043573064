# From the root of the checkout:
#   docker build -f docker/cpu.Dockerfile -t sae-dist:cpu .
#   docker run --rm -v "$PWD/runs:/app/runs" sae-dist:cpu launch/quickstart.sh
FROM python:3.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 coder && install --directory --owner=coder /opt/venv /app
USER 1000
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /app

# The CPU build of the pinned torch; it changes least often, so it gets a layer of its own.
COPY --chown=coder constraints.txt ./
RUN python -m venv /opt/venv \
    && pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch

COPY --chown=coder . .
RUN pip install -c constraints.txt -e '.[dev,deepspeed]'

CMD ["bash"]
