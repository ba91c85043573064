# From the root of the checkout; docs/docker.md says how the image is used:
#   docker build -f docker/cpu.Dockerfile -t sae-dist:cpu .
FROM python:3.12.12-slim-bookworm AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt pyproject.toml ./
RUN pip install -c constraints.txt hatchling && mkdir /dist \
    && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*project['dependencies'], sep='\n')" > /dist/requirements.txt
COPY LICENSE README.md ./
COPY conf conf
COPY launch launch
COPY sae_dist sae_dist
RUN python -m hatchling build -t wheel -d /dist

# No compiler: Triton, which needs one, is for GPUs.
FROM python:3.12.12-slim-bookworm
LABEL org.opencontainers.image.title="sae_dist" \
      org.opencontainers.image.description="Harvest, train and measure sparse coders, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
COPY constraints.txt /opt/

# One layer each for torch, the other packages and sae_dist, by how often they change. The index of
# CPU builds has not all the versions of what torch needs: these come with the other packages.
RUN python -m venv /opt/venv && pip install --no-deps -c /opt/constraints.txt \
    --index-url https://download.pytorch.org/whl/cpu torch
COPY --from=wheel /dist/requirements.txt /opt/
RUN pip install -c /opt/constraints.txt -r /opt/requirements.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --no-deps /dist/*.whl

COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/
RUN useradd --uid 1000 --create-home --home-dir /data coder
# Also for those who run it as themselves (--user): their caches then lie in what is mounted there.
ENV HOME=/data USER=coder
WORKDIR /data
USER 1000
ENTRYPOINT ["entrypoint.sh"]
CMD ["--help"]
